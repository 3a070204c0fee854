//! The bad input of acceptance check 15, as far as bytes alone are bad, and good input beside it.

/// Streams, and whether all of their frames are sound.
pub(crate) fn streams() -> Vec<(Vec<u8>, bool)> {
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let n = ping.len();
    let mut streams = vec![
        (format!("Content-Length: {n}\r\n\r\n{ping}"), true),
        (format!("content-length:{n}\r\nContent-Type: application/json\r\n\r\n{ping}"), true),
        (format!("Content-Length: {n}\r\n\r\n{ping}Content-Length: {n}\r\n\r\n{ping}"), true),
        (format!("Content-Length: {n}\n\n{ping}"), false),
        (format!("Content-Type: a\r\n\r\n{ping}"), false),
        (format!("\r\n{ping}"), false),
        (format!("Content-Length: {n}\r\nContent-Length: {n}\r\n\r\n{ping}"), false),
        (format!("Content-Length: {n}\r\ncontent-length: 2\r\n\r\n{ping}"), false),
        (format!("Content-Length : {n}\r\n\r\n{ping}"), false),
        (format!(" Content-Length: {n}\r\n\r\n{ping}"), false),
        (format!("Content-Length: {n}\r\n folded\r\n\r\n{ping}"), false),
        (format!("X: {}\r\nContent-Length: {n}\r\n\r\n{ping}", "x".repeat(1 << 20)), false),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n".into(), false),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), false),
        (ping.into(), false),
    ];
    let long = ["9223372036854775808", "18446744073709551617", "10000000000", "99999999999999999999999999"];
    let odd = ["", "-1", "+40", "0x28", "40abc", "040", "0", "4 0", "40,40", "4e1", "40.0", "٤٠"];
    streams.extend(odd.iter().chain(&long).map(|l| (format!("Content-Length: {l}\r\n\r\n{ping}"), false)));
    let mut streams: Vec<_> = streams.into_iter().map(|(s, sound)| (s.into_bytes(), sound)).collect();
    streams.push((b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), false));
    streams.push((b"Content-Length: 2\r\nX: \x00\r\n\r\n{}".to_vec(), false));
    streams
}

/// Bodies, and whether they are messages.
pub(crate) fn bodies() -> Vec<(Vec<u8>, bool)> {
    let good = [
        r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#,
        r#" { "jsonrpc" : "2.0" , "id" : 0 , "method" : "ping" , "params" : { "message" : "x" } } "#,
        r#"{"params":{"message":"\ud83d\ude00\u0000\\\"/"},"method":"pi\u006eg","id":"a\u0062","jsonrpc":"2.0"}"#,
        r#"{"\u006asonrpc":"2.0","id":-7,"m\u0065thod":"ping","params":null}"#,
        r#"{"jsonrpc":"2.0","id":9007199254740992,"method":"session.name.get","params":{"session\u0049d":"no-such"}}"#,
        r#"{"jsonrpc":"2.0","id":"","method":""}"#,
        r#"{"jsonrpc":"2.0","id":3,"method":"no.such\u0020method","params":{"sessionId":{"a":[1e308,-0.0,[]]}}}"#,
        r#"{"jsonrpc":"2.0","id":4,"method":"session.name.get","params":{"SessionId":"other","sessionid":"x","sessionId":"it"}}"#,
        r#"{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":1}}"#,
        r#"{"jsonrpc":"2.0","id":99999,"result":{"unsolicited":true}}"#,
        r#"{"jsonrpc":"2.0","id":99999,"error":{"code":1,"message":"m"}}"#,
    ];
    let bad = [
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"runtime.shutdown"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","m\u0065thod":"runtime.shutdown"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"sessionId":"mine","sessionId":"his"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"sessionId":"mine","session\u0049d":"his"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"a":1},"params":{"a":2}}"#,
        r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"__proto__":{}}}"#,
        r#"{"jsonrpc":"2.0","id":1,"Method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","METHOD":"x"}"#,
        r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#,
        r#"{"id":1,"method":"ping"}"#,
        r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#,
        "[]",
        "{}",
        "null",
        "",
        " ",
        "\"x\"",
        "\u{feff}{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}",
        r#"{"jsonrpc":"2.0","id":1,"method":"ping"} {}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping"},"#,
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}\0",
        r#"{"jsonrpc":"2.0","id":1,"method":"ping",}"#,
        r#"{'jsonrpc':"2.0","id":1,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping"/**/}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"message":"\ud800"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"message":"\udc00\ud800"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"message":"\x41"}}"#,
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",\"params\":{\"message\":\"a\nb\"}}",
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"n":NaN}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"n":1e400}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"n":01}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":"x"}"#,
        r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":1e0,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":[1],"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":true,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":9007199254740993,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":7}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":null}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","result":1}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":1,"error":{"code":1,"message":"m"}}"#,
        r#"{"jsonrpc":"2.0","id":1}"#,
        r#"{"jsonrpc":"2.0","result":1}"#,
    ];
    let mut bodies: Vec<_> = good.iter().map(|b| (b.as_bytes().to_vec(), true)).collect();
    bodies.extend(bad.iter().map(|b| (b.as_bytes().to_vec(), false)));
    bodies.push((b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"p\xffng\"}".to_vec(), false));
    bodies.push((b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xed\xa0\x80\"}".to_vec(), false));
    for depth in [200, 200_000] {
        let nested = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        bodies.push((nested.clone().into_bytes(), false));
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{{"message":{nested}}}}}"#);
        bodies.push((body.into_bytes(), false));
    }
    bodies
}

/// A small generator of pseudo-random numbers, so that a run can be repeated from its seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n.max(1)
    }

    pub(crate) fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }
}

/// Pieces that readers could read differently.
const PIECES: [&str; 24] = [
    "\"",
    "\\",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    " ",
    "\t",
    "\r\n",
    "\0",
    "\\u0000",
    "\\u0049",
    "\\ud800",
    "null",
    "-0",
    "1e0",
    "\u{feff}",
    "\u{2028}",
    "\"id\":2",
    ",\"method\":\"ping\"",
    ",\"sessionId\":\"x\"",
    "é",
];

/// Changes `bytes` in a few random places.
pub(crate) fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len() + 1);
        match random.below(5) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => drop(bytes.remove(at)),
            2 => {
                let end = (at + random.below(12)).min(bytes.len());
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            3 => bytes.truncate(at.max(1)),
            _ => drop(bytes.splice(at..at, random.pick(&PIECES).bytes())),
        }
    }
}
