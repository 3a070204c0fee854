//! Bytes that are no frame, no JSON or no message, and what must become of them.
#![allow(unreachable_pub, reason = "a module of a test binary")]

/// What must become of a connection that sends a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// There is no way back into step.
    Close,
    /// An answer with this code, and the connection goes on.
    Error(i64),
    /// Nothing, and the connection goes on.
    Silence,
}

pub struct Case {
    pub name: &'static str,
    pub bytes: Vec<u8>,
    /// From somebody known.
    pub after: Ends,
}

impl Case {
    /// From a stranger, whose frames may not be long.
    pub fn before(&self) -> Ends {
        if self.bytes.len() > 4 * 1024 { Ends::Close } else { self.after }
    }
}

const PARSE: Ends = Ends::Error(-32700);
const INVALID: Ends = Ends::Error(-32600);

/// A frame of any bytes.
pub fn frame(body: &[u8]) -> Vec<u8> {
    let mut out = format!("Content-Length: {}\r\n\r\n", body.len()).into_bytes();
    out.extend_from_slice(body);
    out
}

pub fn corpus() -> Vec<Case> {
    let mut all = framing();
    all.extend(json());
    all.extend(rpc());
    all
}

fn framing() -> Vec<Case> {
    const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"canary":1}}"#;
    let length = PING.len();
    let close = |name, head: String| Case { name, bytes: (head + PING).into_bytes(), after: Ends::Close };
    let number = |name, n: &str| close(name, format!("Content-Length: {n}\r\n\r\n"));
    let twice = |name, a: usize, second: &str, b: usize| {
        close(name, format!("Content-Length: {a}\r\n{second}: {b}\r\n\r\n"))
    };
    let raw = |name, bytes: &[u8]| Case { name, bytes: bytes.to_vec(), after: Ends::Close };
    vec![
        close("no length", "X: 1\r\n\r\n".into()),
        close("no header", "\r\n".into()),
        number("empty length", ""),
        number("length of zero", "0"),
        number("negative length", &format!("-{length}")),
        number("signed length", &format!("+{length}")),
        number("hex length", &format!("{length:#x}")),
        number("length with junk", &format!("{length}abc")),
        number("length with leading zeros", &format!("0{length}")),
        number("length with a comma", &format!("{length}, {length}")),
        number("length as a float", &format!("{length}.0")),
        number("length in Arabic digits", "٦٥"),
        number("2^63", "9223372036854775808"),
        number("2^64 + 1", "18446744073709551617"),
        number("10 GB", "10000000000"),
        number("40 digits", &"9".repeat(40)),
        twice("twice the same", length, "Content-Length", length),
        twice("twice, different", length, "Content-Length", length + 1),
        twice("twice, case-variant", length, "content-LENGTH", 2),
        close("LF only", format!("Content-Length: {length}\n\n")),
        close("LF, then CR LF", format!("Content-Length: {length}\n\r\n")),
        close("space before the colon", format!("Content-Length : {length}\r\n\r\n")),
        close("folded header", format!("Content-Length:\r\n {length}\r\n\r\n")),
        close("NUL in a header", format!("X: \0\r\nContent-Length: {length}\r\n\r\n")),
        close("1 MB of header", format!("X: {}\r\nContent-Length: {length}\r\n\r\n", "a".repeat(1 << 20))),
        close("1 MB of headers", format!("{}Content-Length: {length}\r\n\r\n", "X: 1\r\n".repeat(170_000))),
        close("1 MB of a name", "a".repeat(1 << 20)),
        raw("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        raw("HTTP with a body", b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"),
        raw("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        raw("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
        raw("SSH", b"SSH-2.0-OpenSSH_9.6\r\n"),
        raw("JSON without a frame", PING.as_bytes()),
        raw("zeros", &[0; 4096]),
        raw("all bytes", &std::array::from_fn::<u8, 256, _>(|n| n as u8)),
    ]
}

