//! Configurations that are loaded again: what takes effect, what does not, what is refused.

use jetway_config::{Config, Reloaded, Sources};

fn key(id: &str, digit: &str) -> String {
    format!("[[auth.keys]]\nid = '{id}'\ntenant = 'acme'\nsha256 = '{}'\n", digit.repeat(64))
}

fn sources(toml: &str) -> Sources {
    let env = [("TOKEN", "t"), ("OTHER", "u")];
    Sources::fixed(toml, &env).with_file("a.secret", "a").with_file("b.secret", "b")
}

fn again(old: &str, new: &str) -> Result<Reloaded, String> {
    let running = Config::load(&sources(old)).unwrap_or_else(|e| panic!("{e}"));
    running.load_again(&sources(new)).map_err(|e| e.to_string())
}

#[test]
fn what_changed_is_named_by_where_it_takes_effect() {
    let fleet = "pool.mode = 'fleet'\n[[pool.fleet]]\naddress = 'a:1'\ntoken_env = 'TOKEN'\n";
    let jwt = "issuer = 'i', audience = 'a', key_file = 'a.secret', algorithms = ['HS256']";
    let provider = "tenants.acme.provider = { base_url = 'https://a', api_key_file = 'a.secret' }\n";
    for (old, new, changed, restart) in [
        (key("a", "0"), key("a", "0"), "", ""),
        (key("a", "0"), key("b", "0"), "auth.keys", ""),
        // The hash is redacted wherever it is written.
        (key("a", "0"), key("a", "1"), "auth.keys", ""),
        (
            format!("auth.jwt = {{ {jwt} }}"),
            format!("auth.jwt = {{ {} }}", jwt.replace("a.s", "b.s")),
            "auth.jwt.key_file",
            "",
        ),
        (key("a", "0"), format!("auth.jwt = {{ {jwt} }}\n{}", key("a", "0")), "auth.jwt", ""),
        (
            provider.to_owned(),
            provider.replace("a.secret", "b.secret"),
            "tenants.acme.provider.api_key_file",
            "",
        ),
        (
            String::new(),
            "limits.max_in_flight = 7\ntenants.default.surface = 'shared'\ntenants.new.max_processes = 3"
                .into(),
            "limits.max_in_flight tenants.default.surface tenants.new",
            "",
        ),
        (
            String::new(),
            "drain.timeout = '1s'\nlimits.cli_start_attempts = 1".into(),
            "",
            "drain.timeout limits.cli_start_attempts",
        ),
        (fleet.to_owned(), fleet.replace("TOKEN", "OTHER"), "", "pool.fleet"),
        ("redis.url = 'redis://:a@h'".into(), "redis.url = 'redis://:b@h'".into(), "", "redis"),
    ] {
        let reloaded = again(&old, &new).unwrap_or_else(|e| panic!("{new}: {e}"));
        assert_eq!(
            (reloaded.changed.join(" "), reloaded.restart.join(" ")),
            (changed.into(), restart.into()),
            "{new}"
        );
        // What takes effect is in effect, and named no more; what does not still differs.
        let more = reloaded.config.load_again(&sources(&new)).unwrap();
        assert_eq!((more.changed, more.restart), (Vec::new(), reloaded.restart), "{new}");
    }
}

#[test]
fn what_takes_effect_is_the_new_and_the_rest_is_the_old() {
    let reloaded =
        again("", "limits.max_in_flight = 7\nlisten.sdk = '127.0.0.1:1'\npool.max_active_sessions = 3")
            .unwrap();
    let printed = reloaded.config.to_toml_redacted();
    assert!(printed.contains("max_in_flight = 7") && printed.contains("127.0.0.1:4321"), "{printed}");
    let (fixed, live) = reloaded.config.split();
    assert_eq!((live.limits.max_in_flight, fixed.pool.max_active_sessions), (7, 50));
    assert_eq!(fixed.listen.sdk.unwrap().port(), 4321);
}

#[test]
fn a_running_jetway_is_judged_as_it_runs() {
    // The new file says that listeners are on loopback, and they are not.
    let open = format!("listen.sdk = '0.0.0.0:1'\n{}", key("a", "0"));
    let error = again(&open, "").unwrap_err();
    assert!(error.contains("auth.anonymous") && error.contains("0.0.0.0:1"), "{error}");
    // Nor does it open what was closed.
    let error = again(&key("a", "0"), "").unwrap_err();
    assert!(error.contains("auth.anonymous") && error.contains("restart"), "{error}");
    assert!(again("", &key("a", "0")).is_ok());
    // "full" is for a fleet of one's own, and this is a fleet.
    let fleet = format!("pool.mode = 'fleet'\npool.fleet = [{{ address = 'a:1' }}]\n{}", key("a", "0"));
    let error = again(&fleet, &format!("tenants.default.surface = 'full'\n{}", key("a", "0"))).unwrap_err();
    assert!(error.contains("tenants.default.surface"), "{error}");
}

#[test]
fn a_change_of_any_file_is_seen() {
    let dir = std::env::temp_dir().join(format!("jetway-config-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let at = dir.display();
    let toml = format!(
        "auth.jwt = {{ issuer = 'i', audience = 'a', key_file = '{at}/b.secret', algorithms = ['HS256'] }}\n\
         listen.tls = {{ cert = '{at}/tls.crt', key = '{at}/tls.key' }}\n"
    );
    for (name, text) in
        [("jetway.toml", toml.as_str()), ("b.secret", "s"), ("tls.crt", "c"), ("tls.key", "k")]
    {
        std::fs::write(dir.join(name), text).unwrap();
    }
    let sources = Sources::system(Some(&dir.join("jetway.toml"))).again();
    Config::load(&sources).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(sources.loaded(), sources.now());
    for name in ["jetway.toml", "b.secret", "tls.crt", "tls.key"] {
        let old = std::fs::read(dir.join(name)).unwrap();
        std::fs::write(dir.join(name), "other").unwrap();
        assert_ne!(sources.loaded(), sources.now(), "{name} changed");
        std::fs::remove_file(dir.join(name)).unwrap();
        assert_ne!(sources.loaded(), sources.now(), "{name} is gone");
        std::fs::write(dir.join(name), old).unwrap();
        assert_eq!(sources.loaded(), sources.now(), "{name} is back");
    }
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_pipe_is_not_read_twice() {
    let pipe = Sources::system(Some(std::path::Path::new("/dev/null")));
    let running = Config::load(&pipe).unwrap();
    let error = running.load_again(&pipe.again()).unwrap_err().to_string();
    assert!(error.contains("/dev/null") && error.contains("not a regular file"), "{error}");
}
