//! One JSON scanner, used twice.
//!
//! [`check`] reads a client's bytes strictly, so that no two parsers can read them differently:
//! duplicate keys (after unescaping), lone surrogates, numbers beyond a double, deep nesting and
//! trailing bytes are refused. [`Value`] then finds what Jetway needs without building anything.
//! A CLI's frames are not checked, only searched: every step of the search is total.

use std::borrow::Cow;

/// Why bytes are not JSON that Jetway passes on, with the offset where that showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {at}")]
pub struct JsonError {
    /// What is wrong, in a few words.
    pub what: &'static str,
    /// Offset into the text.
    pub at: usize,
}

/// Beyond this many keys an object's duplicates are looked up by hash rather than one by one.
const LINEAR_KEYS: usize = 16;

/// Accepts exactly one JSON value that every reader reads alike, nested at most `depth` deep.
pub fn check(bytes: &[u8], depth: usize) -> Result<(), JsonError> {
    if let Err(e) = std::str::from_utf8(bytes) {
        return Err(JsonError { what: "invalid UTF-8", at: e.valid_up_to() });
    }
    let mut checker = Checker { bytes, at: 0, keys: Vec::new() };
    checker.space();
    checker.value(depth)?;
    checker.space();
    if checker.at < bytes.len() { Err(checker.error("trailing bytes")) } else { Ok(()) }
}

struct Checker<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The keys of every object that is open, innermost last.
    keys: Vec<Cow<'a, [u8]>>,
}

impl<'a> Checker<'a> {
    fn error(&self, what: &'static str) -> JsonError {
        JsonError { what, at: self.at }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        self.at = skip_space(self.bytes, self.at);
    }

    fn eat(&mut self, byte: u8) -> bool {
        let hit = self.peek() == Some(byte);
        self.at += usize::from(hit);
        hit
    }

