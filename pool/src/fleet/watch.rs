//! Probing a fleet's servers, and what comes of it.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use jetway_config::pool::Backend;
use jetway_wire::peer::CallError;
use tokio::sync::{Semaphore, watch};
use tracing::{info, warn};

use super::{Fleet, Life, State};
use crate::{
    circuit::{Change, Circuit, Policy},
    error::Gone,
    probe::{self, ProbeError, Proved},
    server::{Failure, Server, Way},
    tally::Tally,
    telemetry,
};

/// After a failure the next probe comes soon: most often it settles whether the server is dead.
const RECHECK: Duration = Duration::from_millis(250);

/// What a probe found.
struct Answer {
    rtt: Duration,
    version: Option<String>,
}

impl Fleet {
    fn record(&self, index: usize, outcome: Result<Answer, Failure>) {
        let mut state = self.state();
        let State { lives, recycler, incarnations, .. } = &mut *state;
        let life = &mut lives[index];
        match outcome {
            Ok(Answer { rtt, version }) => {
                life.refused = false;
                if std::mem::take(&mut life.ended) || life.born.is_none() {
                    self.renew(index, life);
                    recycler.replaced(index);
                }
                life.tally.pinged(rtt);
                if life.circuit.succeeded() == Change::CameUp {
                    *incarnations += 1;
                    life.times_up += 1;
                    life.problem = None;
                    let server = self.server(index, *incarnations, version, life.tally.clone());
                    life.server = Some(Arc::new(server));
                    telemetry::backend(&self.ids[index], true);
                    info!(server = %self.ids[index], "CLI server is up");
                }
            }
            Err(failure) => self.failed(index, life, failure),
        }
    }

    pub(super) fn failed(&self, index: usize, life: &mut Life, Failure { cause: problem, refused }: Failure) {
        life.refused = refused;
        life.ended |= refused;
        let policy = Policy { failures: self.health.failures, cooldown: self.health.cooldown };
        let change = life.circuit.failed(policy, Instant::now());
        if change == Change::WentDown
            && let Some(server) = life.server.take()
        {
            let gone = Gone::Down { cause: problem.clone() };
            self.departures.add(&server, gone.clone());
            server.gone.send_replace(Some(gone));
        }
        if change == Change::WentDown || life.problem.as_ref() != Some(&problem) {
            warn!(server = %self.ids[index], problem, down = !life.circuit.is_closed(), "CLI server fails");
        }
        if !life.circuit.is_closed() {
            telemetry::backend(&self.ids[index], false);
        }
        life.problem = Some(problem);
    }

    fn server(&self, index: usize, incarnation: u64, version: Option<String>, tally: Arc<Tally>) -> Server {
        let backend = &self.backends[index];
        Server {
            id: self.ids[index].clone(),
            incarnation,
            way: Way::Tcp { host: backend.address.host.clone(), port: backend.address.port },
            token: backend.token.clone(),
            state: backend.state.clone(),
            pid: None,
            version,
            since: Instant::now(),
            meter: None,
            spare: Mutex::default(),
            gone: watch::Sender::new(None),
            tally,
        }
    }
}

/// The connections over which one server is probed.
#[derive(Default)]
struct Lines {
    kept: Option<Proved>,
    /// One on which a ping was not answered: it tells when that process ends.
    silent: Option<Proved>,
}

/// Probes one server over a connection that is kept, until the fleet closes.
pub(super) async fn watch_over(fleet: Arc<Fleet>, index: usize, tried: Arc<Semaphore>) {
    let mut lines = Lines::default();
    let mut tried = Some(tried);
    let probing = async {
        loop {
            let outcome = check(&fleet, index, &mut lines).await;
            fleet.record(index, outcome);
            if let Some(tried) = tried.take() {
                tried.add_permits(1);
            }
            wait(&fleet, index, &mut lines).await;
        }
    };
    fleet.closing.run_until_cancelled(probing).await;
}

/// One probe; after a failure another connection is made.
async fn check(fleet: &Fleet, index: usize, lines: &mut Lines) -> Result<Answer, Failure> {
    let Backend { address, token, .. } = &fleet.backends[index];
    let begun = Instant::now();
    let Lines { kept, silent } = lines;
    let was_kept = kept.is_some();
    let probe = async {
        if let Some(proved) = kept {
            return proved.ping().await;
        }
        let stream = probe::dial(&address.host, address.port).await.map_err(ProbeError::Dial)?;
        *kept = Some(probe::prove(stream, token.as_ref()).await?);
        Ok(())
    };
    match tokio::time::timeout(fleet.health.timeout, probe).await {
        Ok(Ok(())) => *silent = None,
        Ok(Err(error)) => {
            *kept = None;
            if was_kept && matches!(error, ProbeError::Call(_, CallError::Closed)) {
                fleet.state().lives[index].ended = true;
            }
            return Err(error.into());
        }
        Err(_) => {
            *silent = kept.take().or(silent.take());
            return Err(Failure::new(format!("no answer within {:?}", fleet.health.timeout)));
        }
    }
    let version = kept.as_ref().and_then(|proved| proved.version.clone());
    Ok(Answer { rtt: begun.elapsed(), version })
}

/// Until the next probe is due: at once when a connection breaks, after the cooldown when down.
async fn wait(fleet: &Fleet, index: usize, lines: &mut Lines) {
    let due = match fleet.state().lives[index].circuit {
        Circuit::Closed { failures: 0 } => Instant::now() + fleet.health.interval,
        Circuit::Closed { .. } | Circuit::Trying => Instant::now() + fleet.health.interval.min(RECHECK),
        Circuit::Open { until } => until,
    };
    let broken = tokio::select! {
        () = tokio::time::sleep_until(due.into()) => None,
        () = broken(&mut lines.kept) => Some(&mut lines.kept),
        () = broken(&mut lines.silent) => Some(&mut lines.silent),
    };
    if let Some(line) = broken {
        *line = None;
        fleet.state().lives[index].ended = true;
        // A server that hangs up again and again is not probed in a tight loop.
        tokio::time::sleep(fleet.health.interval.min(RECHECK) / 5).await;
    }
    fleet.state().lives[index].circuit.advance(Instant::now());
}

/// Until a connection ends, if there is one. Cancel safe.
async fn broken(line: &mut Option<Proved>) {
    match line {
        Some(proved) => proved.broken().await,
        None => std::future::pending().await,
    }
}
