//! No input makes the loader panic, and whatever loads can be printed and loaded again.

use jetway_config::{Config, ConfigErrors, Sources};
use proptest::prelude::*;

/// Words that the loader knows, so that random files get past its first checks.
const WORDS: &[&str] = &[
    "listen",
    "sdk",
    "http",
    "tls",
    "auth",
    "keys",
    "id",
    "anonymous",
    "jwt",
    "tenants",
    "default",
    "acme",
    "provider",
    "policy",
    "allow_addresses",
    "allow_methods",
    "allow_paths",
    "surface",
    "pool",
    "mode",
    "process",
    "command",
    "memory_budget",
    "sandbox",
    "sandbox_min",
    "sandbox_paths",
    "upstream_proxy",
    "uids",
    "fleet",
    "address",
    "health",
    "interval",
    "timeout",
    "kubernetes",
    "locks",
    "ttl",
    "redis",
    "url",
    "limits",
    "max_frame",
    "x",
    "\"a b\"",
];

const VALUES: &[&str] = &[
    "1",
    "-1",
    "9223372036854775807",
    "1.5",
    "nan",
    "true",
    "''",
    "'off'",
    "'127.0.0.1:0'",
    "'0.0.0.0:1'",
    "'10s'",
    "'1GiB'",
    "'50%'",
    "'fleet'",
    "'full'",
    "'auto'",
    "[]",
    "{}",
    "['a']",
    "[[1], {}]",
    "{ a = 1 }",
    "[{ address = 'a:1' }]",
    "'redis://a'",
    "1979-05-27",
    "'\\u0000'",
    "\"\\u0000\\U0010FFFF\"",
    "'10.0.0.0/8'",
    "['10.0.0.0/8', '[::/0]:1']",
];

fn load(toml: &str, env: &[(String, String)]) -> Result<Config, ConfigErrors> {
    let env: Vec<_> = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    Config::load(&Sources::fixed(toml, &env))
}

fn check(toml: &str, env: &[(String, String)]) {
    match load(toml, env) {
        Ok(config) => {
            let printed = config.to_toml_redacted();
            let again = load(&printed, &[]).unwrap_or_else(|e| panic!("{toml}\nprinted:\n{printed}\n{e}"));
            assert_eq!(again.to_toml_redacted(), printed);
        }
        Err(errors) => {
            assert!(errors.iter().count() > 0);
            for line in errors.to_string().lines() {
                assert!(line.starts_with("error: ") && line.contains("; "), "{line}");
            }
        }
    }
}

fn path() -> impl Strategy<Value = Vec<&'static str>> {
    proptest::collection::vec(proptest::sample::select(WORDS), 1..5)
}

fn value() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(VALUES)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn any_text(toml in any::<String>(), name in any::<String>(), value in any::<String>()) {
        check(&toml, &[(format!("JETWAY__{name}"), value)]);
    }

    #[test]
    fn any_likely_file(lines in proptest::collection::vec((path(), value()), 0..8)) {
        let lines: Vec<_> = lines.iter().map(|(path, value)| format!("{} = {value}", path.join("."))).collect();
        check(&lines.join("\n"), &[]);
    }

    #[test]
    fn any_likely_environment(vars in proptest::collection::vec((path(), value()), 0..8)) {
        let vars: Vec<_> = vars
            .iter()
            .map(|(path, value)| (format!("JETWAY__{}", path.join("__").to_uppercase()), (*value).to_owned()))
            .collect();
        check("pool.fleet = [{ address = 'a:1' }]\ntenants.acme.max_processes = 1", &vars);
    }
}

#[test]
fn deep_and_long_input_is_refused() {
    let (dotted, nested) = ("a.".repeat(100_000) + "a = 1", "a = ".to_owned() + &"[".repeat(100_000));
    for toml in [dotted, nested, "x\n".repeat(100_000), "a".repeat(100_000) + " = 1"] {
        assert!(load(&toml, &[]).unwrap_err().iter().count() <= 100);
    }
    let deep = ("JETWAY__".to_owned() + &"A__".repeat(10_000), String::new());
    let list = ("JETWAY__POOL__FLEET".to_owned(), "[".repeat(100_000));
    assert_eq!(load("", &[deep, list]).unwrap_err().iter().count(), 2);
}