    fn value(&mut self, depth: usize) -> Result<(), JsonError> {
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => self.string().map(drop),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.literal(b"true"),
            Some(b'f') => self.literal(b"false"),
            Some(b'n') => self.literal(b"null"),
            Some(_) => Err(self.error("unexpected byte")),
            None => Err(self.error("unexpected end")),
        }
    }

    fn literal(&mut self, word: &[u8]) -> Result<(), JsonError> {
        if !self.bytes[self.at..].starts_with(word) {
            return Err(self.error("unexpected byte"));
        }
        self.at += word.len();
        Ok(())
    }

    fn object(&mut self, depth: usize) -> Result<(), JsonError> {
        let depth = depth.checked_sub(1).ok_or_else(|| self.error("nested too deeply"))?;
        self.at += 1;
        self.space();
        if self.eat(b'}') {
            return Ok(());
        }
        let base = self.keys.len();
        let mut seen = None;
        loop {
            self.key(base, &mut seen)?;
            self.space();
            if !self.eat(b':') {
                return Err(self.error("expected a colon"));
            }
            self.space();
            self.value(depth)?;
            self.space();
            if self.eat(b'}') {
                self.keys.truncate(base);
                return Ok(());
            }
            if !self.eat(b',') {
                return Err(self.error("expected a comma or a brace"));
            }
            self.space();
        }
    }

    fn key(
        &mut self,
        base: usize,
        seen: &mut Option<std::collections::HashSet<Cow<'a, [u8]>, ahash::RandomState>>,
    ) -> Result<(), JsonError> {
        if self.peek() != Some(b'"') {
            return Err(self.error("expected a key"));
        }
        let at = self.at;
        let key = self.string()?;
        let error = |what| Err(JsonError { what, at });
        if &*key == b"__proto__" {
            return error("key `__proto__`");
        }
        let twice = match seen {
            Some(seen) => !seen.insert(key),
            None => {
                let twice = self.keys[base..].contains(&key);
                self.keys.push(key);
                if self.keys.len() - base > LINEAR_KEYS {
                    *seen = Some(self.keys.drain(base..).collect());
                }
                twice
            }
        };
        if twice { error("duplicate key") } else { Ok(()) }
    }

    fn array(&mut self, depth: usize) -> Result<(), JsonError> {
        let depth = depth.checked_sub(1).ok_or_else(|| self.error("nested too deeply"))?;
        self.at += 1;
        self.space();
        if self.eat(b']') {
            return Ok(());
        }
        loop {
            self.value(depth)?;
            self.space();
            if self.eat(b']') {
                return Ok(());
            }
            if !self.eat(b',') {
                return Err(self.error("expected a comma or a bracket"));
            }
            self.space();
        }
    }

    /// Reads a string and returns its text, unescaped.
    fn string(&mut self) -> Result<Cow<'a, [u8]>, JsonError> {
        let start = self.at + 1;
        self.at = start;
        let mut text: Option<Vec<u8>> = None;
        loop {
            let run = self.at;
            while let Some(b) = self.peek()
                && b != b'"'
                && b != b'\\'
                && b >= 0x20
            {
                self.at += 1;
            }
            if let Some(text) = &mut text {
                text.extend_from_slice(&self.bytes[run..self.at]);
            }
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(text.map_or(Cow::Borrowed(&self.bytes[start..self.at - 1]), Cow::Owned));
                }
                Some(b'\\') => {
                    let so_far = &self.bytes[start..self.at];
                    let text = text.get_or_insert_with(|| so_far.to_vec());
                    self.at += 1;
                    let c = self.escape()?;
                    text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                }
                Some(_) => return Err(self.error("control character in a string")),
                None => return Err(self.error("unexpected end")),
            }
        }
    }

    /// Reads what follows a backslash.
    fn escape(&mut self) -> Result<char, JsonError> {
        let byte = self.peek().ok_or_else(|| self.error("unexpected end"))?;
        self.at += 1;
        Ok(match byte {
            b'"' | b'\\' | b'/' => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let unit = self.hex()?;
                let unit = if (0xd800..0xdc00).contains(&unit) && self.bytes[self.at..].starts_with(b"\\u") {
                    self.at += 2;
                    let low = self.hex()?;
                    if !(0xdc00..0xe000).contains(&low) {
                        return Err(self.error("lone surrogate"));
                    }
                    0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00)
                } else {
                    unit
                };
                char::from_u32(unit).ok_or_else(|| self.error("lone surrogate"))?
            }
            _ => return Err(self.error("unknown escape")),
        })
    }

    fn hex(&mut self) -> Result<u32, JsonError> {
        let digits = self.bytes.get(self.at..self.at + 4).ok_or_else(|| self.error("unexpected end"))?;
        let mut unit = 0;
        for d in digits {
            let d = char::from(*d).to_digit(16).ok_or_else(|| self.error("bad \\u escape"))?;
            unit = unit << 4 | d;
        }
        self.at += 4;
        Ok(unit)
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == start { Err(self.error("expected a digit")) } else { Ok(()) }
    }

    fn number(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        self.eat(b'-');
        if !self.eat(b'0') {
            self.digits()?;
        }
        let mut plain = true;
        if self.eat(b'.') {
            plain = false;
            self.digits()?;
        }
        if self.eat(b'e') || self.eat(b'E') {
            plain = false;
            if !self.eat(b'+') {
                self.eat(b'-');
            }
            self.digits()?;
        }
        if plain && self.at - start < 300 {
            return Ok(());
        }
        let text = std::str::from_utf8(&self.bytes[start..self.at]).unwrap_or_default();
        if text.parse().is_ok_and(f64::is_finite) { Ok(()) } else { Err(self.error("number out of range")) }
    }
}

fn skip_space(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
        at += 1;
    }
    at
}

/// The end of the string whose opening quote is at `at`.
fn skip_string(bytes: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        let hit = at + memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?;
        match bytes[hit] {
            b'"' => return Some(hit + 1),
            _ => at = hit + 2,
        }
    }
}

