//! The command line: what it prints, where, and with which exit status.

mod common;

use std::{net::TcpListener, path::Path, process::Output};

use common::{
    client::Client,
    program::{Program, command},
    stub,
};
use serde_json::{Value, json};

/// Runs it to its end.
fn run(args: &[&str], env: &[(&str, &str)]) -> Output {
    command().args(args).envs(env.iter().copied()).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// A configuration file in a directory of its own.
fn file(toml: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jetway.toml");
    std::fs::write(&path, toml).unwrap();
    let path = path.display().to_string();
    (dir, path)
}

const WRONG: &str = "
[pool]
mood = \"fleet\"
mode = \"fleet\"
[drain]
timeout = \"soon\"
[limits]
max_frame = 7
";

#[test]
fn check_prints_what_is_in_effect() {
    let out = run(&["check"], &[]);
    assert_eq!(out.status.code(), Some(0));
    let effective: toml::Table = text(&out.stdout).parse().unwrap();
    assert_eq!(effective["listen"]["sdk"].as_str(), Some("127.0.0.1:4321"));
    assert_eq!(effective["pool"]["mode"].as_str(), Some("per-user"));
    // What is printed is itself a configuration, and the same one.
    let (_dir, path) = file(text(&out.stdout));
    let again = run(&["check", "--config", &path], &[]);
    assert_eq!(text(&again.stdout), text(&out.stdout), "{}", text(&again.stderr));

    let out = run(&["check", "--json"], &[("JETWAY__DRAIN__TIMEOUT", "7s")]);
    let effective: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(effective["drain"]["timeout"], "7s");
}

#[test]
fn check_tells_every_error_at_once() {
    let (_dir, path) = file(WRONG);
    let out = run(&["check", "--config", &path], &[("JETWAY__LOCKS__TTL", "never")]);
    assert_eq!((out.status.code(), text(&out.stdout)), (Some(78), ""));
    let errors = text(&out.stderr);
    for part in [
        "pool.mood",
        "mode",
        "drain.timeout",
        "soon",
        "limits.max_frame",
        "locks.ttl",
        "JETWAY__LOCKS__TTL",
        "pool.fleet",
    ] {
        assert!(errors.contains(part), "{part} is missing from\n{errors}");
    }
    assert!(errors.lines().all(|line| line.contains(';')), "each has a remedy:\n{errors}");

    let out = run(&["check", "--json", "--config", &path], &[]);
    assert_eq!(out.status.code(), Some(78));
    let list: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(list["errors"].as_array().unwrap().len(), 4, "{list}");
}

#[test]
fn secrets_are_not_printed() {
    let hash = "ab".repeat(32);
    let toml = format!(
        "[[auth.keys]]\nid = \"k\"\ntenant = \"t\"\nsha256 = \"{hash}\"\n[pool]\nmode = \"fleet\"\n[[pool.fleet]]\naddress = \"a:1\"\ntoken_env = \"CANARY\"\n"
    );
    let (_dir, path) = file(&toml);
    for args in [&["check", "--config", &path][..], &["check", "--json", "--config", &path]] {
        let out = run(args, &[("CANARY", "canary-value")]);
        assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
        let all = format!("{}{}", text(&out.stdout), text(&out.stderr));
        assert!(!all.contains("canary-value") && !all.contains(&hash), "{all}");
    }
    // A key in the place of its hash.
    let (_dir, path) = file("[[auth.keys]]\nid = \"k\"\ntenant = \"t\"\nsha256 = \"jw_canary_key\"\n");
    let out = run(&["check", "--config", &path], &[]);
    assert_eq!(out.status.code(), Some(78));
    assert!(!text(&out.stderr).contains("jw_canary"), "{}", text(&out.stderr));
}

#[test]
fn serve_refuses_a_bad_configuration() {
    let (dir, wrong) = file(WRONG);
    let missing = dir.path().join("missing.toml").display().to_string();
    let (_dir, open) = file("listen.sdk = \"0.0.0.0:0\"\nlisten.http = \"off\"\nlisten.admin = \"off\"\n");
    for (path, part) in [(&wrong, "drain.timeout"), (&missing, "cannot be read"), (&open, "auth.anonymous")] {
        for args in [&["serve", "--config", path][..], &["--config", path]] {
            let out = run(args, &[]);
            assert_eq!((out.status.code(), text(&out.stdout)), (Some(78), ""), "{}", text(&out.stderr));
            assert!(text(&out.stderr).contains(part), "{}", text(&out.stderr));
        }
    }
}

/// `toml` with every listener on a free port, and the file as argument.
fn unavailable(toml: &str, part: &str) {
    let (dir, path) = file(toml);
    let out = command().args(["serve", "--config", &path]).current_dir(&dir).output().unwrap();
    assert_eq!((out.status.code(), text(&out.stdout)), (Some(69), ""), "{}", text(&out.stderr));
    assert!(text(&out.stderr).contains(part), "{part} is missing from {}", text(&out.stderr));
}

#[test]
fn what_cannot_be_had_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    unavailable(
        &format!("listen = {{ sdk = \"{address}\", http = \"off\", admin = \"off\" }}"),
        &format!("listen.sdk = \\\"{address}\\\""),
    );
    unavailable(
        &format!("listen = {{ sdk = \"127.0.0.1:0\", http = \"off\", admin = \"{address}\" }}"),
        "listen.admin",
    );
    let nowhere = common::per_user(Path::new("/nonexistent/copilot"), Path::new("state"), "");
    unavailable(&nowhere, "/nonexistent/copilot");
}

