#![no_main]
//! Whatever stands in a configuration file is taken or refused, with words.

use jetway_config::{Config, Sources};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Config::load(&Sources::fixed(text, &[])) {
        Ok(config) => assert!(!config.to_toml_redacted().is_empty()),
        Err(errors) => assert!(!errors.to_string().is_empty()),
    }
});