/// The end of the value that begins at `at`.
fn skip_value(bytes: &[u8], at: usize) -> Option<usize> {
    match *bytes.get(at)? {
        b'"' => skip_string(bytes, at),
        b'{' | b'[' => {
            let mut depth = 0usize;
            let mut at = at;
            loop {
                match *bytes.get(at)? {
                    b'"' => at = skip_string(bytes, at)?,
                    b'{' | b'[' => {
                        depth += 1;
                        at += 1;
                    }
                    b'}' | b']' => {
                        depth -= 1;
                        at += 1;
                        if depth == 0 {
                            return Some(at);
                        }
                    }
                    _ => at += 1,
                }
            }
        }
        b',' | b':' | b'}' | b']' => None,
        _ => {
            let rest = &bytes[at..];
            let end =
                rest.iter().position(|b| matches!(b, b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t'));
            Some(at + end.unwrap_or(rest.len()))
        }
    }
}

/// A JSON value, as the bytes that spell it. Finding things in it builds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value<'a> {
    text: &'a [u8],
}

impl<'a> Value<'a> {
    /// The value that `text` spells; white space around it is no part of it.
    pub fn new(text: &'a [u8]) -> Self {
        Self { text: text.trim_ascii() }
    }

    /// The bytes that spell it.
    pub fn text(self) -> &'a [u8] {
        self.text
    }

    /// Its members, in order, if it is an object; nothing if it is not.
    pub fn members(self) -> Members<'a> {
        Members { bytes: self.text, at: if self.text.first() == Some(&b'{') { 1 } else { self.text.len() } }
    }

    /// Its elements, in order, if it is an array; nothing if it is not.
    pub fn elements(self) -> Elements<'a> {
        Elements { bytes: self.text, at: if self.text.first() == Some(&b'[') { 1 } else { self.text.len() } }
    }

    /// Whether it is an object.
    pub fn is_object(self) -> bool {
        self.text.first() == Some(&b'{')
    }

    /// The value of the member `key`.
    pub fn get(self, key: &str) -> Option<Value<'a>> {
        self.members().find(|(k, _)| k.is(key)).map(|(_, v)| v)
    }

    /// Its text, unescaped, if it is a string.
    pub fn as_str(self) -> Option<Cow<'a, str>> {
        let inner = self.text.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
        if memchr::memchr(b'\\', inner).is_none() {
            return std::str::from_utf8(inner).ok().map(Cow::Borrowed);
        }
        serde_json::from_slice(self.text).ok().map(Cow::Owned)
    }

    /// Its value, if it is an integer.
    pub fn as_i64(self) -> Option<i64> {
        std::str::from_utf8(self.text).ok()?.parse().ok()
    }

    /// Its value, if it is `true` or `false`.
    pub fn as_bool(self) -> Option<bool> {
        match self.text {
            b"true" => Some(true),
            b"false" => Some(false),
            _ => None,
        }
    }
}

/// A member's name, as it stands between its quotes.
#[derive(Debug, Clone, Copy)]
pub struct Key<'a>(&'a [u8]);

impl<'a> Key<'a> {
    /// Whether it is `name`, escaped or not.
    pub fn is(self, name: &str) -> bool {
        self.0 == name.as_bytes() || (self.0.contains(&b'\\') && self.text() == name)
    }

    /// The name, unescaped.
    pub fn text(self) -> Cow<'a, str> {
        match std::str::from_utf8(self.0) {
            Ok(plain) if !plain.contains('\\') => Cow::Borrowed(plain),
            Ok(escaped) => Cow::Owned(serde_json::from_str(&format!("\"{escaped}\"")).unwrap_or_default()),
            Err(_) => Cow::Borrowed(""),
        }
    }
}

/// See [`Value::members`].
#[derive(Debug, Clone)]
pub struct Members<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Members<'a> {
    type Item = (Key<'a>, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = self.bytes;
        let open = skip_space(bytes, self.at);
        self.at = bytes.len();
        if bytes.get(open) != Some(&b'"') {
            return None;
        }
        let close = skip_string(bytes, open)?;
        let colon = skip_space(bytes, close);
        if bytes.get(colon) != Some(&b':') {
            return None;
        }
        let start = skip_space(bytes, colon + 1);
        let end = skip_value(bytes, start)?;
        let comma = skip_space(bytes, end);
        self.at = comma + usize::from(bytes.get(comma) == Some(&b','));
        Some((Key(&bytes[open + 1..close - 1]), Value { text: &bytes[start..end] }))
    }
}

/// See [`Value::elements`].
#[derive(Debug, Clone)]
pub struct Elements<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Elements<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        let bytes = self.bytes;
        let start = skip_space(bytes, self.at);
        self.at = bytes.len();
        let end = skip_value(bytes, start)?;
        let comma = skip_space(bytes, end);
        self.at = comma + usize::from(bytes.get(comma) == Some(&b','));
        Some(Value { text: &bytes[start..end] })
    }
}

