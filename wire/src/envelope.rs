//! What a frame's body is: a request, a notification or a reply.

use std::{borrow::Cow, ops::Range};

use crate::{
    frame,
    json::{self, JsonError, Value},
};

/// JSON-RPC's own error codes.
pub mod code {
    /// The body is not JSON.
    pub const PARSE_ERROR: i64 = -32700;
    /// The body is JSON, but no request, notification or reply.
    pub const INVALID_REQUEST: i64 = -32600;
    /// No such method.
    pub const METHOD_NOT_FOUND: i64 = -32601;
    /// The method's params are not what it takes.
    pub const INVALID_PARAMS: i64 = -32602;
    /// The method failed.
    pub const INTERNAL_ERROR: i64 = -32603;
}

/// The longest id that is accepted, in bytes of JSON.
const MAX_ID_LEN: usize = 128;
/// The largest integer that every reader holds exactly.
const MAX_SAFE_INTEGER: u64 = 1 << 53;

/// Why a body is not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Not JSON, or JSON that readers differ on.
    #[error("Parse error: {0}")]
    Json(#[from] JsonError),
    /// JSON, but no message.
    #[error("Invalid request: {0}")]
    Shape(&'static str),
}

impl EnvelopeError {
    /// The JSON-RPC error code.
    pub fn code(&self) -> i64 {
        match self {
            EnvelopeError::Json(_) => code::PARSE_ERROR,
            EnvelopeError::Shape(_) => code::INVALID_REQUEST,
        }
    }
}

/// The id of a request or reply: an integer or a string, kept as it was spelled.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Id {
    /// An integer within ± 2^53.
    Number(i64),
    /// A string, as JSON, its quotes included.
    Text(Box<[u8]>),
}

impl Id {
    fn parse(value: Value<'_>) -> Option<Self> {
        let text = value.text();
        match text.first()? {
            // The CLI refuses it, and as a number it would come back as 0.
            b'-' if text == b"-0" => None,
            b'"' if text.len() <= MAX_ID_LEN => Some(Id::Text(text.into())),
            b'-' | b'0'..=b'9' => {
                value.as_i64().filter(|n| n.unsigned_abs() <= MAX_SAFE_INTEGER).map(Id::Number)
            }
            _ => None,
        }
    }

    /// Appends the id as JSON.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Id::Number(n) => {
                if *n < 0 {
                    out.push(b'-');
                }
                frame::write_decimal(out, n.unsigned_abs());
            }
            Id::Text(text) => out.extend_from_slice(text),
        }
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Id::Number(n) => n.fmt(f),
            Id::Text(text) => String::from_utf8_lossy(text).fmt(f),
        }
    }
}

/// What a message is.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind<'a> {
    /// Wants a reply.
    Request {
        /// To be echoed in the reply.
        id: Id,
        /// What is asked.
        method: Cow<'a, str>,
        /// With what; an object, where given.
        params: Option<Value<'a>>,
    },
    /// Wants none.
    Notification {
        /// What is told.
        method: Cow<'a, str>,
        /// With what; an object, where given.
        params: Option<Value<'a>>,
    },
    /// Answers a request.
    Reply {
        /// The request's.
        id: Id,
        /// `result` or `error`.
        outcome: Result<Value<'a>, Value<'a>>,
    },
}

/// A message, read once. What is sent on is these bytes, with at most the id exchanged.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope<'a> {
    body: &'a [u8],
    id_at: Range<usize>,
    /// What it is.
    pub kind: Kind<'a>,
}

impl<'a> Envelope<'a> {
    /// Reads what a client sent: strict JSON, nested at most `depth` deep, and no unknown members.
    pub fn strict(body: &'a [u8], depth: usize) -> Result<Self, EnvelopeError> {
        json::check(body, depth)?;
        Self::read(body, true)
    }

    /// Reads what a CLI server sent. Its JSON is searched, not checked.
    pub fn trusted(body: &'a [u8]) -> Result<Self, EnvelopeError> {
        Self::read(body, false)
    }

