//! What a ledger's lines say when read together: a pure fold over them.

use std::collections::HashMap;

use super::{
    MAX_ENTRIES, MAX_FINDINGS,
    ledger::{Entry, Event},
};

/// Two things about one session that should not have been at the same time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clash {
    /// What was there first.
    pub first: Entry,
    /// What came although it was.
    pub second: Entry,
}

/// What is wrong; each list keeps its first [`MAX_FINDINGS`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// A turn began while another of the same session ran, on whichever server.
    pub overlaps: Vec<Clash>,
    /// A server loaded a session that another server had not closed.
    pub forks: Vec<Clash>,
    /// A prompt's nonce was seen in an earlier turn: the turn was run twice.
    pub repeated: Vec<Clash>,
    /// Prompts that came while a turn of their session ran on the same server: legal, but the CLI's queue did the
    /// waiting, not the gateway's lock.
    pub queued: Vec<Entry>,
    /// `session.create` where it should have been `session.resume`.
    pub recreated: Vec<Entry>,
    /// Bytes that are no message.
    pub malformed: Vec<Entry>,
}

impl Findings {
    /// Whether nothing at all was found.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        *self == Self::default()
    }
}

/// The fold. Lines must be given in the order in which they were written.
#[derive(Debug, Default)]
pub struct Audit {
    /// Turns that have not ended, by session.
    running: HashMap<String, Vec<Entry>>,
    /// Servers that have a session open, by session.
    holders: HashMap<String, Vec<Entry>>,
    /// The first [`MAX_ENTRIES`] nonces, with the turns that brought them.
    nonces: HashMap<String, Entry>,
    findings: Findings,
}

impl Audit {
    /// What is wrong with these lines, for instance [`super::Ledger::read`]'s. A process that was killed wrote no
    /// [`Event::Crash`]: whoever killed it puts that line where it belongs.
    #[must_use]
    pub fn of<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Findings {
        let mut audit = Self::default();
        entries.into_iter().for_each(|entry| audit.see(entry));
        audit.findings
    }

    pub(super) fn findings(&self) -> &Findings {
        &self.findings
    }

    pub(super) fn see(&mut self, entry: &Entry) {
        let found = &mut self.findings;
        match entry.event {
            Event::Begin => {
                let running = self.running.entry(entry.session.clone()).or_default();
                clash(&mut found.overlaps, running.first(), entry);
                running.push(entry.clone());
                if let Some(nonce) = &entry.nonce {
                    clash(&mut found.repeated, self.nonces.get(nonce), entry);
                    if self.nonces.len() < MAX_ENTRIES {
                        self.nonces.entry(nonce.clone()).or_insert_with(|| entry.clone());
                    }
                }
            }
            Event::End | Event::Abort | Event::Lost => {
                remove(&mut self.running, &entry.session, |turn| {
                    (&turn.server, turn.turn) == (&entry.server, entry.turn)
                });
            }
            Event::Open => {
                let holders = self.holders.entry(entry.session.clone()).or_default();
                clash(&mut found.forks, holders.first(), entry);
                holders.push(entry.clone());
            }
            Event::Close => remove(&mut self.holders, &entry.session, |open| open.server == entry.server),
            Event::Crash => {
                for map in [&mut self.running, &mut self.holders] {
                    map.retain(|_, open| {
                        open.retain(|e| e.server != entry.server);
                        !open.is_empty()
                    });
                }
            }
            Event::Queued => keep(&mut found.queued, entry.clone()),
            Event::Recreated => keep(&mut found.recreated, entry.clone()),
            Event::Malformed(_) => keep(&mut found.malformed, entry.clone()),
        }
    }
}

fn clash(found: &mut Vec<Clash>, first: Option<&Entry>, second: &Entry) {
    if let Some(first) = first {
        keep(found, Clash { first: first.clone(), second: second.clone() });
    }
}

fn keep<T>(found: &mut Vec<T>, one: T) {
    if found.len() < MAX_FINDINGS {
        found.push(one);
    }
}

fn remove(map: &mut HashMap<String, Vec<Entry>>, session: &str, which: impl Fn(&Entry) -> bool) {
    if let Some(open) = map.get_mut(session) {
        open.retain(|entry| !which(entry));
        if open.is_empty() {
            map.remove(session);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(server: &str, session: &str, turn: u64, event: Event) -> Entry {
        let (server, session) = (server.to_owned(), session.to_owned());
        Entry { at_ms: 0, server, connection: 1, session, turn, nonce: None, event }
    }

    #[test]
    fn turns_one_after_the_other_are_clean() {
        let lines = [
            line("a", "s", 0, Event::Open),
            line("a", "s", 1, Event::Begin),
            line("a", "t", 2, Event::Begin),
            line("a", "s", 1, Event::End),
            line("a", "s", 0, Event::Close),
            line("b", "s", 0, Event::Open),
            line("b", "s", 1, Event::Begin),
        ];
        assert!(Audit::of(&lines).is_clean());
    }

    #[test]
    fn turns_at_once_overlap_and_open_twice_forks() {
        let lines = [
            line("a", "s", 0, Event::Open),
            line("a", "s", 1, Event::Begin),
            line("b", "s", 0, Event::Open),
            line("b", "s", 1, Event::Begin),
            line("a", "s", 1, Event::End),
        ];
        let findings = Audit::of(&lines);
        assert_eq!((findings.overlaps.len(), findings.forks.len()), (1, 1));
        assert_eq!((&*findings.overlaps[0].first.server, &*findings.overlaps[0].second.server), ("a", "b"));
    }

    #[test]
    fn a_crash_ends_what_its_server_held() {
        let lines = [
            line("a", "s", 0, Event::Open),
            line("a", "s", 1, Event::Begin),
            line("a", "", 0, Event::Crash),
            line("b", "s", 0, Event::Open),
            line("b", "s", 1, Event::Begin),
        ];
        assert!(Audit::of(&lines).is_clean());
    }
}
