//! Whether a process of a user's still answers, and how fast: it is pinged over a connection of its own.

use std::time::{Duration, Instant};

use jetway_config::SecretString;
use tokio::time::{sleep_until, timeout};

use crate::{
    probe::{self, ProbeError, Proved},
    server::Server,
};

/// A process that has left every ping unanswered for so long is taken to be dead: as long as turns are kept whose
/// client has vanished, and longer than any host was seen to be busy. Until then only what is quiet is taken from it.
const DEAD_AFTER: Duration = Duration::from_secs(300);

/// Since when how many pings in a row had no answer.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Silence {
    pings: u32,
    since: Option<Instant>,
}

impl Silence {
    fn note(&mut self, answered: bool, now: Instant) {
        if answered {
            *self = Self::default();
        } else {
            self.pings = self.pings.saturating_add(1);
            self.since.get_or_insert(now);
        }
    }

    /// Whether as many as `failures` in a row had none.
    pub(crate) fn is_hung(self, failures: u32) -> bool {
        self.pings >= failures
    }

    fn is_death(self, failures: u32, now: Instant) -> bool {
        self.is_hung(failures) && self.since.is_some_and(|since| now >= since + DEAD_AFTER)
    }
}

/// Pings a process every now and then, and keeps account of its answers, until it is taken to be dead: after
/// `failures` pings without answer at least.
pub(crate) async fn until_silent(server: &Server, line: Option<Proved>, every: Duration, failures: u32) {
    let mut line = line;
    loop {
        let due = Instant::now() + every;
        wait(&mut line, due).await;
        let begun = Instant::now();
        let answered = timeout(every, ping(server, &mut line)).await;
        if matches!(answered, Ok(Err(_))) {
            line = None;
        }
        let answered = matches!(answered, Ok(Ok(())));
        if answered {
            server.tally.pinged(begun.elapsed());
        }
        let now = Instant::now();
        let silence = server.tally.silence(|silence| {
            silence.note(answered, now);
            *silence
        });
        if silence.is_death(failures, now) {
            return;
        }
    }
}

/// Takes what the process tells everybody meanwhile.
async fn wait(line: &mut Option<Proved>, due: Instant) {
    let due = due.into();
    if let Some(proved) = line
        && tokio::time::timeout_at(due, proved.broken()).await.is_ok()
    {
        *line = None;
    }
    sleep_until(due).await;
}

async fn ping(server: &Server, line: &mut Option<Proved>) -> Result<(), ProbeError> {
    match line {
        Some(proved) => proved.ping().await,
        None => {
            let token: Option<&SecretString> = server.token.as_ref();
            *line = Some(probe::prove(server.way.dial().await?, token).await?);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_hung_at_first_and_death_in_the_end() {
        let begun = Instant::now();
        let mut silence = Silence::default();
        for n in 1..=3 {
            assert!(!silence.is_hung(3));
            silence.note(false, begun + Duration::from_secs(10 * n));
        }
        let since = begun + Duration::from_secs(10);
        assert!(silence.is_hung(3) && !silence.is_death(3, since + DEAD_AFTER / 2));
        assert!(silence.is_death(3, since + DEAD_AFTER) && !silence.is_death(4, since + DEAD_AFTER));
        silence.note(true, begun + DEAD_AFTER);
        assert!(!silence.is_hung(1) && !silence.is_death(1, begun + 3 * DEAD_AFTER), "one answer is enough");
    }
}
