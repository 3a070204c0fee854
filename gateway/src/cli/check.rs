//! `jetway check`.

use std::process::ExitCode;

use super::{EX_CONFIG, File};

pub(crate) fn check(file: File, json: bool) -> ExitCode {
    match (file.load(), json) {
        (Ok(config), false) => print!("{}", config.to_toml_redacted()),
        (Ok(config), true) => match config.to_toml_redacted().parse::<toml::Table>() {
            Ok(table) => println!("{}", serde_json::json!(table)),
            Err(error) => {
                eprintln!("{error}");
                return EX_CONFIG.into();
            }
        },
        (Err(errors), json) => {
            if json {
                let list: Vec<_> = errors.iter().map(ToString::to_string).collect();
                println!("{}", serde_json::json!({ "errors": list }));
            } else {
                eprint!("{errors}");
            }
            return EX_CONFIG.into();
        }
    }
    ExitCode::SUCCESS
}
