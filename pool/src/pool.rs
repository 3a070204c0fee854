//! One face for both ways to have CLI servers.

use std::{sync::Arc, time::Instant};

use jetway_config::{
    Identity, Limits, TenantId,
    pool::{Pool as Settings, PoolMode},
};

use tokio::sync::watch;
use tracing::info;

use crate::{
    drain::{Departed, DrainReason},
    error::{PoolError, StartError},
    fleet::Fleet,
    limits::{Bounds, Usage},
    memory::Memory,
    per_user::PerUser,
    sandbox::Outside,
    server::{Attachment, Readiness, ServerId, ServerStatus},
    workspace::Workspace,
};

/// The CLI servers. Clones are cheap and the same pool; the last one to go takes the processes with it,
/// though without waiting for them: see [`Pool::shutdown`].
#[derive(Clone)]
pub struct Pool(Arc<Inner>);

struct Inner(Kind);

enum Kind {
    PerUser(Arc<PerUser>),
    Fleet(Arc<Fleet>),
}

impl Drop for Inner {
    fn drop(&mut self) {
        match &self.0 {
            Kind::PerUser(pool) => pool.close(),
            Kind::Fleet(fleet) => fleet.close(),
        }
    }
}

impl Pool {
    /// A pool as `[pool]` says. In per-user mode it finds the CLI, locks the state directory and tries out the
    /// sandbox, which has `outside` of the world; on a fleet it returns when each server has answered its first probe or
    /// failed it.
    ///
    /// # Errors
    ///
    /// What only the operator can mend. A fleet that is down is not among that: it may come up.
    pub async fn start(
        settings: &Settings,
        limits: &Limits,
        outside: Arc<dyn Outside>,
    ) -> Result<Self, StartError> {
        let kind = match settings.mode {
            PoolMode::PerUser => {
                let Settings { process, health, recycle, .. } = settings;
                Kind::PerUser(
                    PerUser::start(process, health, recycle, limits.cli_start_attempts, outside).await?,
                )
            }
            PoolMode::Fleet => {
                Kind::Fleet(Fleet::start(&settings.fleet, &settings.health, &settings.recycle).await)
            }
        };
        Ok(Self(Arc::new(Inner(kind))))
    }

    /// The server on which `who` is at home. Per-user: their process, started if need be, once for all who ask, as one
    /// of at most `of_tenant` of their tenant. So many are started at a time; the others are in line for `start_timeout`
    /// at most, and so are those for whom nobody makes room. Who goes away does not stop the start, but leaves the line.
    /// Fleet: the server on which they are, or where the ring places them. Cancel safe.
    ///
    /// # Errors
    ///
    /// Any [`PoolError`] but `NotRunning` and `Unreachable`.
    pub async fn home(&self, who: &Identity, of_tenant: usize) -> Result<Attachment, PoolError> {
        match &self.0.0 {
            Kind::PerUser(pool) => pool.home(who, of_tenant).await,
            Kind::Fleet(fleet) => fleet.home(who),
        }
    }

    /// Use of a given server, for a session that lives elsewhere than at its caller's home.
    ///
    /// # Errors
    ///
    /// `NotRunning` for a process that does not run (`home` of its user starts it) and for a server that is not
    /// configured, `Unreachable` for one that is down, `ShuttingDown`.
    pub fn attach(&self, id: &ServerId) -> Result<Attachment, PoolError> {
        match &self.0.0 {
            Kind::PerUser(pool) => pool.attach(id),
            Kind::Fleet(fleet) => fleet.attach(id),
        }
    }

    /// Use of the server on which a session of `who` that nobody has attached is to be loaded: the one on which it
    /// lived last, `id`; or one that shares its state with that, if that is drained or known to have ended. Of a
    /// server that is merely silent nothing is known: it may yet write to the session's state.
    ///
    /// # Errors
    ///
    /// As [`attach`](Self::attach); on per-user, as [`home`](Self::home).
    pub async fn place_of(
        &self,
        id: &ServerId,
        who: &Identity,
        of_tenant: usize,
    ) -> Result<Attachment, PoolError> {
        match &self.0.0 {
            Kind::PerUser(pool) => pool.home(&id.user().unwrap_or_else(|| who.clone()), of_tenant).await,
            Kind::Fleet(fleet) => fleet.place_of(id, who),
        }
    }

    /// Of which tenants, or of whom at all (`None`), somebody who does nothing is to let go of a process, for others
    /// wait for theirs. Told whenever one more is wanted; `None` on a fleet.
    pub fn short(&self) -> Option<watch::Receiver<Vec<Option<TenantId>>>> {
        match &self.0.0 {
            Kind::PerUser(pool) => Some(pool.short()),
            Kind::Fleet(_) => None,
        }
    }

