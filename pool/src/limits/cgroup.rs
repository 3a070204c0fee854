//! Control groups, one for each CLI process and what it starts, of either version.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use jetway_config::sandbox::ProcessLimits;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::error::Limit;

/// The period of a processor's share, in microseconds, as the kernel has it by default.
const CPU_PERIOD: u64 = 100_000;

/// By how much a group's claim to the processors is less than what others have by default, the gateway among them. Among
/// each other users' groups are as before.
const GIVES_WAY: u32 = 8;

/// How often a group is looked through for processes that were started meanwhile.
const KILLS: usize = 20;

/// What is limited through one controller: where groups are made, what is written there, and which count tells that
/// the limit was met.
#[derive(Debug, Clone)]
struct Controller {
    base: PathBuf,
    kind: Kind,
    set: Vec<(&'static str, String)>,
    /// Not on every kernel.
    try_to_set: Vec<(&'static str, String)>,
    count: Option<(Limit, &'static str, &'static str)>,
}

/// What of a controller's files can be changed and read later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Memory1,
    Memory2,
    Cpu1,
    /// It accounts as well.
    Cpu2,
    Account1,
    Pids,
}

/// Makes groups.
#[derive(Debug)]
pub(super) struct Cgroups {
    controllers: Vec<Controller>,
    /// `jetway-<process id>-<random>-`: no other pool's.
    prefix: String,
    made: AtomicU64,
}

/// One group. Dropping it removes it, once nobody is in it.
#[derive(Debug)]
pub(super) struct Cgroup {
    dirs: Vec<PathBuf>,
    controllers: Vec<(Kind, PathBuf)>,
    counts: Vec<(Limit, File, &'static str)>,
}

impl Cgroups {
    /// What `limits` can be enforced with here; and the names of what cannot be.
    pub(super) fn find(limits: &ProcessLimits) -> (Self, Vec<&'static str>) {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        // Processors may be limited later, for a session, and are accounted for. Without a limit it is only that nobody
        // gets more of them for having more processes.
        let wanted = [("memory", true), ("pids", true), ("cpu", limits.cpu.is_some()), ("cpuacct", false)];
        let unified = unified(&own, &mounts, is_ours);
        let prefix = format!("jetway-{}-{:08x}-", std::process::id(), rand::random::<u32>());
        let mut all = Self { controllers: Vec::new(), prefix, made: AtomicU64::new(0) };
        let mut missing = Vec::new();
        for (name, needed) in wanted {
            let version_2 = unified.iter().filter_map(|base| version_2(name, base, limits));
            let mut candidates = version_1(name, &own, &mounts, limits).into_iter().chain(version_2);
            let works = |controller: &Controller| {
                sweep(&controller.base);
                all.make_in(std::slice::from_ref(controller)).is_ok()
            };
            match candidates.find(works) {
                Some(controller) => all.controllers.push(controller),
                None if needed => missing.push(name),
                None => {}
            }
        }
        (all, missing)
    }

    /// Whether processors can be limited.
    pub(super) fn limits_cpu(&self) -> bool {
        self.controllers.iter().any(|c| matches!(c.kind, Kind::Cpu1 | Kind::Cpu2))
    }

    /// A new group.
    pub(super) fn make(&self) -> io::Result<Cgroup> {
        self.make_in(&self.controllers)
    }

    fn make_in(&self, controllers: &[Controller]) -> io::Result<Cgroup> {
        let name = format!("{}{}", self.prefix, self.made.fetch_add(1, Ordering::Relaxed));
        // Taken down with what it has so far if the rest cannot be had.
        let mut group = Cgroup { dirs: Vec::new(), controllers: Vec::new(), counts: Vec::new() };
        for controller in controllers {
            let dir = controller.base.join(&name);
            // In version 2 all have the same place.
            if !group.dirs.contains(&dir) {
                fs::create_dir(&dir)?;
                group.dirs.push(dir.clone());
            }
            for (file, value) in &controller.set {
                fs::write(dir.join(file), value)?;
            }
            for (file, value) in &controller.try_to_set {
                let _ = fs::write(dir.join(file), value);
            }
            group.controllers.push((controller.kind, dir.clone()));
            if let Some((limit, file, key)) = controller.count {
                group.counts.push((limit, File::open(dir.join(file))?, key));
            }
        }
        Ok(group)
    }
}

impl Cgroup {
    /// The files into which a process writes `0` to join.
    pub(super) fn entrances(&self) -> io::Result<Vec<File>> {
        self.dirs.iter().map(|dir| OpenOptions::new().write(true).open(dir.join("cgroup.procs"))).collect()
    }

