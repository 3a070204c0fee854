//! What the processes of one user may use, and that who takes more is stopped.

mod bounds;
mod cgroup;
mod disk;
mod usage;

use std::{
    collections::HashMap,
    fs::File,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jetway_config::{Identity, sandbox::ProcessLimits};
use tokio::{
    sync::{Semaphore, watch},
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};
use tracing::{info, warn};

pub use self::{bounds::Bounds, usage::Usage};
use self::{
    cgroup::{Cgroup, Cgroups},
    disk::Disk,
};
pub(crate) use self::{disk::size, usage::Meter};
use crate::{error::Limit, memory, state_dir::Home};

/// How often a process is looked at: who goes beyond a limit is stopped within twice that.
const LOOK: Duration = Duration::from_secs(1);

/// What is enforced on this host.
pub(crate) struct Limits {
    limits: ProcessLimits,
    cgroups: Cgroups,
    /// Without a control group only the CLI itself is measured.
    memory_by_hand: bool,
    /// What sessions ask for beyond that, by user.
    bounds: Mutex<HashMap<Identity, watch::Sender<Bounds>>>,
    /// One home is counted at a time: it keeps a disk busy.
    counting: Arc<Semaphore>,
}

/// The limits of one process and of what it starts, for as long as this lives.
pub(crate) struct Held {
    limits: ProcessLimits,
    cgroup: Cgroup,
    /// The home, and what sessions have of their own in it; not here while they are counted.
    disks: Option<Vec<Disk>>,
    memory_by_hand: bool,
    bounds: watch::Receiver<Bounds>,
    /// What the processes are held to.
    memory: u64,
    cpu: Option<f64>,
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
        let (bounds, counting) = (Mutex::default(), Arc::new(Semaphore::new(1)));
        Self { limits: *limits, cgroups, memory_by_hand, bounds, counting }
    }

    fn bounds(&self) -> MutexGuard<'_, HashMap<Identity, watch::Sender<Bounds>>> {
        self.bounds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether processors can be limited here.
    pub(crate) fn limits_cpu(&self) -> bool {
        self.cgroups.limits_cpu()
    }

    /// Holds a user's processes to `bounds` as well, those that run and those to come.
    pub(crate) fn bind(&self, who: &Identity, bounds: Bounds) {
        let mut all = self.bounds();
        all.entry(who.clone()).or_default().send_if_modified(|before| {
            let new = *before != bounds;
            if new {
                *before = bounds;
            }
            new
        });
        forget(&mut all);
    }

    /// For a process that is to be started; and the files by which it comes under them.
    pub(crate) fn hold(&self, who: &Identity, home: &Home) -> io::Result<(Held, Vec<File>)> {
        let cgroup = self.cgroups.make()?;
        let entrances = cgroup.entrances()?;
        let disks = Some(vec![Disk::new(home.path.clone(), self.limits.disk.0)]);
        let mut bounds = {
            let mut all = self.bounds();
            forget(&mut all);
            all.entry(who.clone()).or_default().subscribe()
        };
        bounds.mark_changed();
        let held = Held {
            limits: self.limits,
            cgroup,
            disks,
            memory_by_hand: self.memory_by_hand,
            bounds,
            memory: self.limits.memory.0,
            cpu: self.limits.cpu,
            counting: self.counting.clone(),
        };
        Ok((held, entrances))
    }
}

/// Forgets users of whom no process runs and no session asks for anything.
fn forget(bounds: &mut HashMap<Identity, watch::Sender<Bounds>>) {
    bounds.retain(|_, bounds| bounds.receiver_count() > 0 || *bounds.borrow() != Bounds::default());
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
            tokio::select! {
                _ = looks.tick() => {}
                // Its sender lasts as long as this.
                Ok(()) = self.bounds.changed() => {}
            }
            self.adjust(pid);
            if let Some(limit) = self.cgroup.met() {
                return limit;
            }
            if let Some(pid) = pid.filter(|_| self.memory_by_hand)
                && memory::private_bytes(pid) > self.memory
            {
                return Limit::Memory;
            }
            if self.disks.as_ref().is_some_and(|disks| disks.iter().any(Disk::is_due)) && self.count().await {
                return Limit::Disk;
            }
        }
    }

    /// Holds the processes to what sessions ask for now. Less memory than they hold already they are held to as soon
    /// as they hold no more: nothing is stopped for what it did when it might.
    fn adjust(&mut self, pid: Option<u32>) {
        let (memory, cpu) = {
            let bounds = self.bounds.borrow_and_update();
            if let Some(disks) = &mut self.disks {
                bounds.measure(disks);
            }
            bounds.within(&self.limits)
        };
        if memory != self.memory {
            let fits = !self.memory_by_hand || pid.is_none_or(|pid| memory::private_bytes(pid) <= memory);
            if fits && self.cgroup.limit_memory(memory).is_ok() {
                info!(pid, memory, "a user's processes are held to another limit of memory");
                self.memory = memory;
            }
        }
        if cpu != self.cpu {
            match self.cgroup.limit_cpu(cpu) {
                Ok(()) => info!(pid, cpu, "a user's processes are held to another limit of processors"),
                Err(error) => warn!(pid, %error, "limiting processors"),
            }
            self.cpu = cpu;
        }
    }

    /// Tells what the processes take, from now on.
    pub(crate) fn meter(&self, pid: Option<u32>) -> Meter {
        let (memory, cpu) = self.cgroup.accounts();
        Meter::new(pid, memory, cpu)
    }

    /// Whether the home, or a part of it that has a limit of its own, is beyond that.
    async fn count(&mut self) -> bool {
        let Ok(_turn) = self.counting.acquire().await else { return false };
        let Some(mut disks) = self.disks.take() else { return false };
        let counted = spawn_blocking(move || {
            let beyond = disks.iter_mut().filter(|disk| disk.is_due()).any(|disk| disk.is_beyond());
            (beyond, disks)
        });
        counted.await.is_ok_and(|(beyond, disks)| {
            self.disks = Some(disks);
            beyond
        })
    }
}