fn json() -> Vec<Case> {
    let case = |name, body: &[u8]| Case { name, bytes: frame(body), after: PARSE };
    let params = |name, text: &str| {
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{{"canary":{text}}}}}"#);
        case(name, body.as_bytes())
    };
    let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let bytes = |name, part: &[u8]| {
        let (head, tail) = (br#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"canary":""#, b"\"}}");
        case(name, &[&head[..], part, &tail[..]].concat())
    };
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"canary":1}"#;
    vec![
        params("depth 200", &nested(200)),
        params("depth 97", &nested(97)),
        params("depth 200,000", &nested(200_000)),
        case("depth 200,000, unclosed", "[".repeat(200_000).as_bytes()),
        params("duplicate keys", r#"{"a":1,"a":2}"#),
        params("duplicate keys, one escaped", r#"{"a":1,"\u0061":2}"#),
        params(
            "duplicate keys, far apart",
            &format!("{{\"a\":1{},\"a\":2}}", (0..200).map(|n| format!(",\"k{n}\":0")).collect::<String>()),
        ),
        params("__proto__", r#"{"__proto__":{}}"#),
        params("__proto__, escaped", r#"{"\u005f_proto__":{}}"#),
        case("duplicate members", format!("{ping},\"id\":2}}").as_bytes()),
        case("duplicate members, one escaped", format!("{ping},\"i\\u0064\":2}}").as_bytes()),
        case("byte order mark", format!("\u{feff}{ping}}}").as_bytes()),
        bytes("invalid UTF-8", b"\xff\xfe"),
        bytes("overlong UTF-8", b"\xc0\xaf"),
        bytes("UTF-8 of a surrogate", b"\xed\xa0\x80"),
        bytes("NUL in a string", b"\0"),
        bytes("newline in a string", b"\n"),
        params("lone high surrogate", r#""\ud800""#),
        params("lone low surrogate", r#""\udc00x""#),
        params("surrogates in reverse", r#""\udc00\ud800""#),
        params("bad escape", r#""\x41""#),
        params("NaN", "NaN"),
        params("Infinity", "-Infinity"),
        params("1e400", "1e400"),
        params("leading zero", "01"),
        params("plus", "+1"),
        params("bare point", "1."),
        params("comment", "1/**/"),
        params("trailing comma", "[1,]"),
        params("single quotes", "'a'"),
        case("trailing bytes", format!("{ping}}}}}").as_bytes()),
        case("trailing NUL", format!("{ping}}}\0").as_bytes()),
        case("two values", format!("{ping}}}{ping}}}").as_bytes()),
        case("cut short", ping.as_bytes()),
        case("white space", b"   "),
        case("a word", b"ping"),
    ]
}

fn rpc() -> Vec<Case> {
    let case = |name, body: &str, after| Case { name, bytes: frame(body.as_bytes()), after };
    let id = |name, id: &str| {
        let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping","params":{{"canary":1}}}}"#);
        case(name, &body, INVALID)
    };
    let with = |name, members: &str| case(name, &format!(r#"{{"jsonrpc":"2.0",{members}}}"#), INVALID);
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"canary":1}}"#;
    vec![
        id("id 1.5", "1.5"),
        id("id 1e2", "1e2"),
        id("id null", "null"),
        id("id true", "true"),
        id("id object", "{}"),
        id("id array", "[1]"),
        id("id 2^53 + 1", "9007199254740993"),
        id("id of 30 digits", &"9".repeat(30)),
        id("id of 200 characters", &format!("\"{}\"", "x".repeat(200))),
        case("batch", &format!("[{ping}]"), INVALID),
        case("batch of two", &format!("[{ping},{ping}]"), INVALID),
        case("empty batch", "[]", INVALID),
        case("empty object", "{}", INVALID),
        case("a number", "1", INVALID),
        case("a string", "\"ping\"", INVALID),
        case("null", "null", INVALID),
        case("no version", r#"{"id":1,"method":"ping"}"#, INVALID),
        case("version 1.0", r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#, INVALID),
        case("version as a number", r#"{"jsonrpc":2.0,"id":1,"method":"ping"}"#, INVALID),
        with("method and result", r#""id":1,"method":"ping","result":1"#),
        with("method and error", r#""id":1,"method":"ping","error":{}"#),
        with("result and error", r#""id":1,"result":1,"error":{}"#),
        with("id alone", r#""id":1"#),
        with("method as a number", r#""id":1,"method":7"#),
        with("case-variant method", r#""id":1,"Method":"ping""#),
        with("case-variant params", r#""id":1,"method":"ping","Params":{"canary":1}"#),
        with("unknown member", r#""id":1,"method":"ping","canary":1"#),
        with("params as a list", r#""id":1,"method":"ping","params":["canary"]"#),
        with("params as a string", r#""id":1,"method":"ping","params":"canary""#),
        case("unsolicited result", r#"{"jsonrpc":"2.0","id":1,"result":{"canary":1}}"#, Ends::Silence),
        case(
            "unsolicited error",
            r#"{"jsonrpc":"2.0","id":"x","error":{"code":1,"message":"canary"}}"#,
            Ends::Silence,
        ),
        case(
            "notification",
            r#"{"jsonrpc":"2.0","method":"session.send","params":{"canary":1}}"#,
            Ends::Silence,
        ),
        case(
            "cancellation",
            r#"{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":"canary"}}"#,
            Ends::Silence,
        ),
    ]
}
