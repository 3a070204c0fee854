//! The life of one user's process: from its slot taken to its slot free.

use std::{
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, Instant},
};

use jetway_config::Identity;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tracing::{debug, info, warn};

use super::{PerUser, Running, Ticket};
use crate::{
    error::{Gone, Phase, PoolError, StopReason},
    launch::{LaunchError, Over, Process},
    pulse,
    server::{Server, ServerId},
    strays::Mark,
    tally::Tally,
    telemetry,
};

impl PerUser {
    /// A process's life, from its slot taken to its slot free.
    /// Somebody has waited for it since `begun`.
    pub(super) async fn run(self: Arc<Self>, who: Identity, begun: Instant) {
        let mut vacate = Vacate { pool: &self, who: &who, outcome: Some(Err(PoolError::ShuttingDown)) };
        let came_up = tokio::select! {
            came_up = self.bring_up(&who) => came_up,
            () = self.closing.cancelled() => Err(PoolError::ShuttingDown),
        };
        telemetry::spawned(came_up.as_ref().map(|_| begun.elapsed()));
        let (mut process, mark, permit) = match came_up {
            Ok(up) => up,
            Err(error) => {
                warn!(tenant = %who.tenant, user = %who.user, %error, "no CLI process");
                vacate.outcome = Some(Err(error));
                return;
            }
        };
        let server = Arc::new(self.server(&who, &mut process));
        let line = process.proved.take();
        info!(tenant = %who.tenant, user = %who.user, pid = process.pid,
            version = process.version, took_ms = begun.elapsed().as_millis() as u64, "CLI process ready");
        let stop = Arc::new(watch::Sender::new(None));
        let mut stopped = stop.subscribe();
        let running = Running { server: server.clone(), stop };
        tell(self.slots().started(&who, running, Instant::now()), Ok(()));
        self.moved.notify_one();
        vacate.outcome = Some(Ok(()));

        let reason = tokio::select! {
            over = process.over() => Err(over),
            reason = stopped.wait_for(Option::is_some) => Ok(reason.ok().and_then(|r| *r)),
            () = self.closing.cancelled() => Ok(None),
            () = pulse::until_silent(&server, line, self.ping_interval, self.failures) => {
                Err(Over::Silent)
            }
            never = server.drop_spare_in_time() => match never {},
        };
        let died = reason.is_err();
        let gone = self.end(&who, &mut process, reason).await;
        if died {
            vacate.died_after(server.since.elapsed());
        }
        telemetry::stopped(&gone);
        self.departures.add(&server, gone.clone());
        drop(mark);
        self.strays.notify_one();
        drop(permit);
        // First the slot: who hears that the server is gone may ask for another at once.
        drop(vacate);
        server.gone.send_replace(Some(gone));
    }

    /// Sees to it that a process has ended that is not used any more: it was told to stop, or is over by itself.
    async fn end(
        &self,
        who: &Identity,
        process: &mut Process,
        reason: Result<Option<StopReason>, Over>,
    ) -> Gone {
        match reason {
            Err(Over::Ended(status)) => {
                let words = process.last_words().await;
                warn!(tenant = %who.tenant, user = %who.user, status, words, "CLI process ended by itself");
                Gone::Exited { status }
            }
            Err(Over::Exceeded(limit)) => kill(who, process, StopReason::Exceeded(limit)).await,
            Err(Over::Silent) => kill(who, process, StopReason::Silent).await,
            Ok(reason) => {
                let reason = reason.unwrap_or(StopReason::Shutdown);
                let status = process.stop(self.hurry.cancelled()).await;
                info!(tenant = %who.tenant, user = %who.user, %reason, status, "CLI process stopped");
                Gone::Stopped(reason)
            }
        }
    }

    /// A process that is ready, its mark, and its place among the processes.
    async fn bring_up(&self, who: &Identity) -> Result<(Process, Mark, OwnedSemaphorePermit), PoolError> {
        let begun = Instant::now();
        let timeout = |phase| PoolError::StartTimeout { phase, after: begun.elapsed() };
        let room = tokio::time::timeout(self.launcher.start_timeout, self.room.clone().acquire_owned());
        let permit = room.await.map_err(|_| timeout(Phase::Room))?.map_err(|_| PoolError::ShuttingDown)?;
        for attempt in 1.. {
            let mark = self.marks.mark();
            let error = match self.launcher.launch(who, mark.as_os_str()).await {
                Ok(process) => return Ok((process, mark, permit)),
                Err(error) => error,
            };
            drop(mark);
            self.strays.notify_one();
            let now = Instant::now();
            let delay = {
                let mut slots = self.slots();
                slots.died(who, Duration::ZERO, now);
                slots.delay(who, now)
            };
            if let LaunchError::Timeout { phase } = error {
                return Err(timeout(phase));
            }
            if attempt >= self.attempts || !error.is_worth_retrying() {
                let (cause, after) = (error.to_string(), begun.elapsed());
                return Err(PoolError::Launch { cause, attempts: attempt, after });
            }
            debug!(tenant = %who.tenant, user = %who.user, attempt, %error, "CLI process did not come up");
            tokio::time::sleep(delay).await;
        }
        Err(PoolError::ShuttingDown)
    }

    fn server(&self, who: &Identity, process: &mut Process) -> Server {
        Server {
            id: ServerId::of_user(who),
            incarnation: self.incarnations.fetch_add(1, Ordering::Relaxed),
            way: process.way.clone(),
            token: Some(process.token.clone()),
            state: None,
            pid: process.pid,
            meter: Some(process.meter.clone()),
            version: process.version.clone(),
            since: Instant::now(),
            spare: Mutex::new(process.spare.take()),
            gone: watch::Sender::new(None),
            tally: Arc::new(Tally::default()),
        }
    }
}

/// Nothing is to be gained by asking it to end.
async fn kill(who: &Identity, process: &mut Process, reason: StopReason) -> Gone {
    let status = process.stop(std::future::ready(())).await;
    warn!(tenant = %who.tenant, user = %who.user, %reason, status, "CLI process was killed");
    Gone::Stopped(reason)
}

/// Frees the slot of a process's task, however that ends, and tells those who wait.
struct Vacate<'a> {
    pool: &'a PerUser,
    who: &'a Identity,
    outcome: Option<Result<(), PoolError>>,
}

impl Vacate<'_> {
    fn died_after(&self, ran_for: Duration) {
        self.pool.slots().died(self.who, ran_for, Instant::now());
    }
}

impl Drop for Vacate<'_> {
    fn drop(&mut self) {
        let waiting = self.pool.slots().ended(self.who);
        tell(waiting, self.outcome.take().unwrap_or(Ok(())));
        self.pool.moved.notify_one();
    }
}

fn tell(waiting: Option<Ticket>, outcome: Result<(), PoolError>) {
    if let Some(ticket) = waiting {
        ticket.send_replace(Some(outcome));
    }
}
