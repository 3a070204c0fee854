//! How a CLI's notifications look.

use std::{
    cell::{Cell, RefCell},
    time::{SystemTime, UNIX_EPOCH},
};

use jetway_wire::json::write_str;

/// The time as the CLI writes it, formatted once a millisecond, and ids that look like its UUIDs.
#[derive(Debug)]
pub(super) struct Source {
    now: RefCell<(u64, String)>,
    random: Cell<u64>,
}

impl Source {
    pub(super) fn new() -> Self {
        let seed = u64::from(std::process::id()) ^ millis().rotate_left(20);
        Self { now: RefCell::new((0, String::new())), random: Cell::new(seed | 1) }
    }

    /// `2026-11-21T01:16:58.569Z`.
    pub(super) fn now<T>(&self, with: impl FnOnce(&str) -> T) -> T {
        let mut now = self.now.borrow_mut();
        let ms = millis();
        if now.0 != ms {
            *now = (ms, rfc3339(ms));
        }
        with(&now.1)
    }

    fn random(&self) -> u64 {
        // splitmix64: ids must differ, and that is all.
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn uuid(&self) -> Uuid {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let bits = (u128::from(self.random()) << 64) | u128::from(self.random());
        let mut text = *b"00000000-0000-4000-8000-000000000000";
        for (i, byte) in text.iter_mut().enumerate() {
            if *byte == b'0' {
                *byte = HEX[(bits >> ((i * 4) % 128)) as usize & 15];
            }
        }
        Uuid(text)
    }
}

/// A version 4 UUID, as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Uuid([u8; 36]);

impl Uuid {
    pub(super) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

fn millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn rfc3339(ms: u64) -> String {
    let (days, rest) = (ms / 86_400_000, ms % 86_400_000);
    // Civil date from days since 1970, counted in 400-year eras that begin in March.
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + u64::from(month <= 2);
    let (h, m, s, ms) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1000 % 60, rest % 1000);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{ms:03}Z")
}

/// What a session is told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Event<'a> {
    pub(super) kind: &'a str,
    /// JSON.
    pub(super) data: &'a [u8],
    /// Persisted events are what `getMessages` returns, and each is announced by `session.lifecycle`.
    pub(super) ephemeral: bool,
}

/// Appends the event itself: what stands in `params.event`, in `events.jsonl` and in `getMessages`.
pub(super) fn write_event(
    out: &mut Vec<u8>,
    event: Event<'_>,
    id: &Uuid,
    parent: Option<&Uuid>,
    source: &Source,
) {
    put(out, &[br#"{"type":""#, event.kind.as_bytes(), br#"","data":"#, event.data]);
    if event.ephemeral {
        out.extend_from_slice(br#","ephemeral":true"#);
    }
    source.now(|now| put(out, &[br#","id":""#, &id.0, br#"","timestamp":""#, now.as_bytes(), b"\""]));
    match parent {
        Some(parent) => put(out, &[br#","parentId":""#, &parent.0, b"\"}"]),
        None => out.extend_from_slice(br#","parentId":null}"#),
    }
}

/// Appends the body of a `session.lifecycle` notification.
pub(super) fn write_lifecycle(out: &mut Vec<u8>, kind: &str, session: &str, start: &str, source: &Source) {
    let head = br#"{"jsonrpc":"2.0","method":"session.lifecycle","params":{"type":""#;
    put(out, &[head, kind.as_bytes(), br#"","sessionId":"#]);
    write_str(out, session);
    if kind != "session.deleted" {
        put(out, &[br#","metadata":{"startTime":""#, start.as_bytes()]);
        source.now(|now| put(out, &[br#"","modifiedTime":""#, now.as_bytes(), br#""}"#]));
    }
    out.extend_from_slice(b"}}");
}

/// Appends all of them.
pub(super) fn put(out: &mut Vec<u8>, parts: &[&[u8]]) {
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(rfc3339(1_795_223_818_569), "2026-11-21T01:16:58.569Z");
        assert_eq!(rfc3339(1_798_761_599_999), "2026-12-31T23:59:59.999Z");
    }

    #[test]
    fn uuids_differ_and_look_right() {
        let source = Source::new();
        let (a, b) = (source.uuid(), source.uuid());
        assert_ne!(a, b);
        assert_eq!((a.0[14], a.0[8], a.0[23]), (b'4', b'-', b'-'));
    }
}
