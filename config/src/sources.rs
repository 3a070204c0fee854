//! Where a configuration comes from: the seam between this crate and the machine it runs on.

use crate::{
    error::{ConfigError, Problem},
    limits,
};
use sha2::{Digest, Sha256};
use std::{
    cell::RefCell,
    collections::BTreeMap,
    ffi::OsString,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// The file and the environment that a configuration is read from.
#[derive(Clone)]
pub struct Sources {
    config: Option<PathBuf>,
    env: BTreeMap<String, OsString>,
    /// `None` stands for the file system.
    files: Option<BTreeMap<PathBuf, String>>,
    /// Whether this is not the first reading: then a pipe has been read to its end already.
    again: bool,
    /// The files that the last reading asked for, and what they held.
    noted: RefCell<BTreeMap<PathBuf, Held>>,
}

/// A digest of what a file holds, or of why it cannot be read.
type Held = [u8; 32];

/// What all files of a configuration hold at some moment: if it is the same, so are they.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint(BTreeMap<PathBuf, Held>);

impl Sources {
    /// The process environment, and the file at `config` if one is named.
    pub fn system(config: Option<&Path>) -> Self {
        let named = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value));
        Self {
            config: config.map(Path::to_owned),
            env: std::env::vars_os().filter_map(named).collect(),
            files: None,
            again: false,
            noted: RefCell::default(),
        }
    }

    /// A configuration file of the text `toml`, named `jetway.toml`, and the environment `env`; no
    /// other file exists.
    pub fn fixed(toml: &str, env: &[(&str, &str)]) -> Self {
        let config = PathBuf::from("jetway.toml");
        Self {
            env: env.iter().map(|(name, value)| ((*name).to_owned(), value.into())).collect(),
            files: Some(BTreeMap::from([(config.clone(), toml.to_owned())])),
            config: Some(config),
            again: false,
            noted: RefCell::default(),
        }
    }

    /// The same for further readings. They refuse what is not a regular file: a pipe that was read once is empty,
    /// and an empty configuration is a valid one.
    pub fn again(self) -> Self {
        Self { again: true, ..self }
    }

    /// What the files held that the last reading asked for, whether it went well or not.
    pub fn loaded(&self) -> Fingerprint {
        Fingerprint(self.noted.borrow().clone())
    }

    /// What the same files hold now.
    pub fn now(&self) -> Fingerprint {
        let paths = self.noted.borrow();
        Fingerprint(paths.keys().map(|path| (path.clone(), held(&self.look(path)))).collect())
    }

    /// Begins a reading.
    pub(crate) fn begin(&self) {
        self.noted.take();
    }

    /// The text of the file at `path`, at most [`limits::CONFIG_FILE_BYTES`]. The file counts as one of the
    /// configuration's from now on.
    pub(crate) fn read(&self, path: &Path) -> io::Result<String> {
        let text = self.look(path);
        self.noted.borrow_mut().insert(path.to_owned(), held(&text));
        text
    }

    /// Adds a file to [`fixed`](Self::fixed) sources; no effect on those of the system.
    pub fn with_file(mut self, path: impl Into<PathBuf>, text: impl Into<String>) -> Self {
        if let Some(files) = &mut self.files {
            files.insert(path.into(), text.into());
        }
        self
    }

    /// The path and text of the configuration file, if one was named.
    pub(crate) fn config_file(&self) -> Result<Option<(&Path, String)>, ConfigError> {
        let Some(path) = self.config.as_deref() else { return Ok(None) };
        match self.read(path) {
            Ok(text) => Ok(Some((path, text))),
            Err(e) => {
                let problem =
                    Problem::new(format!("cannot be read: {e}"), "name a readable file with --config");
                Err(ConfigError::new(path.display().to_string(), None, problem))
            }
        }
    }

    /// The environment's variables, by name.
    pub(crate) fn variables(&self) -> impl Iterator<Item = (&str, &OsString)> {
        self.env.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// The text of the variable `name`. The problem never contains the value.
    pub(crate) fn variable(&self, name: &str) -> Result<&str, Problem> {
        let set = || format!("set {name} for Jetway, for example in its systemd unit or pod");
        let missing = || Problem::new(format!("the environment variable {name} is not set"), set());
        let value = self.env.get(name).filter(|value| !value.is_empty()).ok_or_else(missing)?;
        value.to_str().ok_or_else(|| {
            Problem::new(format!("the environment variable {name} is not UTF-8"), "set it to plain text")
        })
    }

    fn look(&self, path: &Path) -> io::Result<String> {
        let Some(files) = &self.files else {
            if self.again && !path.metadata()?.is_file() {
                let what = "it is not a regular file, and was read already";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
            }
            return read_bounded(path);
        };
        files.get(path).cloned().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such file"))
    }
}

fn held(text: &io::Result<String>) -> Held {
    match text {
        Ok(text) => Sha256::digest(text),
        Err(e) => Sha256::digest(e.to_string()),
    }
    .into()
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let limit = limits::CONFIG_FILE_BYTES;
    let read = File::open(path)?.take(limit + 1).read_to_string(&mut text)?;
    if read as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than {limit} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_system_is_read_up_to_the_limit() {
        let zeros = read_bounded(Path::new("/dev/zero")).unwrap_err();
        assert_eq!(zeros.kind(), io::ErrorKind::FileTooLarge);
        assert!(read_bounded(Path::new("/nonexistent/jetway.toml")).is_err());
    }

    #[test]
    fn what_is_not_utf8_is_refused_rather_than_mended() {
        use std::os::unix::ffi::OsStringExt;
        let garbled = OsString::from_vec(b"\xffcanary".to_vec());
        let mut sources = Sources::fixed("[[pool.fleet]]\naddress = 'a:1'\ntoken_env = 'TOKEN'", &[]);
        sources.env.insert("JETWAY__LOCKS__TTL".to_owned(), garbled.clone());
        sources.env.insert("TOKEN".to_owned(), garbled);
        assert_eq!(
            crate::Config::load(&sources).unwrap_err().to_string(),
            "error: locks.ttl (set by JETWAY__LOCKS__TTL): its value is not UTF-8; set it to plain text\n\
             error: pool.fleet[0].token_env: the environment variable TOKEN is not UTF-8; set it to plain text"
        );
    }

    #[test]
    fn a_named_file_must_exist() {
        let missing = Sources::system(Some(Path::new("/nonexistent/jetway.toml")));
        let error = missing.config_file().unwrap_err().to_string();
        assert!(error.starts_with("/nonexistent/jetway.toml: cannot be read: No such file"), "{error}");
        assert!(Sources::system(None).config_file().unwrap().is_none());
    }
}
