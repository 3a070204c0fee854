//! The directory under which users' state lives: ours alone, in both senses.

use std::{
    fs::{DirBuilder, File, TryLockError},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use jetway_config::Identity;

use crate::error::StartError;

/// Where one user's state is.
pub(crate) struct Home {
    /// All users'.
    pub(crate) state_dir: PathBuf,
    pub(crate) path: PathBuf,
    pub(crate) workspace: PathBuf,
}

impl Home {
    pub(crate) fn of(who: &Identity, state_dir: &Path) -> Self {
        let path = state_dir.join(who.tenant.as_str()).join(who.user.as_str());
        Self { state_dir: state_dir.to_owned(), workspace: path.join("workspace"), path }
    }
}

/// Makes `dir` and its parents; what it makes is open to its owner only.
pub(crate) fn make(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Makes the state directory, and locks it until the file is closed. Returns it as an absolute path.
pub(crate) fn lock(path: &Path) -> Result<(PathBuf, File), StartError> {
    let failed = |cause| StartError::StateDir { path: path.to_owned(), cause };
    make(path).map_err(failed)?;
    let path = path.canonicalize().map_err(failed)?;
    // The directory itself: any name inside it could be a tenant's.
    let dir = File::open(&path).map_err(failed)?;
    match dir.try_lock() {
        Ok(()) => Ok((path, dir)),
        Err(TryLockError::WouldBlock) => Err(StartError::StateDirInUse { path }),
        Err(TryLockError::Error(cause)) => Err(failed(cause)),
    }
}
