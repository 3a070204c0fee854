//! Accounts of the system for users' processes, one for each user: `pool.process.uids`.
//!
//! Which one is a user's stands nowhere but in the file system: it owns the user's home.

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            ffi::OsStrExt as _,
            fs::{MetadataExt as _, PermissionsExt as _, lchown},
        },
    },
    path::Path,
    sync::{Mutex, PoisonError},
};

use jetway_config::sandbox::Uids;
use nix::{
    dir::Dir,
    errno::Errno,
    fcntl::{AT_FDCWD, AtFlags, OFlag, openat},
    sys::stat::Mode,
    unistd::{Gid, Uid, fchownat, geteuid},
};

use crate::state_dir::{self, Home};

/// The deepest that a home may be whose owner changes: each level holds a file descriptor.
const DEEPEST: usize = 100;

/// Who has which.
pub(crate) struct Accounts {
    uids: Uids,
    /// Numbers that have a home, or that a process was started under.
    taken: Mutex<HashSet<u32>>,
}

impl Accounts {
    /// Finds out who has which below `state_dir`, the state of all users, and lets them pass there.
    ///
    /// # Errors
    ///
    /// Why it cannot be done, for the operator: `programs` must be within everybody's reach too.
    pub(crate) fn open(uids: Uids, state_dir: &Path, programs: &[&Path]) -> Result<Self, String> {
        if !geteuid().is_root() {
            return Err("only root may start processes under other accounts".to_owned());
        }
        for path in [state_dir].iter().chain(programs) {
            if let Some(closed) = closed(path) {
                let (path, closed) = (path.display(), closed.display());
                return Err(format!("{path} must be within reach of all accounts, and {closed} is not"));
            }
        }
        let taken = let_pass(state_dir).and_then(|()| owners(state_dir));
        let taken = taken.map_err(|error| format!("{}: {error}", state_dir.display()))?;
        Ok(Self { uids, taken: Mutex::new(taken) })
    }

    /// The account of the user whose home that is. The home is the account's from then on, with all that is in it.
    pub(crate) fn of(&self, home: &Home) -> io::Result<u32> {
        if let Some(tenant) = home.path.parent() {
            let_pass(tenant)?;
        }
        let owner = fs::symlink_metadata(&home.path)?.uid();
        if self.uids.contains(owner) {
            return Ok(owner);
        }
        let uid = self.take()?;
        give(AT_FDCWD, &home.path, uid, DEEPEST)?;
        Ok(uid)
    }

    /// Makes a directory in the home of the account `uid`, as its owner would.
    pub(crate) fn make(dir: &Path, uid: u32) -> io::Result<()> {
        state_dir::make(dir)?;
        // Of a link that stands in its place it is the link.
        lchown(dir, Some(uid), Some(uid))
    }

    fn take(&self) -> io::Result<u32> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let free = self.uids.all().find(|uid| !taken.contains(uid));
        let uid = free.ok_or_else(|| io::Error::other("all of pool.process.uids have a home already"))?;
        taken.insert(uid);
        Ok(uid)
    }
}

/// What on the way to `path` not everybody may pass.
pub(crate) fn closed(path: &Path) -> Option<&Path> {
    path.ancestors().skip(1).find(|dir| fs::metadata(dir).is_ok_and(|meta| meta.mode() & 0o001 == 0))
}

/// Lets everybody pass, and nobody look around.
fn let_pass(dir: &Path) -> io::Result<()> {
    let mode = fs::metadata(dir)?.mode();
    if mode & 0o011 == 0o011 {
        Ok(())
    } else {
        fs::set_permissions(dir, fs::Permissions::from_mode(mode | 0o011))
    }
}

/// The owners of all homes.
fn owners(state_dir: &Path) -> io::Result<HashSet<u32>> {
    let mut all = HashSet::new();
    for tenant in fs::read_dir(state_dir)? {
        let tenant = tenant?;
        if tenant.file_type()?.is_dir() {
            for user in fs::read_dir(tenant.path())? {
                all.insert(user?.metadata()?.uid());
            }
        }
    }
    Ok(all)
}

/// Makes `uid` the owner of `name` in `dir` and of everything in it, itself last: what was not finished is begun again.
/// Follows no links, whoever may put some there meanwhile.
fn give<D: AsFd>(dir: D, name: &Path, uid: u32, deepest: usize) -> io::Result<()> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match openat(dir.as_fd(), name, flags, Mode::empty()) {
        Ok(inner) if deepest > 0 => give_all(inner, uid, deepest - 1)?,
        Ok(_) => return Err(io::Error::other("directories are too deep")),
        Err(Errno::ENOTDIR | Errno::ELOOP) => {}
        Err(error) => return Err(error.into()),
    }
    let (owner, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
    Ok(fchownat(dir, name, Some(owner), Some(group), AtFlags::AT_SYMLINK_NOFOLLOW)?)
}

fn give_all(dir: OwnedFd, uid: u32, deepest: usize) -> io::Result<()> {
    let mut entries = Dir::from_fd(dir.try_clone()?)?;
    for entry in entries.iter() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            give(&dir, Path::new(OsStr::from_bytes(name)), uid, deepest)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uids(text: &str) -> Uids {
        text.parse().unwrap()
    }

    fn home(state_dir: &Path, user: &str) -> Home {
        let path = state_dir.join("acme").join(user);
        let home = Home { state_dir: state_dir.to_owned(), workspace: path.join("workspace"), path };
        state_dir::make(&home.workspace).unwrap();
        home
    }

    fn owner(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().uid()
    }

    #[test]
    fn each_home_has_its_own_and_keeps_it() {
        if !geteuid().is_root() {
            return eprintln!("SKIPPED each_home_has_its_own_and_keeps_it: not root");
        }
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        state_dir::make(&state).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let outside = dir.path().join("outside");
        fs::write(&outside, "").unwrap();
        let (ada, bob, eve) = (home(&state, "ada"), home(&state, "bob"), home(&state, "eve"));
        fs::create_dir(ada.workspace.join("deep")).unwrap();
        fs::write(ada.workspace.join("deep/file"), "").unwrap();
        std::os::unix::fs::symlink(&outside, ada.workspace.join("link")).unwrap();
        let accounts = Accounts::open(uids("70000-70001"), &state, &[]).unwrap();
        assert_eq!((accounts.of(&ada).unwrap(), accounts.of(&bob).unwrap()), (70000, 70001));
        assert_eq!(accounts.of(&ada).unwrap(), 70000);
        for path in ["", "workspace", "workspace/deep", "workspace/deep/file", "workspace/link"] {
            assert_eq!(owner(&ada.path.join(path)), 70000, "{path}");
        }
        assert_eq!((owner(&outside), owner(&state)), (0, 0));
        assert!(accounts.of(&eve).unwrap_err().to_string().contains("pool.process.uids"));
        // Another Jetway finds them again.
        let again = Accounts::open(uids("70000-70002"), &state, &[]).unwrap();
        assert_eq!((again.of(&eve).unwrap(), again.of(&bob).unwrap()), (70002, 70001));
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        assert!(Accounts::open(uids("70000-70002"), &state, &[]).is_err());
    }
}
