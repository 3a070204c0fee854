//! What the processes of one user may use, and that who takes more is stopped.

mod cgroup;
mod disk;

use std::{fs::File, io, sync::Arc, time::Duration};

use jetway_config::sandbox::ProcessLimits;
use tokio::{
    sync::Semaphore,
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};
use tracing::warn;

use self::{
    cgroup::{Cgroup, Cgroups},
    disk::Disk,
};
use crate::{error::Limit, memory, state_dir::Home};

/// How often a process is looked at: who goes beyond a limit is stopped within twice that.
const LOOK: Duration = Duration::from_secs(1);

/// What is enforced on this host.
pub(crate) struct Limits {
    limits: ProcessLimits,
    cgroups: Cgroups,
    /// Without a control group only the CLI itself is measured.
    memory_by_hand: bool,
    /// One home is counted at a time: it keeps a disk busy.
    counting: Arc<Semaphore>,
}

/// The limits of one process and of what it starts, for as long as this lives.
pub(crate) struct Held {
    cgroup: Cgroup,
    disk: Option<Disk>,
    memory: Option<u64>,
    counting: Arc<Semaphore>,
}

impl Limits {
    /// Finds out what can be enforced, and says what cannot.
    pub(crate) fn find(limits: &ProcessLimits) -> Self {
        let (cgroups, missing) = Cgroups::find(limits);
        if !missing.is_empty() {
            warn!(
                missing = missing.join(", "),
                "no control groups to be had for these: of pool.process.limits, what a user's processes take of them \
                 together is not enforced; run Jetway as root, or with systemd's Delegate=yes and DelegateSubgroup="
            );
        }
        let memory_by_hand = missing.contains(&"memory");
        Self { limits: *limits, cgroups, memory_by_hand, counting: Arc::new(Semaphore::new(1)) }
    }

    /// For a process that is to be started; and the files by which it comes under them.
    pub(crate) fn hold(&self, home: &Home) -> io::Result<(Held, Vec<File>)> {
        let cgroup = self.cgroups.make()?;
        let entrances = cgroup.entrances()?;
        let disk = Some(Disk::new(home.path.clone(), self.limits.disk.0));
        let memory = self.memory_by_hand.then_some(self.limits.memory.0);
        Ok((Held { cgroup, disk, memory, counting: self.counting.clone() }, entrances))
    }
}

impl Held {
    /// Which limit the kernel held the processes to, if any.
    pub(crate) fn met(&self) -> Option<Limit> {
        self.cgroup.met()
    }

    /// Waits until the processes go beyond a limit, and says beyond which. `pid` is the CLI's. Cancel safe, but for a
    /// count of files that is not finished.
    pub(crate) async fn exceeded(&mut self, pid: Option<u32>) -> Limit {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            if let Some(limit) = self.cgroup.met() {
                return limit;
            }
            if let (Some(most), Some(pid)) = (self.memory, pid)
                && memory::private_bytes(pid) > most
            {
                return Limit::Memory;
            }
            if self.disk.as_ref().is_some_and(Disk::is_due) && self.count().await {
                return Limit::Disk;
            }
        }
    }

    /// Whether the home is beyond its limit.
    async fn count(&mut self) -> bool {
        let Ok(_turn) = self.counting.acquire().await else { return false };
        let Some(mut disk) = self.disk.take() else { return false };
        let counted = spawn_blocking(move || (disk.is_beyond(), disk)).await;
        counted.is_ok_and(|(beyond, disk)| {
            self.disk = Some(disk);
            beyond
        })
    }
}
