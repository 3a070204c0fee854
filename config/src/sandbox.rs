//! What users' CLI processes are walled in with, and what each may use.

use crate::{error::Problem, reader::Section, setting::choice, units::ByteSize};

choice! {
    /// What users' processes are to be walled in with.
    Sandbox {
        /// The strongest that works on this host.
        Auto = "auto",
        /// Bubblewrap; where it does not work, nothing is started.
        Bwrap = "bwrap",
        /// Landlock; where the kernel has too little of it, nothing is started.
        Landlock = "landlock",
        /// Nothing.
        None = "none",
    }
}

choice! {
    /// What users' processes are walled in with, weakest first.
    Level {
        /// Nothing: they share all that Jetway's own user has.
        None = "none",
        /// Landlock: rules for what they share with others.
        Landlock = "landlock",
        /// Bubblewrap: files, processes, network and the rest of their own.
        Bwrap = "bwrap",
    }
}

impl Sandbox {
    /// The one level that is asked for; `None` leaves the choice to the host.
    pub fn level(self) -> Option<Level> {
        match self {
            Self::Auto => None,
            Self::Bwrap => Some(Level::Bwrap),
            Self::Landlock => Some(Level::Landlock),
            Self::None => Some(Level::None),
        }
    }

    pub(crate) fn check(self, s: &Section<'_>, min: Level) {
        let reached = self.level().is_none_or(|level| level >= min);
        s.relate(&["sandbox", "sandbox_min"], reached, || {
            let what = format!("is less than pool.process.sandbox_min, \"{}\"", min.as_str());
            Problem::new(what, "write \"auto\", or lower sandbox_min")
        });
    }
}

/// What the processes of one user may use together, `[pool.process.limits]`. Who takes more is stopped.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProcessLimits {
    /// Memory, what they keep in /tmp included.
    pub memory: ByteSize,
    /// Processors, 1.5 is one and a half; as many as there are unless given.
    pub cpu: Option<f64>,
    /// Processes and threads.
    pub processes: u32,
    /// Files in the user's home and workspace.
    pub disk: ByteSize,
}

impl Default for ProcessLimits {
    /// Room for a build in a workspace; what is refused is what would take the host from the others.
    fn default() -> Self {
        Self { memory: ByteSize(4 << 30), cpu: None, processes: 1024, disk: ByteSize(10 << 30) }
    }
}

impl ProcessLimits {
    pub(crate) fn read(s: &mut Section<'_>) -> Self {
        let d = Self::default();
        let size = |low: u64| ByteSize(low << 20)..=ByteSize(1 << 50);
        Self {
            // A runtime needs some 60 MB for its turns.
            memory: s.get_in("memory", d.memory, size(128)),
            cpu: s.optional_in("cpu", 0.05..=1024.0),
            // A runtime's own threads count.
            processes: s.get_in("processes", d.processes, 32..=1_000_000),
            disk: s.get_in("disk", d.disk, size(1)),
        }
    }
}