    fn read(body: &'a [u8], strict: bool) -> Result<Self, EnvelopeError> {
        use EnvelopeError::Shape;
        let whole = Value::new(body);
        if !whole.is_object() {
            return Err(Shape("expected one JSON object; batches are not supported"));
        }
        let (mut id, mut method, mut params, mut result, mut error) = (None, None, None, None, None);
        let mut version = None;
        for (key, value) in whole.members() {
            let slot = match &*key.text() {
                "id" => &mut id,
                "method" => &mut method,
                "params" => &mut params,
                "result" => &mut result,
                "error" => &mut error,
                "jsonrpc" => &mut version,
                _ if strict => {
                    return Err(Shape("unknown member beside jsonrpc, id, method, params, result, error"));
                }
                _ => continue,
            };
            *slot = Some(value);
        }
        if version.is_none_or(|v| v.text() != b"\"2.0\"") && strict {
            return Err(Shape("expected \"jsonrpc\":\"2.0\""));
        }
        if strict && params.is_some_and(|p| !p.is_object() && p.text() != b"null") {
            return Err(Shape("params must be an object"));
        }
        let id_at = id.map_or(0..0, |v| span(body, v.text()));
        let id = match id {
            None => None,
            Some(v) => Some(Id::parse(v).ok_or(Shape("id must be an integer or a string"))?),
        };
        let method = match method {
            None => None,
            Some(v) => Some(v.as_str().ok_or(Shape("method must be a string"))?),
        };
        let kind = match (method, id, result, error) {
            (Some(method), Some(id), None, None) => Kind::Request { id, method, params },
            (Some(method), None, None, None) => Kind::Notification { method, params },
            (None, Some(id), Some(result), None) => Kind::Reply { id, outcome: Ok(result) },
            (None, Some(id), None, Some(error)) => Kind::Reply { id, outcome: Err(error) },
            _ => return Err(Shape("neither a request, a notification nor a reply")),
        };
        Ok(Self { body, id_at, kind })
    }

    /// The body, as it was read.
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// Appends it as a frame, under another id. A notification has none and goes as it is.
    pub fn write_as(&self, id: &Id, out: &mut Vec<u8>) {
        write_edited(self.body, (!self.id_at.is_empty()).then_some((&self.id_at, id)), out);
    }

    /// The request on its own, to be kept beyond the read that brought it; `None` if it is none.
    pub fn to_request(&self) -> Option<Request> {
        let Kind::Request { id, params, .. } = &self.kind else { return None };
        let params_at = params.filter(|p| p.is_object()).map(|p| span(self.body, p.text()));
        Some(Request { body: self.body.into(), id: id.clone(), id_at: self.id_at.clone(), params_at })
    }
}

/// A client's request. What is sent on is its bytes, with the id exchanged and at most one value put in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    body: Box<[u8]>,
    id: Id,
    id_at: Range<usize>,
    params_at: Option<Range<usize>>,
}

impl Request {
    /// The client's own id for it.
    pub fn id(&self) -> &Id {
        &self.id
    }

    /// Its params, if it has an object of them.
    pub fn params(&self) -> Option<Value<'_>> {
        self.params_at.clone().map(|at| Value::new(&self.body[at]))
    }

    /// Bytes of its body.
    pub fn len(&self) -> usize {
        self.body.len()
    }

    /// Never: a request has at least a method.
    pub fn is_empty(&self) -> bool {
        self.body.is_empty()
    }

    /// Appends it as a frame, under another id.
    pub fn write_as(&self, id: &Id, out: &mut Vec<u8>) {
        write_edited(&self.body, Some((&self.id_at, id)), out);
    }

    /// Makes another request of it, under the same id. `params` must be a JSON object.
    pub fn rewrite(&mut self, method: &str, params: &[u8]) {
        let mut body = Vec::with_capacity(params.len() + 64);
        body.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
        let id_at = body.len();
        self.id.write(&mut body);
        self.id_at = id_at..body.len();
        body.extend_from_slice(b",\"method\":");
        json::write_str(&mut body, method);
        body.extend_from_slice(b",\"params\":");
        self.params_at = Some(body.len()..body.len() + params.len());
        body.extend_from_slice(params);
        body.push(b'}');
        self.body = body.into();
    }

    /// Puts a first member into its params. It must not have one of that name; `value` must be JSON.
    ///
    /// Returns whether there were params to put it into.
    pub fn insert(&mut self, name: &str, value: &[u8]) -> bool {
        let Some(at) = self.params_at.clone() else { return false };
        let mut member = Vec::with_capacity(name.len() + value.len() + 4);
        json::write_str(&mut member, name);
        member.push(b':');
        member.extend_from_slice(value);
        if Value::new(&self.body[at.clone()]).members().next().is_some() {
            member.push(b',');
        }
        let mut body = std::mem::take(&mut self.body).into_vec();
        body.splice(at.start + 1..at.start + 1, member.iter().copied());
        self.body = body.into();
        self.params_at = Some(at.start..at.end + member.len());
        if self.id_at.start > at.start {
            self.id_at = self.id_at.start + member.len()..self.id_at.end + member.len();
        }
        true
    }
}

