//! A session's own files, below its user's home.
//!
//! What runs for the user may write there as well and put links in the way. So directories are opened one after the
//! other without following any, and what is then done is done in what was opened.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::{
        fd::AsRawFd as _,
        unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, fchown},
    },
    path::{Path, PathBuf},
};

use nix::fcntl::OFlag;

use crate::{
    limits::size,
    state_dir::{self, Home},
};

/// Below the home.
const ALL: &str = "workspaces";

/// Where a session's files are, or may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workspace {
    home: PathBuf,
    name: String,
}

impl Workspace {
    pub(crate) fn of(home: &Home, name: &str) -> Self {
        Self { home: home.path.clone(), name: name.to_owned() }
    }

    /// As a CLI server knows it.
    pub fn path(&self) -> PathBuf {
        self.home.join(ALL).join(&self.name)
    }

    /// Sees to it that it is there, with what was in it before. Blocks.
    ///
    /// # Errors
    /// If something else is in its place.
    pub fn make(&self) -> io::Result<()> {
        state_dir::make(&self.home)?;
        let home = open(&self.home)?;
        let all = enter(&home, ALL)?;
        enter(&all, &self.name).map(drop)
    }

    /// Removes it and all in it; it may be gone already. Blocks.
    ///
    /// # Errors
    /// If something of it stays.
    pub fn remove(&self) -> io::Result<()> {
        let removed = self.all().and_then(|all| fs::remove_dir_all(inside(&all, &self.name)));
        match removed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Bytes on disk; `None` if it is not there. Reads all directories in it: blocks.
    pub fn size(&self) -> Option<u64> {
        let dir = open(&inside(&self.all().ok()?, &self.name)).ok()?;
        Some(size(&Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string())))
    }

    fn all(&self) -> io::Result<File> {
        open(&inside(&open(&self.home)?, ALL))
    }
}

/// Opens a directory that is no link.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)
}

/// What is called `name` in an open directory, wherever that is by now.
fn inside(dir: &File, name: &str) -> PathBuf {
    Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name)
}

/// Opens a directory in another one, making it if need be: for whoever owns that one, as a home's account does.
fn enter(dir: &File, name: &str) -> io::Result<File> {
    let path = inside(dir, name);
    match DirBuilder::new().mode(0o700).create(&path) {
        Ok(()) => {
            let (made, owner) = (open(&path)?, dir.metadata()?);
            if owner.uid() != made.metadata()?.uid() {
                fchown(&made, Some(owner.uid()), Some(owner.gid()))?;
            }
            Ok(made)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => open(&path),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn workspace(state: &Path, name: &str) -> Workspace {
        let path = state.join("acme/ada");
        let home = Home { state_dir: state.to_owned(), workspace: path.join("workspace"), path };
        Workspace::of(&home, name)
    }

    #[test]
    fn files_stay_until_they_are_removed() {
        let state = tempfile::tempdir().unwrap();
        let one = workspace(state.path(), "s-1");
        assert_eq!((one.size(), one.remove().is_ok()), (None, true), "there is none yet");
        one.make().unwrap();
        fs::create_dir(one.path().join("src")).unwrap();
        fs::write(one.path().join("src/file"), vec![1; 10_000]).unwrap();
        one.make().unwrap();
        assert!(one.size().unwrap() >= 10_000);
        let other = workspace(state.path(), "s-2");
        other.make().unwrap();
        one.remove().unwrap();
        assert!(!one.path().exists() && other.path().exists());
    }

    #[test]
    fn they_are_the_homes_owners() {
        if !nix::unistd::geteuid().is_root() {
            return eprintln!("SKIPPED they_are_the_homes_owners: only root has other accounts");
        }
        let state = tempfile::tempdir().unwrap();
        let home = state.path().join("acme/ada");
        fs::create_dir_all(&home).unwrap();
        std::os::unix::fs::chown(&home, Some(200_001), Some(200_001)).unwrap();
        let one = workspace(state.path(), "s-1");
        one.make().unwrap();
        for made in [home.join(ALL), one.path()] {
            let owner = made.metadata().unwrap();
            assert_eq!((owner.uid(), owner.gid()), (200_001, 200_001), "{}", made.display());
        }
    }

    #[test]
    fn links_lead_nowhere() {
        let (state, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let dear = elsewhere.path().join("s-1");
        fs::create_dir(&dear).unwrap();
        fs::write(dear.join("file"), "dear").unwrap();
        let one = workspace(state.path(), "s-1");
        // In place of what holds all sessions' files,
        fs::create_dir_all(state.path().join("acme/ada")).unwrap();
        symlink(elsewhere.path(), state.path().join("acme/ada").join(ALL)).unwrap();
        assert!(one.make().is_err() && one.remove().is_err() && one.size().is_none());
        fs::remove_file(state.path().join("acme/ada").join(ALL)).unwrap();
        // in place of one session's,
        one.make().unwrap();
        fs::remove_dir(one.path()).unwrap();
        symlink(&dear, one.path()).unwrap();
        assert!(one.make().is_err() && one.size().is_none());
        one.remove().unwrap();
        // and in it.
        one.make().unwrap();
        symlink(&dear, one.path().join("link")).unwrap();
        one.remove().unwrap();
        assert_eq!(fs::read_to_string(dear.join("file")).unwrap(), "dear");
    }
}
