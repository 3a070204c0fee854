use std::sync::Mutex;

use jetway_config::{Config, Sources};
use jetway_wire::catalogue;

use super::*;

struct Zone(&'static [(&'static str, &'static str)], Mutex<Vec<String>>);

impl Resolve for Zone {
    async fn resolve(&self, name: &str) -> Vec<IpAddr> {
        self.1.lock().unwrap().push(name.to_owned());
        let of_name = self.0.iter().filter(|(known, _)| *known == name);
        of_name.map(|(_, ip)| ip.parse().unwrap()).collect()
    }
}

const ZONE: &[(&str, &str)] = &[
    ("models.example", "1.1.1.1"),
    ("inside.example", "10.0.0.5"),
    ("both.example", "1.1.1.1"),
    ("both.example", "::ffff:169.254.169.254"),
];

/// Asks under `[tenants.acme]` with these keys: the refusal as the caller reads it, or nothing.
async fn ask(surface: Surface, section: &str, loopback: bool, method: &str, params: &str) -> String {
    let config = Config::load(&Sources::fixed(&format!("[tenants.acme]\n{section}"), &[])).unwrap();
    let tenant = "acme".parse().unwrap();
    let reach = Reach { surface, tenant: &tenant, rules: config.tenants.get(&tenant), loopback };
    let zone = Zone(ZONE, Mutex::default());
    let method = catalogue::lookup(method).unwrap();
    let outcome = check(method, Value::new(params.as_bytes()), &reach, &zone).await;
    outcome.map_or_else(|denied| denied.to_string(), |()| String::new())
}

async fn shared(section: &str, method: &str, params: &str) -> String {
    ask(Surface::Shared, section, false, method, params).await
}

async fn full(section: &str, method: &str, params: &str) -> String {
    ask(Surface::Full, section, false, method, params).await
}

#[tokio::test]
async fn methods_are_for_a_surface_and_for_whom_the_operator_names() {
    let allow = "(see tenants.acme.allow_methods)";
    let refused = format!("the method is not allowed {allow}");
    let shell = r#"{"sessionId":"a","command":"id"}"#;
    assert_eq!(shared("", "session.shell.exec", shell).await, refused);
    assert_eq!(full("", "session.shell.exec", shell).await, "");
    let given = "allow_methods = ['session.shell.*', 'llmInference.*']";
    // The method is given, and what it runs is a program.
    assert_eq!(
        shared(given, "session.shell.exec", shell).await,
        "command: programs are not run on servers with other users (see tenants.acme.surface)"
    );
    assert_eq!(shared(given, "session.shell.kill", "{}").await, "");
    // Whatever the operator says: it would give one user the others' traffic.
    assert_eq!(shared(given, "llmInference.setProvider", "{}").await, "the method is not allowed");
    assert_eq!(full("", "llmInference.setProvider", "{}").await, "");
    assert_eq!(
        full("deny_methods = ['ping']\nallow_methods = ['ping']", "ping", "{}").await,
        "the method is not allowed (see tenants.acme.deny_methods)"
    );
    for surface in [Surface::Full, Surface::Shared] {
        let all = "allow_methods = ['runtime.*']";
        assert_eq!(ask(surface, all, true, "runtime.shutdown", "{}").await, "the method is not allowed");
    }
}

/// Check 28, as far as what is known before the CLI connects.
#[tokio::test]
async fn machines_must_be_public() {
    let create =
        |url: &str| format!(r#"{{"sessionId":"a","provider":{{"type":"openai","baseUrl":"{url}"}}}}"#);
    let see = "(see tenants.acme.policy.allow_addresses)";
    let url =
        "provider.baseUrl: expected a URL of http or https in its plain spelling, without user or password";
    for surface in [Surface::Full, Surface::Shared] {
        let refused = |kind: &str| format!("provider.baseUrl: the machine has a {kind} address {see}");
        for (address, outcome) in [
            ("https://models.example/v1", String::new()),
            ("https://1.1.1.1", String::new()),
            ("http://127.0.0.1:11434/v1", refused("loopback")),
            ("http://localhost:11434", refused("loopback")),
            ("http://[::ffff:127.0.0.1]", refused("loopback")),
            ("http://inside.example", refused("private")),
            ("http://both.example", refused("metadata")),
            ("http://169.254.169.254/latest", refused("metadata")),
            ("http://metadata.google.internal", refused("metadata")),
            ("http://100.64.0.1", refused("carrier-grade NAT")),
            ("http://0.0.0.0", refused("unspecified")),
            ("http://nowhere.example", format!("provider.baseUrl: the name has no address {see}")),
            ("http://2130706433", url.to_owned()),
            ("http://u@127.0.0.1", url.to_owned()),
            ("file:///etc/passwd", url.to_owned()),
        ] {
            assert_eq!(
                ask(surface, "", false, "session.create", &create(address)).await,
                outcome,
                "{address}"
            );
        }
        // Where only this machine's users can call, local model servers are theirs.
        for local in ["http://127.0.0.1:11434", "http://[::1]:1", "http://localhost:11434"] {
            assert_eq!(ask(surface, "", true, "session.create", &create(local)).await, "");
        }
        assert_ne!(ask(surface, "", true, "session.create", &create("http://inside.example")).await, "");
        let allow = "policy.allow_addresses = ['10.0.0.0/8:80', 'nowhere.example', 'localhost:11434']";
        for allowed in
            ["http://inside.example", "http://10.1.1.1", "http://nowhere.example:9", "http://localhost:11434"]
        {
            assert_eq!(ask(surface, allow, false, "session.create", &create(allowed)).await, "", "{allowed}");
        }
        for still in
            ["http://inside.example:81", "http://both.example", "http://localhost", "http://127.0.0.1:11434"]
        {
            assert_ne!(ask(surface, allow, false, "session.create", &create(still)).await, "", "{still}");
        }
    }
    for (method, params, at) in [
        (
            "session.create",
            r#"{"sessionId":"a","providers":[{},{"baseUrl":"http://10.0.0.1"}]}"#,
            "providers[1].baseUrl",
        ),
        (
            "session.resume",
            r#"{"sessionId":"a","mcpServers":{"m":{"type":"http","url":"http://10.0.0.1"}}}"#,
            "mcpServers.m.url",
        ),
        (
            "session.create",
            r#"{"customAgents":[{"mcpServers":{"m":{"url":"http://10.0.0.1"}}}]}"#,
            "customAgents[0].mcpServers.m.url",
        ),
        (
            "session.provider.add",
            r#"{"sessionId":"a","providers":[{"baseUrl":"http://10.0.0.1"}]}"#,
            "providers[0].baseUrl",
        ),
        (
            "session.options.update",
            r#"{"sessionId":"a","provider":{"base\u0055rl":"http://10.0.0.1"}}"#,
            "provider.baseUrl",
        ),
        ("session.options.update", r#"{"sessionId":"a","copilotUrl":"http://10.0.0.1"}"#, "copilotUrl"),
    ] {
        let refused = format!("{at}: the machine has a private address {see}");
        assert_eq!(shared("", method, params).await, refused, "{method}");
        assert_eq!(full("", method, params).await, refused, "{method}");
    }
}

/// Check 29, and what else a caller could make a server run or read.
#[tokio::test]
async fn shared_servers_keep_to_their_sessions() {
    let see_surface = "(see tenants.acme.surface)";
    let command = format!("programs are not run on servers with other users {see_surface}");
    let no = format!("not on servers with other users {see_surface}");
    let path =
        "the path is outside the tenant's directories (see tenants.acme.policy.allow_paths)".to_owned();
    let own = "policy.allow_paths = ['/srv/acme']";
    for (params, at, why) in [
        (r#"{"mcpServers":{"m":{"type":"stdio","command":"sh"}}}"#, "mcpServers.m.command", &command),
        (r#"{"mcpServers":{"m":{"url":"https://1.1.1.1","env":{"A":"b"}}}}"#, "mcpServers.m.env", &command),
        (r#"{"provider":{"apiKeyCommand":"id"}}"#, "provider.apiKeyCommand", &command),
        (r#"{"workingDirectory":"/etc"}"#, "workingDirectory", &path),
        (r#"{"workingDirectory":"/srv/acme/../other"}"#, "workingDirectory", &path),
        (r#"{"workingDirectory":"relative"}"#, "workingDirectory", &path),
        (r#"{"workingDirectory":7}"#, "workingDirectory", &path),
        (r#"{"skillDirectories":["/srv/acme/s","/srv/acme2"]}"#, "skillDirectories[1]", &path),
        (r#"{"largeOutput":{"outputDir":"/tmp"}}"#, "largeOutput.outputDir", &path),
        (r#"{"configDir":"/srv/acme"}"#, "configDir", &no),
        (r#"{"pluginDirectories":["/srv/acme/p"]}"#, "pluginDirectories[0]", &no),
        (r#"{"extensionSdkPath":"/x"}"#, "extensionSdkPath", &no),
        (r#"{"requestExtensions":true}"#, "requestExtensions", &no),
        (r#"{"enableSessionStore":true}"#, "enableSessionStore", &no),
        (r#"{"enableSessionStore":null}"#, "enableSessionStore", &no),
        (r#"{"envValueMode":"indirect"}"#, "envValueMode", &no),
        (r#"{"mcpOAuthTokenStorage":"persistent"}"#, "mcpOAuthTokenStorage", &no),
        (r#"{"remoteSession":"on"}"#, "remoteSession", &no),
        (r#"{"requestedEnvironmentVariables":["AWS_KEY"]}"#, "requestedEnvironmentVariables", &no),
        (r#"{"newInTheNextVersion":1}"#, "newInTheNextVersion", &no),
    ] {
        for method in ["session.create", "session.resume"] {
            assert_eq!(shared(own, method, params).await, format!("{at}: {why}"), "{params}");
            if !params.contains("https") {
                assert_eq!(full("", method, params).await, "", "{params}");
            }
        }
    }
    for good in [
        r#"{"workingDirectory":"/srv/acme/repo","skillDirectories":["/srv/acme"],"memory":{ "enabled" : false },"remoteSession":"off"}"#,
        r#"{"requestExtensions":false,"configDir":null,"gitHubToken":"t","hooks":true,"tools":[{"name":"x","parameters":{"url":"http://10.0.0.1"}}]}"#,
    ] {
        assert_eq!(shared(own, "session.create", good).await, "");
    }
    let send = r#"{"sessionId":"a","prompt":"x","attachments":[{"type":"file","path":"/etc/passwd"}]}"#;
    assert_eq!(shared("", "session.send", send).await, format!("attachments[0].path: {path}"));
    let read = |path: &str| format!(r#"{{"sessionId":"a","path":"{path}"}}"#);
    for outside in ["/etc/passwd", "../x", "a/../../b", "..", "a\\\\..\\\\b", "C:x", "~/x"] {
        let refused = "path: the path leaves the session's directory";
        assert_eq!(shared("", "session.workspaces.readFile", &read(outside)).await, refused, "{outside}");
    }
    assert_eq!(shared("", "session.workspaces.readFile", &read("a/b.txt")).await, "");
}

#[tokio::test]
async fn tools_that_reach_the_host_are_the_operators_to_give() {
    let bash = r#"{"availableTools":["builtin:bash"]}"#;
    assert!(shared("", "session.create", bash).await.ends_with("(see tenants.acme.policy.host_tools)"));
    assert!(
        shared("", "session.options.update", bash).await.ends_with("(see tenants.acme.policy.host_tools)")
    );
    assert_eq!(shared("policy.host_tools = true", "session.create", bash).await, "");
    let named = r#"{"tools":[{"name":"deploy"},{"name":"b\u0061sh","overridesBuiltInTool":true}]}"#;
    for method in ["session.create", "session.resume", "session.tools.set"] {
        let refused = shared("", method, named).await;
        assert!(refused.starts_with("tools[1].name: one of the CLI's own tools has that name"), "{refused}");
        assert_eq!(shared("policy.host_tools = true", method, named).await, "");
        assert_eq!(full("", method, named).await, "");
        assert_eq!(shared("", method, r#"{"tools":[{"name":"Bash"},{"name":"ask_user"}]}"#).await, "");
    }
    assert_eq!(full("", "session.create", bash).await, "");
    let reach = |surface, section: &str, params: &str| {
        let config = Config::load(&Sources::fixed(&format!("[tenants.acme]\n{section}"), &[])).unwrap();
        let tenant = "acme".parse().unwrap();
        let reach = Reach { surface, tenant: &tenant, rules: config.tenants.get(&tenant), loopback: false };
        let create = catalogue::lookup("session.create").unwrap();
        let imposed = imposed(create, Value::new(params.as_bytes()), &reach);
        // What is imposed is allowed.
        let members: Vec<_> = imposed.iter().map(|(name, json)| format!("{name:?}:{json}")).collect();
        let params = format!("{{{}}}", members.join(","));
        assert_eq!(judge(create, Value::new(params.as_bytes()), &reach, &Names::default()), Ok(()));
        imposed.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
    };
    assert!(reach(Surface::Full, "", "{}").is_empty());
    let names = reach(Surface::Shared, "", r#"{"enableSessionStore":false}"#);
    assert!(names.contains(&"availableTools") && names.contains(&"skipEmbeddingRetrieval"));
    assert!(!names.contains(&"enableSessionStore"));
    assert!(!reach(Surface::Shared, "policy.host_tools = true", "{}").contains(&"availableTools"));
}

#[tokio::test]
async fn headers_are_of_the_request_alone() {
    let create = |headers: &str| {
        format!(r#"{{"sessionId":"a","provider":{{"baseUrl":"https://1.1.1.1","headers":{headers}}}}}"#)
    };
    for good in [r#"{"Authorization":"Bearer x","x-a":"é\t"}"#, "{}", "null"] {
        assert_eq!(full("", "session.create", &create(good)).await, "", "{good}");
    }
    for bad in [
        r#"{"Host":"metadata"}"#,
        r#"{"hOsT":"x"}"#,
        r#"{"a":"b\r\nc: d"}"#,
        r#"{"a b":"c"}"#,
        r#"{"":"x"}"#,
        r#"{"a":7}"#,
        "[]",
        r#""a: b""#,
        r#"{"Transfer-Encoding":"chunked"}"#,
        r#"{"a\u000ab":"c"}"#,
    ] {
        assert!(full("", "session.create", &create(bad)).await.starts_with("provider.headers: "), "{bad}");
    }
    let send = r#"{"sessionId":"a","prompt":"x","requestHeaders":{"Content-Length":"0"}}"#;
    assert!(shared("", "session.send", send).await.starts_with("requestHeaders: "));
}

#[tokio::test]
async fn names_are_resolved_once_and_within_bounds() {
    let config = Config::load(&Sources::fixed("", &[])).unwrap();
    let tenant = "acme".parse().unwrap();
    let reach = Reach {
        surface: Surface::Full,
        tenant: &tenant,
        rules: config.tenants.get(&tenant),
        loopback: false,
    };
    let create = catalogue::lookup("session.create").unwrap();
    let zone = Zone(ZONE, Mutex::default());
    let servers = |n: usize| {
        let one = |n| {
            format!(
                r#""m{n}":{{"url":"https://models.example/{n}"}},"k{n}":{{"url":"https://h{n}.example"}}"#
            )
        };
        format!(r#"{{"mcpServers":{{{}}}}}"#, (0..n).map(one).collect::<Vec<_>>().join(","))
    };
    let two = servers(2);
    assert_eq!(
        check(create, Value::new(two.as_bytes()), &reach, &zone).await.unwrap_err().at,
        "mcpServers.k0.url"
    );
    assert_eq!(*zone.1.lock().unwrap(), ["models.example", "h0.example", "h1.example"]);
    let many = servers(100);
    let denied = check(create, Value::new(many.as_bytes()), &reach, &zone).await.unwrap_err();
    assert_eq!((denied.rule, denied.key), (Rule::Names, None));
    assert_eq!(zone.1.lock().unwrap().len(), 3, "nothing is resolved for it");
}

/// No params, of any shape, make the judge fail; what is refused says where.
#[test]
fn any_params() {
    let config = Config::load(&Sources::fixed("", &[])).unwrap();
    let tenant = "acme".parse().unwrap();
    for method in catalogue::all() {
        for params in [
            "",
            "null",
            "7",
            "[]",
            "{}",
            r#"{"provider":[]}"#,
            r#"{"mcpServers":[{"command":1}]}"#,
            "{\"a\":",
        ] {
            for surface in [Surface::Full, Surface::Shared] {
                let reach =
                    Reach { surface, tenant: &tenant, rules: config.tenants.get(&tenant), loopback: false };
                if let Err(denied) = judge(method, Value::new(params.as_bytes()), &reach, &Names::default()) {
                    assert!(denied.rule == Rule::Method || !denied.at.is_empty(), "{} {params}", method.name);
                }
                imposed(method, Value::new(params.as_bytes()), &reach);
            }
        }
    }
}
