//! Loading the configuration again, on request or when one of its files changed.
//!
//! A bad one changes nothing. Files count by what they hold, not by their times, so that a secret which a platform
//! swaps by a link is seen as well; and only when they held the same at two looks, so that a half-written one is not.

use std::{fmt::Display, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};
use tracing::{error, info, warn};

use jetway_config::{Config, Fingerprint, Sources};

use crate::{
    app::Core,
    audit::Event,
    auth::{self, Rules},
    metrics,
    policy::patterns,
};

/// How often the files are looked at. A change takes effect after one to two of these.
const LOOK: Duration = Duration::from_secs(1);

/// Asks for the configuration to be loaded again.
#[derive(Debug, Clone)]
pub struct Reload(mpsc::Sender<()>);

impl Reload {
    /// Has it loaded now, whether a file changed or not.
    pub fn now(&self) {
        // One that waits already will see what there is now.
        let _ = self.0.try_send(());
    }
}

/// What became of a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Something takes effect.
    Changed,
    /// It is what it was.
    Unchanged,
    /// It is wrong, and the old one stays.
    Refused,
}

impl Outcome {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Outcome::Changed => "changed",
            Outcome::Unchanged => "unchanged",
            Outcome::Refused => "refused",
        }
    }
}

/// Loads it again whenever that is asked for or a file changed, until connections are to be closed.
pub(crate) fn start(core: &Arc<Core>, sources: Sources, running: Config) -> Reload {
    let (ask, mut asked) = mpsc::channel(1);
    let core = core.clone();
    let mut reloader = Reloader { core: core.clone(), sources: sources.again(), running, seen: None };
    core.tracker.clone().spawn(async move {
        let closing = core.drain.closing().clone();
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let now = tokio::select! {
                () = closing.cancelled() => return,
                Some(()) = asked.recv() => true,
                _ = ticks.tick() => false,
            };
            // Files may be slow, as those of a network.
            let stepped = spawn_blocking(move || {
                reloader.step(now);
                reloader
            });
            match stepped.await {
                Ok(back) => reloader = back,
                Err(error) => return error!(%error, "the configuration is not watched any more"),
            }
        }
    });
    Reload(ask)
}

struct Reloader {
    core: Arc<Core>,
    sources: Sources,
    /// What is in effect.
    running: Config,
    /// What they held at the last look.
    seen: Option<Fingerprint>,
}

impl Reloader {
    fn step(&mut self, asked: bool) {
        let held = self.sources.now();
        let changed = held != self.sources.loaded();
        let settled = self.seen.replace(held.clone()) == Some(held);
        if asked || (changed && settled) {
            let outcome = self.load(asked).as_str();
            metrics::reloaded(outcome);
            self.core.audit.record(&Event::Operated { act: "reload", target: None, outcome });
        }
        if asked {
            self.core.audit.reopen();
        }
    }

    /// Reads all of it, and puts it into effect as a whole.
    fn load(&mut self, asked: bool) -> Outcome {
        let reloaded = self.running.load_again(&self.sources);
        let reloaded = reloaded.and_then(|new| patterns::check(&new.config).map(|()| new));
        let reloaded = match reloaded {
            Ok(reloaded) => reloaded,
            Err(errors) => return refused(errors.iter()),
        };
        let live = reloaded.config.clone().split().1;
        let Core { tracker, drain, tls, .. } = &*self.core;
        let rules = Rules::new(live, Some(&self.core.live()), tracker, drain.closing());
        let (rules, certificate) = match (rules, tls.load_again()) {
            (Ok(rules), Ok(certificate)) => (rules, certificate),
            (rules, certificate) => return refused(rules.err().iter().chain(certificate.err().iter())),
        };
        for key in &reloaded.restart {
            warn!(key, "this change needs a restart");
        }
        if reloaded.changed.is_empty() && certificate.is_none() {
            if asked {
                info!("configuration loaded again: nothing that takes effect has changed");
            }
            return Outcome::Unchanged;
        }
        if let Some(certificate) = certificate {
            tls.put_into_effect(certificate);
            info!("new connections get the new certificate");
        }
        self.running = reloaded.config;
        self.core.put_into_effect(rules);
        info!(changed = ?reloaded.changed, "configuration loaded again");
        auth::sweep(&self.core);
        Outcome::Changed
    }
}

fn refused<E: Display>(errors: impl Iterator<Item = E>) -> Outcome {
    let count = errors.map(|error| error!(%error, "configuration not loaded again")).count();
    error!(errors = count, "the configuration in effect stays");
    Outcome::Refused
}
