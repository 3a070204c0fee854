//! The programs that are compared, each started in front of the same stub CLI servers.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use super::process::{Process, find, free_addr};

/// What a client goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Nothing.
    Direct,
    /// [`super::splice`].
    Splice,
    /// nginx's stream module.
    Nginx,
    /// HAProxy in TCP mode.
    Haproxy,
    /// Jetway before a fleet.
    Jetway,
}

impl Kind {
    /// In the order of the table.
    pub const ALL: [Kind; 5] = [Kind::Direct, Kind::Splice, Kind::Nginx, Kind::Haproxy, Kind::Jetway];

    /// As the table calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Direct => "direct",
            Kind::Splice => "splice",
            Kind::Nginx => "nginx",
            Kind::Haproxy => "HAProxy",
            Kind::Jetway => "Jetway",
        }
    }
}

/// Where programs and templates are.
#[derive(Debug, Clone)]
pub struct Places {
    /// Holds this benchmark's program, the stub CLI and, normally, Jetway.
    pub bin: PathBuf,
    /// Jetway's program.
    pub jetway: PathBuf,
    /// `loadtest/bench`.
    pub templates: PathBuf,
    /// nginx's stream module.
    pub nginx_stream: PathBuf,
    /// For configurations and state; removed at the end.
    pub dir: PathBuf,
    /// The limit on open files.
    pub files: u64,
}

impl Places {
    /// Fills in a template of `loadtest/bench`, writes it beside the state, and says where.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn fill(&self, template: &str, values: &[(&str, &str)]) -> io::Result<PathBuf> {
        let mut text = fs::read_to_string(self.templates.join(template))?;
        let (dir, files) = (self.dir.display().to_string(), self.files.to_string());
        // Two descriptors each, and some for the program itself.
        let connections = (self.files.min(65_536).saturating_sub(100) / 2).to_string();
        let common =
            [("DIR", dir.as_str()), ("FILES", files.as_str()), ("CONNECTIONS", connections.as_str())];
        for (name, value) in values.iter().chain(&common) {
            text = text.replace(&format!("@{name}@"), value);
        }
        let to = self.dir.join(template);
        fs::write(&to, text)?;
        Ok(to)
    }
}

/// Something to measure.
#[derive(Debug)]
pub struct Target {
    /// What it is.
    pub kind: Kind,
    /// Where clients connect: one address, or those of all servers.
    pub addrs: Vec<SocketAddr>,
    /// None when there is nothing in between.
    pub process: Option<Process>,
}

/// Starts one.
///
/// # Errors
/// When its program is missing or does not come up; the message says which and why.
pub fn start(kind: Kind, places: &Places, servers: &[SocketAddr]) -> io::Result<Target> {
    let listen = free_addr()?;
    let command = match kind {
        Kind::Direct => return Ok(Target { kind, addrs: servers.to_vec(), process: None }),
        Kind::Splice => splice(places, listen, servers),
        Kind::Nginx => nginx(places, listen, servers),
        Kind::Haproxy => haproxy(places, listen, servers),
        Kind::Jetway => jetway(places, listen, servers),
    };
    let process = Process::start(&mut command?)?.listening(listen)?;
    Ok(Target { kind, addrs: vec![listen], process: Some(process) })
}

fn splice(places: &Places, listen: SocketAddr, servers: &[SocketAddr]) -> io::Result<Command> {
    Ok(splice_to(places, listen, servers))
}

/// The command that runs the plain copy.
#[must_use]
pub fn splice_to(places: &Places, listen: SocketAddr, servers: &[SocketAddr]) -> Command {
    let mut command = Command::new(places.bin.join("bench"));
    command.args(["splice", "--listen", &listen.to_string()]);
    for server in servers {
        command.args(["--to", &server.to_string()]);
    }
    command
}

fn nginx(places: &Places, listen: SocketAddr, servers: &[SocketAddr]) -> io::Result<Command> {
    if !places.nginx_stream.is_file() {
        let path = places.nginx_stream.display();
        return Err(io::Error::other(format!(
            "no {path}; install libnginx-mod-stream, or give --nginx-stream"
        )));
    }
    let list: String = servers.iter().map(|s| format!("        server {s};\n")).collect();
    let module = places.nginx_stream.display().to_string();
    nginx_with(places, "nginx.conf", listen, &[("SERVERS", &list), ("MODULE", &module)])
}

/// The command that runs nginx on a template.
///
/// # Errors
/// When it is not installed.
pub fn nginx_with(
    places: &Places,
    template: &str,
    listen: SocketAddr,
    values: &[(&str, &str)],
) -> io::Result<Command> {
    let program = program("nginx")?;
    let user = nix::unistd::User::from_uid(nix::unistd::getuid())?.map_or("nobody".into(), |user| user.name);
    let listen = listen.to_string();
    let values = [values, &[("LISTEN", listen.as_str()), ("USER", user.as_str())]].concat();
    let config = places.fill(template, &values)?;
    let mut command = Command::new(program);
    command.arg("-p").arg(&places.dir).arg("-c").arg(config).arg("-e").arg(places.dir.join("nginx.err"));
    Ok(command)
}

fn haproxy(places: &Places, listen: SocketAddr, servers: &[SocketAddr]) -> io::Result<Command> {
    let list: String = servers.iter().enumerate().map(|(i, s)| format!("    server s{i} {s}\n")).collect();
    haproxy_with(places, "haproxy.cfg", listen, &[("SERVERS", &list)])
}

/// The command that runs HAProxy on a template.
///
/// # Errors
/// When it is not installed.
pub fn haproxy_with(
    places: &Places,
    template: &str,
    listen: SocketAddr,
    values: &[(&str, &str)],
) -> io::Result<Command> {
    let program = program("haproxy")?;
    let listen = listen.to_string();
    let config = places.fill(template, &[values, &[("LISTEN", listen.as_str())]].concat())?;
    let mut command = Command::new(program);
    command.args(["-db", "-f"]).arg(config);
    Ok(command)
}

fn jetway(places: &Places, listen: SocketAddr, servers: &[SocketAddr]) -> io::Result<Command> {
    let list: String = servers.iter().map(|s| format!("[[pool.fleet]]\naddress = \"{s}\"\n")).collect();
    jetway_with(places, "jetway.toml", listen, &[("SERVERS", &list)])
}

/// The command that runs Jetway on a template.
///
/// # Errors
/// When Jetway has not been built.
pub fn jetway_with(
    places: &Places,
    template: &str,
    listen: SocketAddr,
    values: &[(&str, &str)],
) -> io::Result<Command> {
    if !Path::is_file(&places.jetway) {
        let path = places.jetway.display();
        return Err(io::Error::other(format!("no {path}; run `cargo build --release` first")));
    }
    let (listen, admin) = (listen.to_string(), free_addr()?.to_string());
    let values = [values, &[("LISTEN", listen.as_str()), ("ADMIN", admin.as_str())]].concat();
    let config = places.fill(template, &values)?;
    let mut command = Command::new(&places.jetway);
    command.arg("serve").arg("--config").arg(config).current_dir(&places.dir);
    Ok(command)
}

fn program(name: &str) -> io::Result<PathBuf> {
    find(name).ok_or_else(|| io::Error::other(format!("{name} is not installed")))
}