#[tokio::test]
async fn one_state_directory_has_one_gateway() {
    let Some(runtime) = common::runtime("one_state_directory_has_one_gateway") else { return };
    let dir = tempfile::tempdir().unwrap();
    let toml = common::per_user(&runtime, &dir.path().join("state"), "");
    let _first = Program::start_in(dir, &toml);
    unavailable(&toml, "another Jetway is using it");
}

#[tokio::test]
async fn a_new_key_works() {
    let out = run(&["key", "new", "--tenant", "acme"], &[]);
    assert_eq!(out.status.code(), Some(0));
    let key = text(&out.stdout).trim();
    assert!(key.starts_with("jw_") && !key.contains(char::is_whitespace), "a script can take it: {key:?}");
    let said = text(&out.stderr);
    assert!(!said.contains(key.rsplit('_').next().unwrap()), "the secret is printed once");
    let entry = &said[said.find("[[auth.keys]]").unwrap()..];
    let entry = &entry[..entry.find("\n\n").unwrap()];

    let json = run(&["key", "new", "--tenant", "acme", "--json"], &[]);
    let other: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert!(other["key"].as_str().unwrap().starts_with("jw_"));
    assert_ne!(other["key"], key);
    let e = &other["entry"];
    let more =
        format!("\n[[auth.keys]]\nid = {}\ntenant = {}\nsha256 = {}\n", e["id"], e["tenant"], e["sha256"]);

    let stub = stub(1);
    let jetway = Program::start(&(common::fleet(stub.addrs(), "") + entry + &more));
    for key in [key, other["key"].as_str().unwrap()] {
        let mut client = Client::dial(jetway.sdk).await;
        client.call("connect", json!({ "token": format!("{key}:alice") })).await.unwrap();
        client.call("ping", json!({})).await.unwrap();
    }
    assert_eq!(Client::dial(jetway.sdk).await.call("connect", json!({})).await.unwrap_err()["code"], -32010);
}

#[test]
fn help_teaches() {
    for (args, parts) in [
        (&["--help"][..], &["serve", "check", "key", "--config", "JETWAY__POOL__MODE", "4321"][..]),
        (&["serve", "--help"], &["--config"]),
        (&["check", "--help"], &["--json", "78"]),
        (&["key", "--help"], &["new"]),
        (&["key", "new", "--help"], &["--tenant", "[[auth.keys]]"]),
        (&["--version"], &["jetway"]),
    ] {
        let out = run(args, &[]);
        assert_eq!(out.status.code(), Some(0), "{args:?}");
        for part in parts {
            assert!(text(&out.stdout).contains(part), "{args:?} does not say {part}");
        }
    }
    for args in [&["key", "new"][..], &["key", "new", "--tenant", "a/b"], &["nope"], &["serve", "--nope"]] {
        let out = run(args, &[]);
        assert_eq!((out.status.code(), text(&out.stdout)), (Some(2), ""), "{args:?}");
        assert!(!out.stderr.is_empty());
    }
}

/// The addresses are announced on standard output, and the log goes elsewhere.
#[tokio::test]
async fn serve_announces_its_ports() {
    let stub = stub(1);
    let off = common::fleet(stub.addrs(), "");
    let jetway = Program::start(&off);
    assert!(jetway.sdk.ip().is_loopback() && jetway.sdk.port() != 0 && jetway.admin != jetway.sdk);
    let log = jetway.log();
    assert!(
        log.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()),
        "JSON where nobody looks:\n{log}"
    );
}