    /// Stops processes that nobody uses of tenants that have more than `most` says, as after that was changed; returns
    /// which tenants have too many still, and how many.
    pub fn trim(&self, most: impl Fn(&TenantId) -> usize) -> Vec<(TenantId, usize)> {
        match &self.0.0 {
            Kind::PerUser(pool) => pool.trim(most),
            Kind::Fleet(_) => Vec::new(),
        }
    }

    /// Every server, in no order (per-user) or as configured (fleet).
    pub fn status(&self) -> Vec<ServerStatus> {
        match &self.0.0 {
            Kind::PerUser(pool) => pool.status(),
            Kind::Fleet(fleet) => fleet.status(),
        }
    }

    /// Has a server left: nobody new is placed there. A fleet's server stays so until [`Pool::undrain`], over
    /// all its lives. A process is stopped when nothing is attached to it any more; the next use of its user
    /// starts another.
    ///
    /// # Errors
    ///
    /// `NotRunning` for a process that does not run, and for a server that is not configured.
    pub fn drain(&self, id: &ServerId) -> Result<(), PoolError> {
        info!(server = %id, "draining a CLI server");
        match &self.0.0 {
            Kind::PerUser(pool) => pool.drain(id, DrainReason::Operator),
            Kind::Fleet(fleet) => fleet.drain(id, DrainReason::Operator),
        }
    }

    /// Takes [`Pool::drain`] back.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn undrain(&self, id: &ServerId) -> Result<(), PoolError> {
        info!(server = %id, "no longer draining a CLI server");
        match &self.0.0 {
            Kind::PerUser(pool) => pool.undrain(id),
            Kind::Fleet(fleet) => fleet.undrain(id),
        }
    }

    /// Whether it is known that a fleet's server has ended, and with it whatever it had in memory.
    pub fn has_ended(&self, id: &ServerId) -> bool {
        match &self.0.0 {
            Kind::PerUser(_) => false,
            Kind::Fleet(fleet) => fleet.has_ended(id),
        }
    }

    /// Whether another server can go on with the sessions of that one.
    pub fn has_successor(&self, id: &ServerId) -> bool {
        match &self.0.0 {
            Kind::PerUser(_) => false,
            Kind::Fleet(fleet) => fleet.has_successor(id),
        }
    }

    /// The servers that are down; none where processes are users' own.
    pub fn down(&self) -> Vec<ServerId> {
        match &self.0.0 {
            Kind::PerUser(_) => Vec::new(),
            Kind::Fleet(fleet) => fleet.down(),
        }
    }

    /// The servers that are being left.
    pub fn draining(&self) -> Vec<ServerId> {
        match &self.0.0 {
            Kind::PerUser(pool) => pool.draining(),
            Kind::Fleet(fleet) => fleet.draining(),
        }
    }

    /// The lives of servers that ended last, newest first.
    pub fn departed(&self) -> Vec<Departed> {
        match &self.0.0 {
            Kind::PerUser(pool) => pool.departed(),
            Kind::Fleet(fleet) => fleet.departed(),
        }
    }

    /// Whether work can be taken.
    pub fn ready(&self) -> Readiness {
        match &self.0.0 {
            Kind::PerUser(pool) => pool.ready(),
            Kind::Fleet(fleet) => fleet.ready(),
        }
    }

    /// Holds a user's processes to what sessions ask for, at once and from now on; nothing of it on a fleet.
    pub fn bind(&self, who: &Identity, bounds: Bounds) {
        if let Kind::PerUser(pool) = &self.0.0 {
            pool.bind(who, bounds);
        }
    }

    /// Whether sessions can have processors limited.
    pub fn limits_cpu(&self) -> bool {
        matches!(&self.0.0, Kind::PerUser(pool) if pool.limits_cpu())
    }

    /// What a user's processes take; `None` on a fleet, and while none runs.
    pub fn usage(&self, who: &Identity) -> Option<Usage> {
        match &self.0.0 {
            Kind::PerUser(pool) => pool.usage(who),
            Kind::Fleet(_) => None,
        }
    }

    /// Where a session of a user's may have files of its own; `None` on a fleet, whose hosts are not ours. `name` is
    /// one file name.
    pub fn workspace(&self, who: &Identity, name: &str) -> Option<Workspace> {
        match &self.0.0 {
            Kind::PerUser(pool) => Some(pool.workspace(who, name)),
            Kind::Fleet(_) => None,
        }
    }

    /// What this pool's processes hold and may hold, as of a moment ago; `None` on a fleet.
    pub fn memory(&self) -> Option<Memory> {
        match &self.0.0 {
            Kind::PerUser(pool) => Some(pool.memory()),
            Kind::Fleet(_) => None,
        }
    }

    /// Ends all processes and the watching of the fleet, and waits for that. What has not ended by `deadline` is
    /// killed. From now on `home` and `attach` fail with `ShuttingDown`.
    pub async fn shutdown(&self, deadline: Instant) {
        match &self.0.0 {
            Kind::PerUser(pool) => pool.shutdown(deadline).await,
            Kind::Fleet(fleet) => fleet.shutdown().await,
        }
    }
}
