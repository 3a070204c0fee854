//! Which program a CLI is, and in what environment it runs.

use std::{
    ffi::{OsStr, OsString},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use jetway_config::pool::Command;

use crate::error::CommandNotFound;

/// What every CLI is given after the operator's own arguments: flags that both `copilot-runtime` and the full
/// `copilot` know, as either refuses others.
const ARGUMENTS: [&str; 8] =
    ["--headless", "--port", "0", "--host", "127.0.0.1", "--no-auto-update", "--log-level", "error"];

/// The operator's variables that a CLI gets; everything else in Jetway's environment stays there, secrets of
/// other services above all. `COPILOT_GITHUB_TOKEN` is the exception, made on purpose: it is set for Copilot
/// and nothing else. `GH_TOKEN` and `GITHUB_TOKEN` often lie around with wide rights, and a session's shell
/// would inherit them.
const INHERITED: [&str; 21] = [
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
    PACKAGE_CACHE,
    GITHUB_TOKEN,
];

/// The operator's own Copilot login, for every user's CLI.
pub(crate) const GITHUB_TOKEN: &str = "COPILOT_GITHUB_TOKEN";

/// What is started for every user.
pub(crate) struct Cli {
    pub(crate) program: PathBuf,
    /// The operator's, then [`ARGUMENTS`].
    pub(crate) arguments: Vec<OsString>,
    pub(crate) environment: Vec<(OsString, OsString)>,
}

impl Cli {
    /// What `command` means on `host`, with what it inherits of `variables`.
    pub(crate) fn find(
        command: &Command,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
        host: &Host,
    ) -> Result<Self, CommandNotFound> {
        let (program, mut arguments) = resolve(command, host)?;
        arguments.extend(ARGUMENTS.map(OsString::from));
        Ok(Self { program, arguments, environment: environment(variables, host) })
    }
}

/// The part of Jetway's surroundings that decides which program runs.
pub(crate) struct Host {
    pub(crate) path: Option<OsString>,
    pub(crate) data_home: Option<PathBuf>,
    pub(crate) cache_home: Option<PathBuf>,
    pub(crate) working_dir: PathBuf,
}

impl Host {
    /// This process's.
    pub(crate) fn current() -> Self {
        let var = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let base = |name, under_home| {
            let named = var(name).map(PathBuf::from).filter(|path| path.is_absolute());
            named.or_else(|| Some(PathBuf::from(var("HOME")?).join(under_home)))
        };
        Self {
            path: var("PATH"),
            data_home: base("XDG_DATA_HOME", ".local/share"),
            cache_home: base("XDG_CACHE_HOME", ".cache"),
            working_dir: std::env::current_dir().unwrap_or_else(|_| "/".into()),
        }
    }
}

/// The program and its first arguments.
fn resolve(command: &Command, host: &Host) -> Result<(PathBuf, Vec<OsString>), CommandNotFound> {
    let (places, arguments) = match command {
        Command::Auto => (automatic(), Vec::new()),
        Command::Program { program, args } if program.contains('/') => {
            (vec![Place::At(host.working_dir.join(program))], args.iter().map(OsString::from).collect())
        }
        Command::Program { program, args } => {
            (vec![Place::OnPath(program.clone())], args.iter().map(OsString::from).collect())
        }
    };
    match places.iter().flat_map(|place| place.candidates(host)).find(|path| is_executable(path)) {
        Some(program) => Ok((native(program), arguments)),
        None => {
            Err(CommandNotFound { looked_for: places.iter().flat_map(|place| place.shown(host)).collect() })
        }
    }
}

/// What `make demo` installed, what npm installed here or above, and what is in `PATH`, the small runtime
/// before the full CLI.
fn automatic() -> Vec<Place> {
    let mut places = Vec::new();
    if let Some(platform) = platform() {
        let package =
            format!("node_modules/@github/copilot-sdk-{platform}/prebuilds/{platform}/copilot-runtime");
        places.push(Place::InData(format!("jetway/npm/{package}")));
        places.push(Place::HereOrAbove(package));
    }
    places.extend(["copilot-runtime", "copilot"].map(|name| Place::OnPath(name.to_owned())));
    places
}

/// What npm puts into `PATH` is a script that starts the real program and waits. Started by that script, the
/// program would hear neither of Jetway's death nor, in time, of SIGTERM; so it is started itself.
fn native(program: PathBuf) -> PathBuf {
    let script = program.canonicalize().ok().filter(|path| path.ends_with("@github/copilot/npm-loader.js"));
    let package = script.as_deref().and_then(Path::parent).and_then(Path::parent).zip(platform());
    let native = package.map(|(scope, platform)| scope.join(format!("copilot-{platform}/copilot")));
    native.filter(|native| is_executable(native)).unwrap_or(program)
}

enum Place {
    At(PathBuf),
    InData(String),
    HereOrAbove(String),
    OnPath(String),
}

impl Place {
    fn candidates(&self, host: &Host) -> Vec<PathBuf> {
        match self {
            Self::At(path) => vec![path.clone()],
            Self::InData(path) => host.data_home.iter().map(|data| data.join(path)).collect(),
            Self::HereOrAbove(path) => host.working_dir.ancestors().map(|dir| dir.join(path)).collect(),
            Self::OnPath(name) => {
                host.path.iter().flat_map(std::env::split_paths).map(|dir| dir.join(name)).collect()
            }
        }
    }

    fn shown(&self, host: &Host) -> Option<String> {
        match self {
            Self::At(path) => Some(path.display().to_string()),
            Self::InData(path) => host.data_home.as_ref().map(|data| data.join(path).display().to_string()),
            Self::HereOrAbove(path) => Some(format!("{path} in {} and above", host.working_dir.display())),
            Self::OnPath(name) => Some(format!("{name} in PATH")),
        }
    }
}

/// As npm names it; `None` where there is no runtime.
fn platform() -> Option<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Some("linux-x64"),
        "aarch64" => Some("linux-arm64"),
        _ => None,
    }
}