    /// Where a controller has its files.
    fn dir(&self, kinds: &[Kind]) -> Option<(Kind, &Path)> {
        self.controllers
            .iter()
            .find(|(kind, _)| kinds.contains(kind))
            .map(|(kind, dir)| (*kind, dir.as_path()))
    }

    /// Limits memory anew. It fails while those inside hold more than that and cannot give it back.
    pub(super) fn limit_memory(&self, bytes: u64) -> io::Result<()> {
        let Some((kind, dir)) = self.dir(&[Kind::Memory1, Kind::Memory2]) else { return Ok(()) };
        let set = |file: &str| fs::write(dir.join(file), bytes.to_string());
        if kind == Kind::Memory2 {
            // The kernel would take it, and kill.
            let held = number(&dir.join("memory.current"))?;
            return if held <= bytes { set("memory.max") } else { Err(io::ErrorKind::ResourceBusy.into()) };
        }
        let (limit, with_swap) = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes");
        // Never may the one with swap be the smaller one.
        let rises = number(&dir.join(limit))? < bytes;
        if !dir.join(with_swap).exists() {
            return set(limit);
        }
        let order = if rises { [with_swap, limit] } else { [limit, with_swap] };
        order.into_iter().try_for_each(set)
    }

    /// Limits processors anew; `None` is no limit.
    pub(super) fn limit_cpu(&self, cores: Option<f64>) -> io::Result<()> {
        let Some((kind, dir)) = self.dir(&[Kind::Cpu1, Kind::Cpu2]) else { return Ok(()) };
        match (kind, cores.map(quota)) {
            (Kind::Cpu1, quota) => {
                let quota = quota.map_or_else(|| "-1".to_owned(), |quota| quota.to_string());
                fs::write(dir.join("cpu.cfs_quota_us"), quota)
            }
            (_, quota) => {
                let quota = quota.map_or_else(|| "max".to_owned(), |quota| quota.to_string());
                fs::write(dir.join("cpu.max"), format!("{quota} {CPU_PERIOD}"))
            }
        }
    }

    /// The files that tell what those inside hold of memory, and what they have had of processors.
    pub(super) fn accounts(&self) -> (Option<PathBuf>, Option<PathBuf>) {
        let memory = self.dir(&[Kind::Memory1, Kind::Memory2]).map(|(kind, dir)| {
            dir.join(if kind == Kind::Memory1 { "memory.usage_in_bytes" } else { "memory.current" })
        });
        let cpu = self
            .dir(&[Kind::Account1, Kind::Cpu2])
            .map(|(kind, dir)| dir.join(if kind == Kind::Account1 { "cpuacct.usage" } else { "cpu.stat" }));
        (memory, cpu)
    }

