//! What of `/proc` is the host's, and so kept from bubblewrap's sandboxes: the kernel opens it to whoever is root
//! outside, even without capabilities, as Jetway's own account may be.

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// What programs ask there: it is not changed by them,
const READ: [&str; 11] =
    ["acpi", "bus", "driver", "fs", "irq", "mtrr", "pressure", "scsi", "sys", "sysrq-trigger", "tty"];
/// the sandbox's own,
const OWN: [&str; 1] = ["sysvipc"];
/// and what everybody may read, but nobody needs.
const TELLING: [&str; 2] = ["key-users", "keys"];

/// What is done about it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Proc {
    read: Vec<PathBuf>,
    hidden_files: Vec<PathBuf>,
    hidden_directories: Vec<PathBuf>,
}

impl Proc {
    /// Looks at what this kernel has. What is not known is hidden, unless it is a file that all may read and nobody
    /// write.
    pub(super) fn look(proc: &Path) -> Self {
        let mut all = Self::default();
        let entries = fs::read_dir(proc).into_iter().flatten().flatten();
        for entry in entries {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            // Links lead to what is the process's own. Processes there are none of others'.
            let Ok(data) = entry.metadata() else { continue };
            if data.is_symlink()
                || name.starts_with(|first: char| first.is_ascii_digit())
                || OWN.contains(&name)
            {
                continue;
            }
            let mode = data.permissions().mode();
            if READ.contains(&name) {
                all.read.push(entry.path());
            } else if data.is_dir() {
                all.hidden_directories.push(entry.path());
            } else if TELLING.contains(&name) || mode & 0o222 != 0 || mode & 0o004 == 0 {
                all.hidden_files.push(entry.path());
            }
        }
        [&mut all.read, &mut all.hidden_files, &mut all.hidden_directories]
            .into_iter()
            .for_each(|l| l.sort());
        all
    }

    /// The arguments for that, once `/proc` is mounted.
    pub(super) fn arguments(&self) -> impl Iterator<Item = OsString> + '_ {
        let bound = |from: Option<&'static str>, path: &Path| {
            let from = from.map_or_else(|| path.into(), OsString::from);
            ["--ro-bind-try".into(), from, path.into()]
        };
        let read = self.read.iter().flat_map(move |path| bound(None, path));
        let files = self.hidden_files.iter().flat_map(move |path| bound(Some("/dev/null"), path));
        let directories = self.hidden_directories.iter().flat_map(|path| {
            ["--tmpfs".into(), OsString::from(path), "--remount-ro".into(), OsString::from(path)]
        });
        read.chain(files).chain(directories)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_hidden() {
        let proc = tempfile::tempdir().unwrap();
        let at = |name: &str| proc.path().join(name);
        for directory in ["1", "sys", "sysvipc", "dynamic_debug"] {
            fs::create_dir(at(directory)).unwrap();
        }
        std::os::unix::fs::symlink("1", at("self")).unwrap();
        for (file, mode) in
            [("stat", 0o444), ("kcore", 0o400), ("mtrr", 0o644), ("new", 0o644), ("keys", 0o444)]
        {
            fs::write(at(file), "").unwrap();
            fs::set_permissions(at(file), fs::Permissions::from_mode(mode)).unwrap();
        }
        let expected = Proc {
            read: vec![at("mtrr"), at("sys")],
            hidden_files: vec![at("kcore"), at("keys"), at("new")],
            hidden_directories: vec![at("dynamic_debug")],
        };
        assert_eq!(Proc::look(proc.path()), expected);
    }
}