fn write_edited(body: &[u8], id: Option<(&Range<usize>, &Id)>, out: &mut Vec<u8>) {
    let Some((at, id)) = id else { return frame::write(out, &[body]) };
    let mut text = Vec::with_capacity(20);
    id.write(&mut text);
    frame::write(out, &[&body[..at.start], &text, &body[at.end..]]);
}

/// Where `part`, a slice of `whole`, stands in it.
fn span(whole: &[u8], part: &[u8]) -> Range<usize> {
    let start = part.as_ptr().addr() - whole.as_ptr().addr();
    start..start + part.len()
}

/// Appends a reply with a result, which must be JSON.
pub fn write_result(out: &mut Vec<u8>, id: &Id, result: &[u8]) {
    let mut head = Vec::with_capacity(64);
    head.extend_from_slice(br#"{"jsonrpc":"2.0","id":"#);
    id.write(&mut head);
    head.extend_from_slice(br#","result":"#);
    frame::write(out, &[&head, result, b"}"]);
}

/// Appends a reply with an error that is JSON already.
pub fn write_failure(out: &mut Vec<u8>, id: &Id, error: &[u8]) {
    let mut head = Vec::with_capacity(64);
    head.extend_from_slice(br#"{"jsonrpc":"2.0","id":"#);
    id.write(&mut head);
    head.extend_from_slice(br#","error":"#);
    frame::write(out, &[&head, error, b"}"]);
}

/// Appends a reply with an error; `data` must be JSON. Without an id it is `null`, as for bytes that had none.
pub fn write_error(out: &mut Vec<u8>, id: Option<&Id>, code: i64, message: &str, data: Option<&[u8]>) {
    let mut head = Vec::with_capacity(128);
    head.extend_from_slice(br#"{"jsonrpc":"2.0","id":"#);
    match id {
        Some(id) => id.write(&mut head),
        None => head.extend_from_slice(b"null"),
    }
    head.extend_from_slice(br#","error":{"code":"#);
    Id::Number(code).write(&mut head);
    head.extend_from_slice(br#","message":"#);
    json::write_str(&mut head, message);
    match data {
        Some(data) => frame::write(out, &[&head, br#","data":"#, data, b"}}"]),
        None => frame::write(out, &[&head, b"}}"]),
    }
}

/// Appends a request; `params` must be JSON.
pub fn write_request(out: &mut Vec<u8>, id: &Id, method: &str, params: &[u8]) {
    let mut head = Vec::with_capacity(96);
    head.extend_from_slice(br#"{"jsonrpc":"2.0","id":"#);
    id.write(&mut head);
    head.extend_from_slice(br#","method":"#);
    json::write_str(&mut head, method);
    frame::write(out, &[&head, br#","params":"#, params, b"}"]);
}

/// Appends a notification; `params` must be JSON.
pub fn write_notification(out: &mut Vec<u8>, method: &str, params: &[u8]) {
    let mut head = Vec::with_capacity(96);
    head.extend_from_slice(br#"{"jsonrpc":"2.0","method":"#);
    json::write_str(&mut head, method);
    frame::write(out, &[&head, br#","params":"#, params, b"}"]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strict(text: &str) -> Result<Envelope<'_>, EnvelopeError> {
        Envelope::strict(text.as_bytes(), 20)
    }

    fn shape(text: &str) -> &'static str {
        match strict(text) {
            Err(EnvelopeError::Shape(what)) => what,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn kinds() {
        let e = strict(r#"{"jsonrpc":"2.0","id":7,"method":"ping","params":{"message":"x"}}"#).unwrap();
        assert!(matches!(&e.kind, Kind::Request { id: Id::Number(7), method, .. } if method == "ping"));
        let e = strict(r#"{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":1}}"#).unwrap();
        assert!(matches!(&e.kind, Kind::Notification { method, .. } if method == "$/cancelRequest"));
        let e = strict(r#"{"jsonrpc":"2.0","id":"a","result":null}"#).unwrap();
        assert!(matches!(&e.kind, Kind::Reply { id: Id::Text(_), outcome: Ok(v) } if v.text() == b"null"));
        let e = strict(r#"{"jsonrpc":"2.0","id":3,"error":{"code":1,"message":"m"}}"#).unwrap();
        assert!(matches!(&e.kind, Kind::Reply { outcome: Err(_), .. }));
    }

    #[test]
    fn refusals() {
        let id = "id must be an integer or a string";
        for bad in ["-0", "1.5", "null", "{}", "[1]", "true", "9007199254740993", "1e2"] {
            assert_eq!(shape(&format!(r#"{{"jsonrpc":"2.0","id":{bad},"method":"ping"}}"#)), id, "{bad}");
        }
        assert_eq!(shape("[]"), "expected one JSON object; batches are not supported");
        assert_eq!(shape("{}"), "expected \"jsonrpc\":\"2.0\"");
        assert_eq!(
            shape(r#"{"jsonrpc":"2.0","id":1,"Method":"ping"}"#),
            "unknown member beside jsonrpc, id, method, params, result, error"
        );
        assert_eq!(
            shape(r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":[1]}"#),
            "params must be an object"
        );
        let neither = "neither a request, a notification nor a reply";
        assert_eq!(shape(r#"{"jsonrpc":"2.0","id":1,"method":"ping","result":1}"#), neither);
        assert_eq!(shape(r#"{"jsonrpc":"2.0","id":1,"result":1,"error":{}}"#), neither);
        assert_eq!(shape(r#"{"jsonrpc":"2.0","id":1}"#), neither);
        assert!(matches!(strict(r#"{"id":1,"id":2}"#), Err(EnvelopeError::Json(_))));
    }

    fn rewritten(text: &str, id: &Id) -> String {
        let mut out = Vec::new();
        strict(text).unwrap().write_as(id, &mut out);
        let text = String::from_utf8(out).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert_eq!(head, format!("Content-Length: {}", body.len()));
        body.to_owned()
    }

    #[test]
    fn ids_are_exchanged_in_place() {
        let text = r#"{"jsonrpc":"2.0","id": 7 ,"method":"a","params":{"id":7}}"#;
        let expected = r#"{"jsonrpc":"2.0","id": "x" ,"method":"a","params":{"id":7}}"#;
        assert_eq!(rewritten(text, &Id::Text((*b"\"x\"").into())), expected);
        assert_eq!(
            rewritten(r#"{"jsonrpc":"2.0","method":"a"}"#, &Id::Number(4)),
            r#"{"jsonrpc":"2.0","method":"a"}"#
        );
        assert_eq!(
            rewritten(r#"{"result":1,"id":"abc","jsonrpc":"2.0"}"#, &Id::Number(-12)),
            r#"{"result":1,"id":-12,"jsonrpc":"2.0"}"#
        );
    }

    #[test]
    fn a_member_is_put_in_on_either_side_of_the_id() {
        for (text, expected) in [
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":1}}"#,
                r#"{"jsonrpc":"2.0","id":22,"method":"m","params":{"s":"x","a":1}}"#,
            ),
            (
                r#"{"jsonrpc":"2.0","params":{ },"id":1,"method":"m"}"#,
                r#"{"jsonrpc":"2.0","params":{"s":"x" },"id":22,"method":"m"}"#,
            ),
        ] {
            let mut request = strict(text).unwrap().to_request().unwrap();
            assert!(request.insert("s", b"\"x\""));
            assert_eq!(request.params().unwrap().get("s").unwrap().text(), b"\"x\"");
            let mut out = Vec::new();
            request.write_as(&Id::Number(22), &mut out);
            assert_eq!(String::from_utf8(out).unwrap().split_once("\r\n\r\n").unwrap().1, expected);
        }
    }

    #[test]
    fn writers() {
        let mut out = Vec::new();
        write_error(&mut out, None, -32700, "a \"b\"", Some(b"{}"));
        assert!(out.ends_with(
            br#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"a \"b\"","data":{}}}"#
        ));
        out.clear();
        write_result(&mut out, &Id::Number(0), b"null");
        assert!(out.ends_with(br#"{"jsonrpc":"2.0","id":0,"result":null}"#));
        out.clear();
        write_request(&mut out, &Id::Number(1), "m", b"{}");
        assert!(out.ends_with(br#"{"jsonrpc":"2.0","id":1,"method":"m","params":{}}"#));
        out.clear();
        write_notification(&mut out, "m", b"{}");
        assert!(out.ends_with(br#"{"jsonrpc":"2.0","method":"m","params":{}}"#));
    }
}
