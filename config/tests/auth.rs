//! Who a credential makes a caller.

use jetway_config::{ApiKey, AuthError, Config, IdError, Sources};

struct Gate {
    config: Config,
    key: String,
}

/// A key of acme's, two tokens that are pinned to users, and `extra`.
fn gate(extra: &str) -> Gate {
    let key = ApiKey::generate();
    let mut toml = format!("{extra}\n{}", key.entry("acme".parse().unwrap()).to_toml());
    for (id, token, user) in [("pin1", "s3cret", "ada"), ("pin2", "odd:bob", "bob")] {
        let sha256 = jetway_config::KeyHash::of(token).to_hex();
        toml +=
            &format!("[[auth.keys]]\nid = '{id}'\ntenant = 'acme'\nsha256 = '{sha256}'\nuser = '{user}'\n");
    }
    let config = Config::load(&Sources::fixed(&toml, &[])).unwrap_or_else(|e| panic!("{e}"));
    Gate { config, key: key.expose().to_owned() }
}

impl Gate {
    /// `tenant/user`, or why not. `KEY` in the credential stands for the key.
    fn ask(&self, credential: &str, header: &str) -> Result<String, AuthError> {
        let credential = credential.replace("KEY", &self.key);
        self.config.auth.authenticate(Some(&credential), Some(header)).map(|(who, _)| who.to_string())
    }

    fn is(&self, credential: &str, header: &str, expected: &str) {
        assert_eq!(self.ask(credential, header).as_deref(), Ok(expected), "{credential} {header}");
    }

    fn refuses(&self, credential: &str, header: &str, expected: AuthError) {
        assert_eq!(self.ask(credential, header), Err(expected), "{credential} {header}");
    }
}

#[test]
fn a_key_acts_for_any_user_of_its_tenant_and_else_for_its_own() {
    let gate = gate("");
    let (id, _) = ApiKey::parse(&gate.key).unwrap();
    gate.is("KEY", "", &format!("acme/{id}"));
    gate.is("KEY:ada", "", "acme/ada");
    gate.is("KEY", "ada@example.com", "acme/ada@example.com");
    gate.is("KEY:ada", "ada", "acme/ada");
    gate.refuses("KEY:ada", "bob", AuthError::WrongUser);
    gate.refuses("KEY:", "", AuthError::BadUser(IdError::Empty));
    gate.refuses("KEY:../x", "", AuthError::BadUser("../x".parse::<jetway_config::UserId>().unwrap_err()));
    gate.refuses("KEYx:ada", "", AuthError::Invalid);
    gate.refuses("KEY:a:b", "", AuthError::Invalid);
}

#[test]
fn a_pinned_token_of_any_form_acts_for_its_user_alone() {
    let gate = gate("");
    gate.is("s3cret", "", "acme/ada");
    gate.is("s3cret", "ada", "acme/ada");
    gate.is("s3cret:ada", "", "acme/ada");
    gate.is("odd:bob", "", "acme/bob");
    gate.is("odd:bob:bob", "", "acme/bob");
    gate.refuses("s3cret:bob", "", AuthError::WrongUser);
    gate.refuses("s3cret", "bob", AuthError::WrongUser);
    gate.refuses("odd", "", AuthError::Invalid);
}

#[test]
fn without_anonymous_callers_a_credential_is_needed() {
    let gate = gate("");
    assert!(!gate.config.auth.anonymous);
    gate.refuses("", "", AuthError::Missing);
    gate.refuses("", "ada", AuthError::Missing);
    gate.refuses("ada", "", AuthError::Invalid);
    assert_eq!(gate.config.auth.authenticate(None, None), Err(AuthError::Missing));
}

#[test]
fn anonymous_callers_say_who_they_are() {
    let gate = gate("auth.anonymous = true");
    gate.is("", "", "local/local");
    gate.is("", "ada", "local/ada");
    gate.is("ada", "", "local/ada");
    gate.is("ada", "ada", "local/ada");
    gate.refuses("ada", "bob", AuthError::WrongUser);
    gate.refuses("a b", "", AuthError::BadUser("a b".parse::<jetway_config::UserId>().unwrap_err()));
    gate.is("s3cret", "", "acme/ada");
}

#[test]
fn a_secret_that_is_not_valid_does_not_become_a_name() {
    let gate = gate("auth.anonymous = true");
    let other = ApiKey::generate();
    gate.refuses(other.expose(), "", AuthError::Invalid);
    gate.refuses(&format!("{}:ada", other.expose()), "", AuthError::Invalid);
    gate.refuses("eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZGEifQ.", "", AuthError::Invalid);
}

#[test]
fn anonymous_callers_come_from_this_machine() {
    // Whatever the listener, operators have their token.
    let load = |toml: &str| {
        let toml = format!("admin.token_env = 'OPS'\n{toml}");
        let sources = Sources::fixed(&toml, &[("OPS", "0123456789abcdef")]);
        Config::load(&sources).map(|config| config.auth.anonymous)
    };
    let key = ApiKey::generate().entry("acme".parse().unwrap()).to_toml();
    for listener in ["sdk", "http", "admin"] {
        for address in ["0.0.0.0:1", "10.0.0.1:1", "[::]:1", "[::ffff:10.0.0.1]:1"] {
            let listen = format!("listen.{listener} = '{address}'");
            assert!(load(&listen).is_err(), "{listen}");
            assert!(load(&format!("{listen}\nauth.anonymous = true\n{key}")).is_err(), "{listen}");
            assert_eq!(load(&format!("{listen}\n{key}")), Ok(false), "{listen}");
        }
    }
    assert_eq!(
        load("listen = { sdk = '127.9.9.9:1', http = '[::1]:1', admin = '[::ffff:127.0.0.1]:1' }"),
        Ok(true)
    );
}
