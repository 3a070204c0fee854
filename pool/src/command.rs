//! Which program a CLI is, and in what environment it runs.

use std::{
    ffi::{OsStr, OsString},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use jetway_config::pool::Command;

use crate::error::CommandNotFound;

/// What every CLI is given after the operator's own arguments. `copilot-runtime` refuses flags that it does
/// not know; it and the full `copilot` know these. The keyring is the operator's, not the user's: without
/// automatic login nothing is taken from it.
pub(crate) const ARGUMENTS: [&str; 8] =
    ["--headless", "--port", "0", "--host", "127.0.0.1", "--no-auto-update", "--log-level", "error"];

/// The operator's variables that a CLI gets; everything else in Jetway's environment stays there, secrets of
/// other services above all. `COPILOT_GITHUB_TOKEN` is the exception, made on purpose: it is set for Copilot
/// and nothing else. `GH_TOKEN` and `GITHUB_TOKEN` often lie around with wide rights, and a session's shell
/// would inherit them.
const INHERITED: [&str; 24] = [
    "PATH",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NODE_EXTRA_CA_CERTS",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "GH_HOST",
    "COPILOT_GH_HOST",
    "COPILOT_OFFLINE",
    "COPILOT_CACHE_HOME",
    "XDG_CACHE_HOME",
    "USE_BUILTIN_RIPGREP",
    "MALLOC_ARENA_MAX",
    GITHUB_TOKEN,
];

/// The operator's own Copilot login, for every user's CLI.
pub(crate) const GITHUB_TOKEN: &str = "COPILOT_GITHUB_TOKEN";

/// The part of Jetway's surroundings that decides which program runs.
pub(crate) struct Host {
    pub(crate) path: Option<OsString>,
    pub(crate) data_home: Option<PathBuf>,
    pub(crate) working_dir: PathBuf,
}

impl Host {
    /// This process's.
    pub(crate) fn current() -> Self {
        let var = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let data_home = var("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let local = || Some(PathBuf::from(var("HOME")?).join(".local/share"));
        Self {
            path: var("PATH"),
            data_home: data_home.or_else(local),
            working_dir: std::env::current_dir().unwrap_or_else(|_| "/".into()),
        }
    }
}

/// The program and its first arguments.
pub(crate) fn resolve(command: &Command, host: &Host) -> Result<(PathBuf, Vec<OsString>), CommandNotFound> {
    match command {
        Command::Auto => Ok((first_of(automatic(host), &[])?, Vec::new())),
        Command::Program { program, args } => {
            let places = if program.contains('/') {
                vec![host.working_dir.join(program)]
            } else {
                on_path(host, program).collect()
            };
            let named = format!("{program} in PATH");
            let shown: &[String] = if program.contains('/') { &[] } else { &[named] };
            Ok((first_of(places, shown)?, args.iter().map(OsString::from).collect()))
        }
    }
}

/// What `make demo` installed, what npm installed here or above, and what is in `PATH`, the small runtime
/// before the full CLI.
fn automatic(host: &Host) -> Vec<PathBuf> {
    let mut places = Vec::new();
    if let Some(platform) = platform() {
        let package =
            format!("node_modules/@github/copilot-sdk-{platform}/prebuilds/{platform}/copilot-runtime");
        places.extend(host.data_home.iter().map(|data| data.join("jetway/npm").join(&package)));
        places.extend(host.working_dir.ancestors().map(|dir| dir.join(&package)));
    }
    places.extend(on_path(host, "copilot-runtime"));
    places.extend(on_path(host, "copilot"));
    places
}

/// As npm names it; `None` where there is no runtime.
fn platform() -> Option<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Some("linux-x64"),
        "aarch64" => Some("linux-arm64"),
        _ => None,
    }
}

fn on_path<'a>(host: &'a Host, name: &'a str) -> impl Iterator<Item = PathBuf> + 'a {
    host.path.iter().flat_map(std::env::split_paths).map(move |dir| dir.join(name))
}

fn first_of(places: Vec<PathBuf>, shown: &[String]) -> Result<PathBuf, CommandNotFound> {
    let found = places.iter().find(|place| is_executable(place)).cloned();
    found.ok_or_else(|| CommandNotFound {
        looked_for: if shown.is_empty() {
            places.iter().map(|place| place.display().to_string()).collect()
        } else {
            shown.to_vec()
        },
    })
}

/// Whether `path` can be started.
pub(crate) fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The variables of `all` that a CLI inherits.
pub(crate) fn inherited(all: impl IntoIterator<Item = (OsString, OsString)>) -> Vec<(OsString, OsString)> {
    all.into_iter().filter(|(name, _)| INHERITED.iter().any(|allowed| name == OsStr::new(allowed))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(path: &Path, mode: u32) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "").unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn finds_in_order() {
        let Some(platform) = platform() else { return eprintln!("SKIPPED finds_in_order: no runtime here") };
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        let host = Host {
            path: Some(std::env::join_paths([at("bin"), at("sbin")]).unwrap()),
            data_home: Some(at("data")),
            working_dir: at("a/b"),
        };
        let auto = || resolve(&Command::Auto, &host).map(|(program, _)| program);
        let error = auto().unwrap_err().to_string();
        for expected in ["data/jetway/npm", "a/b/node_modules", "sbin/copilot", "make demo"] {
            assert!(error.contains(expected), "{error}");
        }
        let package =
            format!("node_modules/@github/copilot-sdk-{platform}/prebuilds/{platform}/copilot-runtime");
        let order = [
            "sbin/copilot".to_owned(),
            "bin/copilot".to_owned(),
            "sbin/copilot-runtime".to_owned(),
            package.clone(),
            format!("a/{package}"),
            format!("data/jetway/npm/{package}"),
        ];
        touch(&at("bin/copilot-runtime"), 0o644);
        for better in order {
            touch(&at(&better), 0o755);
            assert_eq!(auto().unwrap(), at(&better));
        }
    }

    #[test]
    fn named_programs() {
        let dir = tempfile::tempdir().unwrap();
        touch(&dir.path().join("bin/cli"), 0o755);
        let host = Host {
            path: Some(dir.path().join("bin").into()),
            data_home: None,
            working_dir: dir.path().into(),
        };
        let find = |program: &str| {
            resolve(&Command::Program { program: program.into(), args: vec!["x".into()] }, &host)
        };
        assert_eq!(find("cli").unwrap(), (dir.path().join("bin/cli"), vec!["x".into()]));
        assert_eq!(find("bin/cli").unwrap().0, dir.path().join("bin/cli"));
        assert_eq!(find("./no").unwrap_err().looked_for, [dir.path().join("./no").display().to_string()]);
        assert_eq!(find("no").unwrap_err().looked_for, ["no in PATH"]);
    }

    #[test]
    fn only_what_is_allowed_is_inherited() {
        let all = ["PATH", "GH_TOKEN", "GITHUB_TOKEN", "AWS_SECRET_ACCESS_KEY", GITHUB_TOKEN, "JETWAY__X"];
        let kept = inherited(all.map(|name| (name.into(), "v".into())));
        assert_eq!(
            kept.iter().map(|(name, _)| name.to_str().unwrap()).collect::<Vec<_>>(),
            ["PATH", GITHUB_TOKEN]
        );
    }
}
