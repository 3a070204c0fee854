//! `jetway key new`.

use std::process::ExitCode;

use jetway_config::{ApiKey, TenantId};

pub(crate) fn new_key(tenant: TenantId, json: bool) -> ExitCode {
    let key = ApiKey::generate();
    let entry = key.entry(tenant);
    if json {
        let entry = serde_json::json!({
            "key": key.expose(),
            "entry": { "id": entry.id, "tenant": entry.tenant, "sha256": entry.sha256.to_hex() },
        });
        println!("{entry}");
    } else {
        println!("{}", key.expose());
        eprintln!("\nKeep it: it is shown this once. For the configuration file:\n");
        eprintln!("{}", entry.to_toml());
        eprintln!("SDKs present it as connection token, `<key>:<user>` to act for a user.");
    }
    ExitCode::SUCCESS
}
