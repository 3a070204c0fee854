//! Bytes that are no HTTP, no JSON or no WebSocket, and what may become of them.

/// A case: what is sent, and the statuses that may answer it. A close without an answer is always as good.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) statuses: &'static [u16],
}

const BAD: &[u16] = &[400];
const REFUSED: &[u16] = &[400, 422];
/// What every case asks for, if it comes so far.
const SAID: &str = r#"{"prompt":"canary"}"#;

fn case(name: &str, bytes: impl Into<Vec<u8>>, statuses: &'static [u16]) -> Case {
    Case { name: name.to_owned(), bytes: bytes.into(), statuses }
}

/// A prompt in `session`, with these headers and this body after the usual ones.
fn post(session: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /api/v1/sessions/{session}/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer token\r\n\
         Content-Type: application/json\r\n{headers}\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// Requests that are none, or that two readers might read differently.
pub(crate) fn framing(session: &str) -> Vec<Case> {
    let length = SAID.len();
    let head = |name: &str, headers: String, statuses| {
        case(name, post(session, &headers, SAID.as_bytes()), statuses)
    };
    let number = |name: &str, n: &str| head(name, format!("Content-Length: {n}\r\n"), BAD);
    let chunked = |name: &str, chunks: &str| {
        case(name, post(session, "Transfer-Encoding: chunked\r\n", chunks.as_bytes()), BAD)
    };
    let get = |name: &str, head: &str, statuses| case(name, format!("{head}\r\n\r\n"), statuses);
    vec![
        number("length empty", ""),
        number("length negative", &format!("-{length}")),
        number("length signed", &format!("+{length}")),
        number("length in hexadecimal", "0x13"),
        number("length with junk", &format!("{length}abc")),
        number("length as a float", &format!("{length}.0")),
        number("length with a comma", &format!("{length}, {}", length + 1)),
        number("2^64 + 1", "18446744073709551617"),
        number("40 digits", &"9".repeat(40)),
        head("10 GB announced", "Content-Length: 10000000000\r\n".into(), &[413]),
        head("2^63 announced", "Content-Length: 9223372036854775808\r\n".into(), &[400, 413]),
        head(
            "twice, different",
            format!("Content-Length: {length}\r\nContent-Length: {}\r\n", length + 1),
            BAD,
        ),
        head("length and chunks", format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n"), BAD),
        head("chunked twice", "Transfer-Encoding: chunked, chunked\r\n".into(), BAD),
        head("chunked, then not", "Transfer-Encoding: chunked, identity\r\n".into(), BAD),
        head("unknown coding", "Transfer-Encoding: xchunked\r\n".into(), BAD),
        chunked("chunk of no size", "zz\r\n{}\r\n0\r\n\r\n"),
        chunked("chunk of a negative size", "-2\r\n{}\r\n0\r\n\r\n"),
        chunked("chunk of 2^64", "10000000000000000\r\n{}\r\n0\r\n\r\n"),
        chunked("chunk without its line break", "2\r\n{}x0\r\n\r\n"),
        chunked("endless chunk extension", &format!("2;{}\r\n{{}}\r\n0\r\n\r\n", "x".repeat(1 << 20))),
        head("space before the colon", format!("Content-Length : {length}\r\n"), BAD),
        head("folded header", format!("X: a\r\n b\r\nContent-Length: {length}\r\n"), BAD),
        head("NUL in a header", format!("X: \0\r\nContent-Length: {length}\r\n"), BAD),
        head("1 MB of header", format!("X: {}\r\n", "a".repeat(1 << 20)), &[400, 431]),
        head("1 MB of headers", "X: 1\r\n".repeat(170_000), &[400, 431]),
        head("two credentials", format!("Authorization: Bearer other\r\nContent-Length: {length}\r\n"), BAD),
        head("two users", format!("Jetway-User: u\r\nJetway-User: v\r\nContent-Length: {length}\r\n"), BAD),
        get(
            "a credential that is none",
            "GET /api/v1/sessions HTTP/1.1\r\nHost: x\r\nAuthorization: Basic dTpw",
            &[401],
        ),
        get(
            "a long credential",
            &format!(
                "GET /api/v1/sessions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}",
                "a".repeat(12_000)
            ),
            &[401, 431],
        ),
        get("no method", " / HTTP/1.1\r\nHost: x", BAD),
        get("lower-case method", "get /api/v1/sessions HTTP/1.1\r\nHost: x", &[400, 401, 405]),
        get("HTTP/0.9", "GET /api/v1/sessions", BAD),
        get("HTTP/3.0", "GET / HTTP/3.0\r\nHost: x", BAD),
        get(
            "a path of 64 KiB",
            &format!("GET /{} HTTP/1.1\r\nHost: x", "a".repeat(64 << 10)),
            &[400, 404, 414, 431],
        ),
        get(
            "invalid UTF-8 in the path",
            "GET /api/v1/sessions/%ff%fe HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer token",
            &[400, 404],
        ),
        get(
            "NUL in the path",
            "GET /api/v1/sessions/%00 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer token",
            &[404],
        ),
        get(
            "dots in the path",
            "GET /api/v1/sessions/..%2f..%2fadmin HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer token",
            &[404],
        ),
        get(
            "duplicate query",
            "GET /api/v1/sessions?limit=1&limit=2 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer token",
            &[422],
        ),
        case("a frame of the SDK port", "Content-Length: 2\r\n\r\n{}", BAD),
        case("TLS", &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"[..], BAD),
        case("SSH", &b"SSH-2.0-OpenSSH_9.6\r\n\r\n"[..], BAD),
        case("zeros", [0; 4096], BAD),
        case("all bytes", (0..=255).collect::<Vec<u8>>(), BAD),
        case(
            "HTTP/2's preface, then zeros",
            [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &[0; 64]].concat(),
            &[],
        ),
    ]
}

/// Bodies that are no JSON, or more than one, or no prompt.
pub(crate) fn bodies(session: &str) -> Vec<Case> {
    let body = |name: &str, bytes: &[u8]| {
        let length = format!("Content-Length: {}\r\n", bytes.len());
        case(name, post(session, &length, bytes), REFUSED)
    };
    let value = |name: &str, text: &str| {
        body(name, format!(r#"{{"prompt":"canary","attachments":[{{"a":{text}}}]}}"#).as_bytes())
    };
    let text = |name: &str, bytes: &[u8]| body(name, &[&br#"{"prompt":"canary"#[..], bytes, b"\"}"].concat());
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    vec![
        value("depth 200", &nested(200)),
        value("depth 200,000", &nested(200_000)),
        body("depth 200,000, unclosed", "[".repeat(200_000).as_bytes()),
        value("duplicate keys", r#"{"a":1,"a":2}"#),
        value("duplicate keys, one escaped", r#"{"a":1,"\u0061":2}"#),
        body("two prompts", br#"{"prompt":"canary","prompt":"other"}"#),
        body("two prompts, one escaped", br#"{"prompt":"canary","prom\u0070t":"other"}"#),
        body("case-variant prompt", br#"{"Prompt":"canary"}"#),
        body("unknown member", br#"{"prompt":"canary","sessionId":"other"}"#),
        value("__proto__", r#"{"__proto__":{}}"#),
        body("a list", br#"["canary"]"#),
        body("a text", br#""canary""#),
        body("null", b"null"),
        body("a number for a prompt", br#"{"prompt":1}"#),
        body("byte order mark", "\u{feff}{\"prompt\":\"canary\"}".as_bytes()),
        text("invalid UTF-8", b"\xff\xfe"),
        text("overlong UTF-8", b"\xc0\xaf"),
        text("UTF-8 of a surrogate", b"\xed\xa0\x80"),
        text("NUL in a text", b"\0"),
        text("line break in a text", b"\n"),
        text("lone surrogate", br"\ud800"),
        text("surrogates in reverse", br"\udc00\ud800"),
        text("bad escape", br"\x41"),
        value("NaN", "NaN"),
        value("Infinity", "-Infinity"),
        value("1e400", "1e400"),
        value("leading zero", "01"),
        value("comment", "1/**/"),
        value("trailing comma", "[1,]"),
        body("trailing bytes", br#"{"prompt":"canary"}}"#),
        body("trailing NUL", b"{\"prompt\":\"canary\"}\0"),
        body("two values", br#"{"prompt":"canary"}{"prompt":"canary"}"#),
        body("cut short", br#"{"prompt":"canary""#),
        body("white space", b"   "),
        body("nothing", b""),
    ]
}

/// What may become of what is sent in a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ends {
    /// It is closed, with this code if with any.
    Close(u16),
    /// `jetway.error` with one of these statuses, and it goes on.
    Error(&'static [u16]),
}

/// A frame of WebSocket, with a mask of zeros, which leaves its payload as it is.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match payload.len() {
        n @ 0..126 => out.push(0x80 | n as u8),
        n @ 126..65_536 => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(n as u16).to_be_bytes());
        }
        n => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(n as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(payload);
    out
}

/// What is sent in a WebSocket that stands.
pub(crate) fn websocket() -> Vec<(String, Vec<u8>, Ends)> {
    const TEXT: u8 = 0x81;
    const PROTOCOL: Ends = Ends::Close(1002);
    let raw = |name: &str, bytes: Vec<u8>, ends| (name.to_owned(), bytes, ends);
    let said = |name: &str, text: &str| (name.to_owned(), frame(TEXT, text.as_bytes()), Ends::Error(REFUSED));
    let mut unmasked = vec![TEXT, 2];
    unmasked.extend_from_slice(b"{}");
    let huge = |n: u64| [&[TEXT, 0xff][..], &n.to_be_bytes(), &[0; 4]].concat();
    vec![
        raw("without a mask", unmasked, PROTOCOL),
        raw("reserved bits", frame(0xf1, b"{}"), PROTOCOL),
        raw("a reserved kind", frame(0x83, b"{}"), PROTOCOL),
        raw("a reserved control frame", frame(0x8b, b""), PROTOCOL),
        raw("a ping in pieces", frame(0x09, b"x"), PROTOCOL),
        raw("a long ping", frame(0x89, &[b'x'; 200]), PROTOCOL),
        raw("a rest without a beginning", frame(0x80, b"x"), PROTOCOL),
        raw("a beginning in the middle", [frame(0x01, b"{"), frame(TEXT, b"}")].concat(), PROTOCOL),
        raw("10 GB announced", huge(10_000_000_000), PROTOCOL),
        raw("2^63 announced", huge(1 << 63), PROTOCOL),
        raw("17 MB", frame(TEXT, &vec![b'x'; 17 << 20]), PROTOCOL),
        raw("invalid UTF-8", frame(TEXT, b"{\"type\":\"\xff\"}"), PROTOCOL),
        raw("bytes", frame(0x82, b"{}"), Ends::Close(1003)),
        raw("a close of one byte", frame(0x88, b"x"), PROTOCOL),
        raw("a close with a code that is none", frame(0x88, &[0, 1]), PROTOCOL),
        raw("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), PROTOCOL),
        said("no JSON", "canary"),
        said("nothing", ""),
        said("a list", r#"["canary"]"#),
        said("no type", r#"{"prompt":"canary"}"#),
        said("an unknown type", r#"{"type":"sing"}"#),
        said("an unknown member", r#"{"type":"prompt","prompt":"canary","sessionId":"other"}"#),
        said("case-variant", r#"{"Type":"prompt","Prompt":"canary"}"#),
        said("two prompts", r#"{"type":"prompt","prompt":"canary","prompt":"other"}"#),
        said("two prompts, one escaped", r#"{"type":"prompt","prompt":"canary","prom\u0070t":"other"}"#),
        said("two types", r#"{"type":"abort","type":"prompt","prompt":"canary"}"#),
        said(
            "depth 200,000",
            &format!(r#"{{"type":"prompt","prompt":"canary","attachments":{}}}"#, "[".repeat(200_000)),
        ),
        said("lone surrogate", r#"{"type":"prompt","prompt":"canary\ud800"}"#),
        said("NaN", r#"{"type":"prompt","prompt":"canary","attachments":NaN}"#),
        said("1e400", r#"{"type":"prompt","prompt":"canary","attachments":1e400}"#),
        said("trailing bytes", r#"{"type":"abort"}}"#),
        said("two values", r#"{"type":"abort"}{"type":"abort"}"#),
        said("__proto__", r#"{"type":"abort","__proto__":{}}"#),
        (
            "an answer to nothing".into(),
            frame(TEXT, br#"{"type":"answer","request_id":"canary","decision":"approve"}"#),
            Ends::Error(&[404]),
        ),
    ]
}

/// Handshakes that are none.
pub(crate) fn handshakes(session: &str) -> Vec<Case> {
    let with = |name: &str, headers: &str| {
        let head = format!(
            "GET /ws/sessions/{session} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer token\r\n{headers}\r\n"
        );
        case(name, head, &[400, 403, 426])
    };
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    vec![
        with("no upgrade", ""),
        with("no key", &format!("{upgrade}Sec-WebSocket-Version: 13\r\n")),
        with("no version", &format!("{upgrade}{key}")),
        with("version 8", &format!("{upgrade}{key}Sec-WebSocket-Version: 8\r\n")),
        with(
            "another protocol",
            &format!("Connection: Upgrade\r\nUpgrade: h2c\r\n{key}Sec-WebSocket-Version: 13\r\n"),
        ),
        with(
            "another origin",
            &format!("{upgrade}{key}Sec-WebSocket-Version: 13\r\nOrigin: https://evil.example\r\n"),
        ),
        with("origin null", &format!("{upgrade}{key}Sec-WebSocket-Version: 13\r\nOrigin: null\r\n")),
    ]
}
