//! What must hold for any bytes. Each panics where it does not.

use jetway_wire::{
    Envelope, Id, Kind, Value,
    catalogue::{self, Thing},
    frame::{Caps, Decoder},
    json,
};

/// As deep as is let through; serde_json stops at 128.
pub(crate) const DEPTH: usize = 100;

const CAPS: Caps = Caps { header: 128, body: 4096 };

/// However a stream is cut into reads, its frames are the same, and it is sound or not.
pub(crate) fn frame(data: &[u8]) {
    let Some((cut, stream)) = data.split_first() else { return };
    let whole = decode(stream, stream.len().max(1));
    assert_eq!(whole, decode(stream, usize::from(*cut).max(1)));
    assert_eq!(whole, decode(stream, 1));
    assert!(whole.0.iter().all(|body| !body.is_empty() && body.len() <= CAPS.body));
}

fn decode(stream: &[u8], cut: usize) -> (Vec<Vec<u8>>, bool) {
    let mut decoder = Decoder::new(CAPS);
    let mut bodies = Vec::new();
    for chunk in stream.chunks(cut) {
        let mut batch = decoder.feed(chunk);
        loop {
            match batch.next() {
                Ok(Some(frame)) => bodies.push(frame.body.to_vec()),
                Ok(None) => break,
                Err(_) => return (bodies, false),
            }
        }
    }
    (bodies, true)
}

/// What passes, another reader takes as well, and finds the same in it. What another reader takes and does not pass
/// is refused for one of the reasons that there are.
pub(crate) fn json(data: &[u8]) {
    let checked = json::check(data, DEPTH);
    let read = serde_json::from_slice::<serde_json::Value>(data);
    match (checked, read) {
        (Ok(()), Ok(read)) => same(Value::new(data), &read),
        (Ok(()), Err(e)) => panic!("passed, and serde_json says: {e}"),
        (Err(e), Ok(_)) => assert!(
            ["duplicate key", "key `__proto__`", "nested too deeply"].contains(&e.what),
            "refused, though serde_json takes it: {e}"
        ),
        (Err(_), Err(_)) => {}
    }
    // Unchecked, as a CLI server's: anything may come out, but something does.
    let value = Value::new(data);
    let _ = (value.members().count(), value.elements().count(), value.as_str(), value.as_i64());
}

fn same(value: Value<'_>, read: &serde_json::Value) {
    use serde_json::Value::{Array, Bool, Null, Number, Object, String};
    match read {
        Null => assert_eq!(value.text(), b"null"),
        Bool(read) => assert_eq!(value.as_bool(), Some(*read)),
        Number(read) => assert!(read.as_i64().is_none_or(|read| value.as_i64() == Some(read))),
        String(read) => assert_eq!(value.as_str().as_deref(), Some(read.as_str())),
        Array(read) => {
            assert_eq!(value.elements().count(), read.len());
            value.elements().zip(read).for_each(|(value, read)| same(value, read));
        }
        Object(read) => {
            assert_eq!(value.members().count(), read.len());
            for (key, value) in value.members() {
                let read = &read[&*key.text()];
                assert!(key.is(&key.text()));
                same(value, read);
            }
        }
    }
}

/// What passes is what another reader sees, and stays that when its id is exchanged.
pub(crate) fn envelope(data: &[u8]) {
    let _ = Envelope::trusted(data);
    let Ok(envelope) = Envelope::strict(data, DEPTH) else { return };
    let read: serde_json::Value = serde_json::from_slice(data).expect("passed");
    assert_eq!(read["jsonrpc"], "2.0");
    let (method, params) = match &envelope.kind {
        Kind::Request { method, params, id } => {
            assert_eq!(id_of(id), read["id"]);
            (Some(method), params)
        }
        Kind::Notification { method, params } => (Some(method), params),
        Kind::Reply { id, .. } => {
            assert_eq!(id_of(id), read["id"]);
            (None, &None)
        }
    };
    assert_eq!(method.map(|m| serde_json::Value::from(&**m)).unwrap_or_default(), read["method"]);
    if let Some(params) = params {
        same(*params, &read["params"]);
    }
    let mut out = Vec::new();
    envelope.write_as(&Id::Number(77), &mut out);
    let start = out.windows(4).position(|w| w == b"\r\n\r\n").expect("a frame") + 4;
    let mut expected = read;
    if expected.get("id").is_some() {
        expected["id"] = 77.into();
    }
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&out[start..]).ok(), Some(expected));
}

fn id_of(id: &Id) -> serde_json::Value {
    let mut text = Vec::new();
    id.write(&mut text);
    serde_json::from_slice(&text).expect("an id is JSON")
}

/// Whatever stands in params, looking for what concerns others in them ends.
pub(crate) fn catalogue(data: &[u8]) {
    let Some((which, params)) = data.split_first() else { return };
    let known = [
        "session.create",
        "session.options.update",
        "session.send",
        "sessions.open",
        "sessions.enrichMetadata",
    ];
    let method = catalogue::lookup(known[usize::from(*which) % known.len()]).expect("known");
    let params = Value::new(params);
    method.session_ids(params, |id| drop(id.as_str()));
    let _ = method.missing(params).count();
    let found = method.things(params, |thing: Thing<'_, '_>| {
        assert!(!thing.at.is_empty());
        Ok::<_, ()>(())
    });
    assert_eq!(found, Ok(()));
}
