//! What users' CLI processes are walled in with, and what each may use.

use std::str::FromStr;

use crate::{
    error::Problem,
    reader::Section,
    setting::{Text, choice, quoted},
    units::ByteSize,
};

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

/// Accounts of the system by their numbers, from one to another, both included: `200000-265535`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uids {
    first: u32,
    last: u32,
}

impl Uids {
    /// What is below belongs to the system and to people.
    const LEAST: u32 = 10_000;

    /// Whether it is one of them.
    pub fn contains(self, uid: u32) -> bool {
        (self.first..=self.last).contains(&uid)
    }

    /// All of them, lowest first; there is one at least.
    pub fn all(self) -> impl Iterator<Item = u32> {
        self.first..=self.last
    }

    /// The lowest.
    pub fn first(self) -> u32 {
        self.first
    }
}

impl FromStr for Uids {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (first, last) = text.split_once('-').ok_or(())?;
        let number = |digits: &str| {
            let plain = digits.bytes().all(|b| b.is_ascii_digit());
            digits.parse().ok().filter(|_| plain).ok_or(())
        };
        let (first, last) = (number(first)?, number(last)?);
        // The highest number of all means none.
        if first >= Self::LEAST && first <= last && last < u32::MAX {
            Ok(Self { first, last })
        } else {
            Err(())
        }
    }
}

impl Text for Uids {
    fn parse_text(text: &str) -> Result<Self, Problem> {
        text.parse().map_err(|()| Self::problem(&quoted(text)))
    }

    fn text(&self) -> String {
        format!("{}-{}", self.first, self.last)
    }

    const WHAT: &str = "a range of account numbers above 9999";
    const REMEDY: &str = r#"write one that nobody has, such as "200000-265535""#;
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