    /// Which limit those inside have met, if any.
    pub(super) fn met(&self) -> Option<Limit> {
        let met = |(_, file, key): &&(Limit, File, &'static str)| {
            let mut text = [0; 512];
            let length = file.read_at(&mut text, 0).unwrap_or(0);
            count(&String::from_utf8_lossy(&text[..length]), key) > 0
        };
        self.counts.iter().find(met).map(|(limit, ..)| *limit)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for dir in &self.dirs {
            end(dir);
            // Who has just been killed may still be leaving; what stays is swept at the next start.
            let _ = fs::remove_dir(dir);
        }
    }
}

/// Kills whoever is in a group: what a CLI left behind, out of reach of its process group.
fn end(dir: &Path) {
    // All at once, where the kernel can.
    if fs::write(dir.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    for _ in 0..KILLS {
        let inside = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        // 0 stands for a process that cannot be seen from here, and means something else to `kill`.
        let pids: Vec<i32> =
            inside.lines().filter_map(|pid| pid.parse().ok()).filter(|pid| *pid > 1).collect();
        if pids.is_empty() {
            return;
        }
        for pid in pids {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// Ends groups of gateways that are no more.
fn sweep(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let maker = name.to_str().and_then(|name| name.strip_prefix("jetway-")?.split('-').next());
        if maker.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            end(&entry.path());
            // It fails while somebody is still leaving.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

fn version_1(name: &'static str, own: &str, mounts: &str, limits: &ProcessLimits) -> Option<Controller> {
    let base = own.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        controllers.split(',').any(|controller| controller == name).then_some(path)
    })?;
    let base = place(base, mounts, |kind, options| {
        kind == "cgroup" && options.split(',').any(|option| option == name)
    })?;
    let mut controller =
        Controller { base, kind: Kind::Pids, set: Vec::new(), try_to_set: Vec::new(), count: None };
    match name {
        "memory" => {
            controller.kind = Kind::Memory1;
            let bytes = limits.memory.0.to_string();
            controller.set.push(("memory.limit_in_bytes", bytes.clone()));
            // With swap: else what is too much only goes there.
            controller.try_to_set.push(("memory.memsw.limit_in_bytes", bytes));
            controller.count = Some((Limit::Memory, "memory.oom_control", "oom_kill"));
        }
        "cpu" => {
            controller.kind = Kind::Cpu1;
            controller.set.push(("cpu.cfs_period_us", CPU_PERIOD.to_string()));
            controller.try_to_set.push(("cpu.shares", (1024 / GIVES_WAY).to_string()));
            controller.set.extend(limits.cpu.map(|cores| ("cpu.cfs_quota_us", quota(cores).to_string())));
        }
        "cpuacct" => controller.kind = Kind::Account1,
        _ => pids(&mut controller, limits),
    }
    Some(controller)
}

/// Where groups of version 2 may be made: below Jetway's own, if that is `ours` to arrange, and beside it, if the one
/// above is, as with systemd's `DelegateSubgroup=`.
fn unified(own: &str, mounts: &str, ours: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    let is_unified = |kind: &str, _: &str| kind == "cgroup2";
    let own = own.lines().find_map(|line| line.strip_prefix("0::"));
    let (Some(top), Some(base)) =
        (place("/", mounts, is_unified), own.and_then(|own| place(own, mounts, is_unified)))
    else {
        return Vec::new();
    };
    let above = base.parent().filter(|_| base != top).map(Path::to_owned);
    // The whole of what can be seen: the host's root group, where processes are no hindrance, or a container's.
    let all = base == top;
    let below = Some(base).filter(|base| all || ours(base));
    below.into_iter().chain(above.filter(|above| ours(above))).collect()
}

/// Whether a group was handed over, to have groups of one's own below it.
fn is_ours(group: &Path) -> bool {
    let mut value = [0; 8];
    let marked = |name: &str| {
        rustix::fs::getxattr(group, name, &mut value).is_ok_and(|length| value[..length] == *b"1")
    };
    // Root may write everywhere, and goes by systemd's word.
    ["user.delegate", "trusted.delegate"].into_iter().any(marked)
        || (!nix::unistd::Uid::effective().is_root()
            && OpenOptions::new().write(true).open(group.join("cgroup.subtree_control")).is_ok())
}

/// Has a controller act on groups below `base`. The kernel refuses while processes are in it: if Jetway is all alone
/// there, it steps aside into a group below.
fn enable(name: &str, base: &Path) -> io::Result<()> {
    let enable = || fs::write(base.join("cgroup.subtree_control"), format!("+{name}"));
    match enable() {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            let own = std::process::id().to_string();
            if fs::read_to_string(base.join("cgroup.procs"))?.trim() != own {
                return Err(error);
            }
            let aside = base.join("gateway");
            fs::create_dir_all(&aside)?;
            fs::write(aside.join("cgroup.procs"), own)?;
            enable()
        }
        outcome => outcome,
    }
}

fn version_2(name: &'static str, base: &Path, limits: &ProcessLimits) -> Option<Controller> {
    // There `cpuacct` is a part of cpu.
    enable(name, base).ok().filter(|()| name != "cpuacct")?;
    let mut controller = Controller {
        base: base.to_owned(),
        kind: Kind::Pids,
        set: Vec::new(),
        try_to_set: Vec::new(),
        count: None,
    };
    match name {
        "memory" => {
            controller.kind = Kind::Memory2;
            controller.set.push(("memory.max", limits.memory.0.to_string()));
            controller.try_to_set.push(("memory.swap.max", "0".to_owned()));
            controller.count = Some((Limit::Memory, "memory.events", "oom_kill"));
        }
        "cpu" => {
            controller.kind = Kind::Cpu2;
            let max = limits.cpu.map(|cores| format!("{} {CPU_PERIOD}", quota(cores)));
            controller.set.extend(max.map(|max| ("cpu.max", max)));
            controller.try_to_set.push(("cpu.weight", (100 / GIVES_WAY).to_string()));
        }
        _ => pids(&mut controller, limits),
    }
    Some(controller)
}

fn pids(controller: &mut Controller, limits: &ProcessLimits) {
    controller.set.push(("pids.max", limits.processes.to_string()));
    controller.count = Some((Limit::Processes, "pids.events", "max"));
}

fn quota(cores: f64) -> u64 {
    // The least that the kernel takes is a millisecond.
    ((cores * CPU_PERIOD as f64) as u64).max(1_000)
}

/// The number that is all there is in a file.
fn number(file: &Path) -> io::Result<u64> {
    fs::read_to_string(file)?.trim().parse().map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Where the group `path` of the hierarchy that `is` it can be found. `mounts` is of the form of `mountinfo`.
fn place(path: &str, mounts: &str, is: impl Fn(&str, &str) -> bool) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut kind = kind.split(' ');
        let (name, options) = (kind.next()?, kind.nth(1)?);
        let mut mount = mount.split(' ').skip(3);
        let (root, point) = (mount.next()?, mount.next()?);
        // A mount may show a part of the hierarchy, as a container's does.
        let below = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
        is(name, options).then(|| Path::new(point).join(below))
    })
}

/// The number in the line `key number`; 0 without one.
fn count(text: &str, key: &str) -> u64 {
    let number = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    number.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
        31 24 0:26 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n\
        32 24 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
        33 24 0:28 /box /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n";
    const OWN: &str = "4:memory:/a/b\n3:cpu,cpuacct:/\n0::/box/c\n";

    #[test]
    fn groups_are_made_below_ones_own() {
        let limits = ProcessLimits { cpu: Some(1.5), ..ProcessLimits::default() };
        let memory = version_1("memory", OWN, MOUNTS, &limits).unwrap();
        assert_eq!(memory.base, Path::new("/sys/fs/cgroup/memory/a/b"));
        assert_eq!(memory.set, [("memory.limit_in_bytes", (4_u64 << 30).to_string())]);
        let cpu = version_1("cpu", OWN, MOUNTS, &limits).unwrap();
        assert_eq!(cpu.base, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(cpu.set[1], ("cpu.cfs_quota_us", "150000".to_owned()));
        assert!(version_1("pids", OWN, MOUNTS, &limits).is_none());
    }

    #[test]
    fn groups_of_version_2_are_made_where_they_may_be() {
        let at = |own: &str, ours: &[&Path]| {
            unified(&format!("4:memory:/\n0::{own}\n"), MOUNTS, |group| ours.contains(&group))
        };
        let top = Path::new("/sys/fs/cgroup/unified");
        let (unit, sub) = (&*top.join("unit"), &*top.join("unit/x"));
        assert_eq!(at("/box", &[]), [top], "the whole of what can be seen");
        assert!(at("/box/unit", &[]).is_empty() && at("/box/unit/x", &[top]).is_empty(), "systemd's");
        assert_eq!(at("/box/unit", &[unit]), [unit], "Delegate=");
        assert_eq!(at("/box/unit/x", &[unit, sub]), [sub, unit], "DelegateSubgroup=");
        assert!(unified("4:memory:/a\n", MOUNTS, |_| true).is_empty());
    }

    /// In either version, as far as this host lets us make groups there.
    #[test]
    fn whoever_is_in_a_group_ends_with_it() {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let limits = ProcessLimits::default();
        let mut tried = 0;
        let two = unified(&own, &mounts, is_ours).into_iter().next();
        for base in [version_1("pids", &own, &mounts, &limits).map(|one| one.base), two] {
            let dir = base.map(|base| base.join(format!("jetway-{}-test", std::process::id())));
            let Some(dir) = dir.filter(|dir| fs::create_dir(dir).is_ok()) else { continue };
            let mut sleeper = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
            let group = Cgroup { dirs: vec![dir.clone()], controllers: Vec::new(), counts: Vec::new() };
            if fs::write(dir.join("cgroup.procs"), sleeper.id().to_string()).is_ok() {
                drop(group);
                assert!(!sleeper.wait().unwrap().success());
                tried += 1;
            } else {
                sleeper.kill().unwrap();
                sleeper.wait().unwrap();
            }
            let _ = fs::remove_dir(dir);
        }
        if tried == 0 {
            eprintln!("SKIPPED whoever_is_in_a_group_ends_with_it: no control groups may be made here");
        }
    }

    #[test]
    fn counts() {
        assert_eq!(count("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", "oom_kill"), 3);
        assert_eq!(count("low 1\nmax 12\n", "max"), 12);
        assert_eq!(count("", "max"), 0);
    }
}