/// Whether `path` can be started.
pub(crate) fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Where the full `copilot` unpacks itself (235 MB), unless the operator says where: once for all users, not in
/// each one's home.
pub(crate) const PACKAGE_CACHE: &str = "COPILOT_CACHE_HOME";

/// The variables of `all` that a CLI inherits, and the cache.
fn environment(
    all: impl IntoIterator<Item = (OsString, OsString)>,
    host: &Host,
) -> Vec<(OsString, OsString)> {
    let allowed = |name: &OsStr| INHERITED.iter().any(|allowed| name == OsStr::new(allowed));
    let mut kept: Vec<_> = all.into_iter().filter(|(name, _)| allowed(name)).collect();
    if !kept.iter().any(|(name, _)| name == PACKAGE_CACHE) {
        let cache = host.cache_home.as_ref().map(|cache| cache.join("jetway/copilot").into_os_string());
        kept.extend(cache.map(|cache| (PACKAGE_CACHE.into(), cache)));
    }
    kept
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
        let Some(platform) = platform() else {
            return eprintln!("SKIPPED finds_in_order: no runtime is made for this platform");
        };
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        let host = Host {
            path: Some(std::env::join_paths([at("bin"), at("sbin")]).unwrap()),
            data_home: Some(at("data")),
            cache_home: None,
            working_dir: at("a/b"),
        };
        let auto = || resolve(&Command::Auto, &host).map(|(program, _)| program);
        let error = auto().unwrap_err().to_string();
        for expected in ["data/jetway/npm", "a/b and above", "copilot in PATH", "make demo"] {
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
    fn npms_script_is_passed_by() {
        let Some(platform) = platform() else {
            return eprintln!("SKIPPED npms_script_is_passed_by: no CLI is made for this platform");
        };
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let script = dir.join("@github/copilot/npm-loader.js");
        touch(&script, 0o755);
        let link = dir.join("copilot");
        std::os::unix::fs::symlink(&script, &link).unwrap();
        assert_eq!(native(link.clone()), link);
        let program = dir.join(format!("@github/copilot-{platform}/copilot"));
        touch(&program, 0o755);
        assert_eq!(native(link), program);
        assert_eq!(native(dir.join("other")), dir.join("other"));
    }

    #[test]
    fn named_programs() {
        let dir = tempfile::tempdir().unwrap();
        touch(&dir.path().join("bin/cli"), 0o755);
        let host = Host {
            path: Some(dir.path().join("bin").into()),
            data_home: None,
            cache_home: None,
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
        let host =
            Host { path: None, data_home: None, cache_home: Some("/c".into()), working_dir: "/".into() };
        let kept = environment(all.map(|name| (name.into(), "v".into())), &host);
        let kept: Vec<_> = kept.iter().map(|(n, v)| (n.to_str().unwrap(), v.to_str().unwrap())).collect();
        assert_eq!(kept, [("PATH", "v"), (GITHUB_TOKEN, "v"), (PACKAGE_CACHE, "/c/jetway/copilot")]);
        let own = environment([(PACKAGE_CACHE.into(), "/own".into())], &host);
        assert_eq!(own, [(PACKAGE_CACHE.into(), "/own".into())]);
    }
}