/// Appends `text` as a JSON string.
pub fn write_str(out: &mut Vec<u8>, text: &str) {
    // Writing into memory does not fail.
    let _ = serde_json::to_writer(out, text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bad(text: &str) -> &'static str {
        check(text.as_bytes(), 10).unwrap_err().what
    }

    #[test]
    fn refuses_what_two_readers_could_read_differently() {
        assert_eq!(bad(r#"{"a":1,"a":2}"#), "duplicate key");
        assert_eq!(bad(r#"{"sessionId":1,"session\u0049d":2}"#), "duplicate key");
        assert_eq!(bad(r#"{"a":{"b":[{"c":1,"c":1}]}}"#), "duplicate key");
        assert_eq!(bad(r#"{"__proto__":1}"#), "key `__proto__`");
        assert_eq!(bad("\u{feff}{}"), "unexpected byte");
        assert_eq!(bad("{} x"), "trailing bytes");
        assert_eq!(bad(r#""\ud800""#), "lone surrogate");
        assert_eq!(bad(r#""\ud800\u0041""#), "lone surrogate");
        assert_eq!(bad(r#""\udc00""#), "lone surrogate");
        assert_eq!(bad("\"a\0b\""), "control character in a string");
        assert_eq!(bad("NaN"), "unexpected byte");
        assert_eq!(bad("1e400"), "number out of range");
        assert_eq!(bad("01"), "trailing bytes");
        assert_eq!(bad("[1,]"), "unexpected byte");
        assert_eq!(bad("{\"a\":1,}"), "expected a key");
        assert_eq!(bad(&"[".repeat(11)), "nested too deeply");
        assert_eq!(bad(&"[".repeat(200_000)), "nested too deeply");
        assert_eq!(check(b"\"\xff\"", 10).unwrap_err().what, "invalid UTF-8");
        assert_eq!(check(r#"{"a":"\ud83d\ude00\n","b":[1,-2.5e3,true,null,{}]}"#.as_bytes(), 10), Ok(()));
    }

    #[test]
    fn duplicates_among_many_keys() {
        let keys: Vec<String> = (0..1000).map(|n| format!("\"k{n}\":{{\"x\":{n}}}")).collect();
        assert_eq!(check(format!("{{{}}}", keys.join(",")).as_bytes(), 10), Ok(()));
        assert_eq!(bad(&format!("{{{},\"k500\":1}}", keys.join(","))), "duplicate key");
        assert_eq!(bad(&format!("{{{},\"k3\":1}}", keys.join(","))), "duplicate key");
    }

    #[test]
    fn finds_without_building() {
        let v = Value::new(br#" {"a\u0062":"x\"y", "c" : [1, {"d":[]}, "]"] , "e":{"f":-12}} "#);
        assert_eq!(v.get("ab").and_then(Value::as_str).as_deref(), Some("x\"y"));
        let c: Vec<_> = v.get("c").unwrap().elements().map(|v| v.text().to_vec()).collect();
        assert_eq!(c, [b"1".to_vec(), br#"{"d":[]}"#.to_vec(), br#""]""#.to_vec()]);
        assert_eq!(v.get("e").unwrap().get("f").and_then(Value::as_i64), Some(-12));
        assert_eq!(v.get("g"), None);
        assert_eq!(v.members().count(), 3);
    }

    fn arbitrary_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            any::<String>().prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
                prop::collection::btree_map(any::<String>(), inner, 0..6)
                    .prop_map(|m| serde_json::Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json(value in arbitrary_json()) {
            let text = value.to_string();
            prop_assert_eq!(check(text.as_bytes(), 20), Ok(()));
            if let Some(object) = value.as_object() {
                let found: Vec<_> = Value::new(text.as_bytes()).members().collect();
                prop_assert_eq!(found.len(), object.len());
                for ((key, found), (name, expected)) in found.into_iter().zip(object) {
                    prop_assert!(key.is(name));
                    prop_assert_eq!(String::from_utf8_lossy(found.text()), expected.to_string());
                }
            }
        }

        /// What passes the check, serde_json takes as well; and nothing panics.
        #[test]
        fn any_text(text in r#"[\[\]{}",:0-9a\\u \-.e]{0,40}"#) {
            if check(text.as_bytes(), 20).is_ok() {
                prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{text}");
            }
            let v = Value::new(text.as_bytes());
            let _ = (v.members().count(), v.elements().count(), v.as_str());
        }
    }
}
