//! Leaving a fleet's worn servers, so that whoever runs them can restart them. Jetway cannot: it says that it is to be
//! done, and takes a server back once it is seen to be another process.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tracing::{info, warn};

use super::{Fleet, Life, State};
use crate::{
    drain::DrainReason,
    recycle::{Step, Vitals},
    telemetry,
};

/// How often it is looked who is worn.
const LOOK: Duration = Duration::from_millis(500);

/// Looks after all servers, until the fleet closes.
pub(super) async fn tend(fleet: Arc<Fleet>) {
    let mut looks = tokio::time::interval(LOOK);
    while fleet.closing.run_until_cancelled(looks.tick()).await.is_some() {
        fleet.recycle(Instant::now());
    }
}

impl Fleet {
    fn recycle(&self, now: Instant) {
        let mut state = self.state();
        let State { homes, lives, recycler, .. } = &mut *state;
        let vitals = |(index, life): (usize, &Life)| (index, life.vitals(homes.load(index).0 > 0, now));
        let vitals: Vec<_> = lives.iter().enumerate().map(vitals).collect();
        for step in recycler.look(&vitals, now) {
            match step {
                Step::Leave(index, cause) => {
                    lives[index].set_draining(Some(DrainReason::Recycle));
                    telemetry::recycling(cause);
                    warn!(server = %self.ids[index], reason = %cause, "a CLI server is worn and is left: restart it");
                }
                Step::Spare(index, cause) => {
                    lives[index].set_draining(None);
                    warn!(server = %self.ids[index], reason = %cause, "nobody has restarted a worn CLI server: it is used as it is");
                }
            }
        }
    }

    /// Another process answers there than before.
    pub(super) fn renew(&self, index: usize, life: &mut Life) {
        life.tally.renew();
        life.born = Some(Instant::now());
        if life.draining == Some(DrainReason::Recycle) {
            life.set_draining(None);
            info!(server = %self.ids[index], "a worn CLI server was replaced");
        }
    }
}

impl Life {
    fn vitals(&self, used: bool, now: Instant) -> Vitals {
        Vitals {
            // One that is silent is down.
            hung: false,
            memory: None,
            slower: self.tally.slower(),
            age: self.born.map_or(Duration::ZERO, |born| now.saturating_duration_since(born)),
            turns: self.tally.turns.load(Ordering::Relaxed),
            sessions: self.tally.sessions.load(Ordering::Relaxed),
            used,
            open: self.is_open() && !self.refused,
            draining: self.draining,
        }
    }
}
