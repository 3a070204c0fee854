//! The side-by-side benchmark as a program; see `jetway_loadtest::bench` for what it measures.

use std::{
    env, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use clap::{Parser, Subcommand, ValueEnum};
use jetway_loadtest::bench::{
    FRAME, goals, http,
    measure::Samples,
    peers::{self, Kind, Places, Target},
    phases::{self, Scale},
    process::{Process, raise_file_limit},
    report, sdk, splice,
};
use tokio::signal::unix::{SignalKind, signal};

/// Jetway beside nginx, HAProxy and a plain copy, before the same stub CLI servers.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Option<Sub>,
    /// Interleaved rounds; medians are taken over them.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Two short rounds and 1,000 idle connections: to see that it runs, not to quote.
    #[arg(long)]
    quick: bool,
    /// Measure only this; may be given more than once.
    #[arg(long, value_enum)]
    only: Vec<Part>,
    /// Measure only these; may be given more than once.
    #[arg(long, value_enum)]
    target: Vec<Name>,
    /// Where the figures go as JSON.
    #[arg(long, default_value = "bench-results/bench.json")]
    json: PathBuf,
    /// CLI servers behind every target, all in one process.
    #[arg(long, default_value_t = 2)]
    servers: usize,
    /// Jetway's program [default: beside this one].
    #[arg(long)]
    jetway: Option<PathBuf>,
    /// nginx's stream module, where it is not built in.
    #[arg(long, default_value = "/usr/lib/nginx/modules/ngx_stream_module.so")]
    nginx_stream: PathBuf,
    /// The folder with node_modules that holds the official SDK [default: loadtest].
    #[arg(long)]
    packages: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Sub {
    /// The plain copy, one of the targets.
    Splice {
        /// Where to listen.
        #[arg(long)]
        listen: SocketAddr,
        /// Where to connect, in turn.
        #[arg(long, required = true)]
        to: Vec<SocketAddr>,
    },
    /// What the HTTP proxies stand before.
    Upstream {
        /// Where to listen.
        #[arg(long)]
        listen: SocketAddr,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Ping,
    Turns,
    Stream,
    Idle,
    Http,
    Sdk,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Name {
    Direct,
    Splice,
    Nginx,
    Haproxy,
    Jetway,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match args.command {
        Some(Sub::Splice { listen, to }) => splice::run(listen, to),
        Some(Sub::Upstream { listen }) => http::upstream(listen),
        None => bench(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A run: where things are, and what came of it so far.
struct Run<'a> {
    args: &'a Args,
    places: Places,
    scale: Scale,
    samples: Samples,
    skipped: Vec<String>,
}

fn bench(args: &Args) -> io::Result<()> {
    let bin = env::current_exe()?.parent().map(Path::to_owned).unwrap_or_default();
    let dir = env::temp_dir().join(format!("jetway-bench-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    let places = Places {
        jetway: args.jetway.clone().unwrap_or_else(|| bin.join("jetway")),
        bin,
        templates: Path::new(env!("CARGO_MANIFEST_DIR")).join("bench"),
        nginx_stream: args.nginx_stream.clone(),
        dir: dir.clone(),
        files: raise_file_limit()?,
    };
    let (phase, idle) = if args.quick { (300, 1000) } else { (800, 5000) };
    let scale = Scale { phase: Duration::from_millis(phase), idle };
    let mut run = Run { args, places, scale, samples: Samples::default(), skipped: Vec::new() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = tokio::task::LocalSet::new().block_on(&runtime, async {
        // Whatever ends the run, what it has started is stopped.
        let mut terminate = signal(SignalKind::terminate())?;
        let interrupted = || Err(io::Error::other("interrupted"));
        tokio::select! {
            done = run.all() => done,
            _ = terminate.recv() => interrupted(),
            _ = tokio::signal::ctrl_c() => interrupted(),
        }
    });
    fs::remove_dir_all(&dir)?;
    done?;
    let goals = goals::goals(&run.samples);
    println!("A frame is {FRAME}.\n\n{}\n{}", report::table(&run.samples), report::goals(&goals));
    run.skipped.iter().for_each(|skipped| eprintln!("SKIPPED {skipped}"));
    report::write_json(&args.json, &run.samples, &goals, &run.skipped)
}

impl Run<'_> {
    fn wants(&self, part: Part) -> bool {
        self.args.only.is_empty() || self.args.only.contains(&part)
    }

    fn rounds(&self) -> usize {
        if self.args.quick { self.args.rounds.min(2) } else { self.args.rounds.max(1) }
    }

    fn skip(&mut self, what: &str, why: &io::Error) {
        let line = format!("{what}: {why}");
        if !self.skipped.contains(&line) {
            eprintln!("SKIPPED {line}");
            self.skipped.push(line);
        }
    }

    async fn all(&mut self) -> io::Result<()> {
        let mut stub = Command::new(self.places.bin.join("stub-cli"));
        stub.args(["--no-lifecycle", "--forget", "--servers", &self.args.servers.to_string()]);
        let (_stub, servers) = Process::start_cli(&mut stub, self.args.servers)?;
        let loaded = [Part::Ping, Part::Turns, Part::Stream].map(|part| self.wants(part));
        if loaded.contains(&true) || self.wants(Part::Idle) {
            let mut targets = self.start(&servers);
            for round in 0..if loaded.contains(&true) { self.rounds() } else { 0 } {
                eprintln!("round {} of {}", round + 1, self.rounds());
                for at in 0..targets.len() {
                    let target = &targets[(at + round) % targets.len()];
                    let (kind, done) = (target.kind, self.load(target, round, loaded).await);
                    done.map_err(|error| io::Error::other(format!("{}: {error}", kind.name())))?;
                }
            }
            let kinds: Vec<Kind> = targets.drain(..).map(|target| target.kind).collect();
            if self.wants(Part::Idle) {
                self.memory(&kinds, &servers).await?;
            }
        }
        if self.wants(Part::Http) {
            self.http(&servers).await?;
        }
        if self.wants(Part::Sdk) {
            self.sdk();
        }
        Ok(())
    }

    /// Those that are to be measured.
    fn kinds(&self) -> impl Iterator<Item = Kind> + use<> {
        let names = [Name::Direct, Name::Splice, Name::Nginx, Name::Haproxy, Name::Jetway];
        let wanted = self.args.target.clone();
        let named = Kind::ALL.into_iter().zip(names);
        named.filter(move |(_, name)| wanted.is_empty() || wanted.contains(name)).map(|(kind, _)| kind)
    }

    async fn http(&mut self, servers: &[SocketAddr]) -> io::Result<()> {
        let (_upstream, upstream) = http::start_upstream(&self.places)?;
        let mut targets = Vec::new();
        for kind in self.kinds() {
            match http::start(kind, &self.places, upstream, servers).await {
                Ok(target) => targets.push(target),
                Err(error) => self.skip(&format!("HTTP, {}", kind.name()), &error),
            }
        }
        for round in 0..self.rounds() {
            eprintln!("HTTP, round {}", round + 1);
            for at in 0..targets.len() {
                let target = &targets[(at + round) % targets.len()];
                let done = http::requests(target, self.scale.phase, &mut self.samples).await;
                done.map_err(|error| io::Error::other(format!("HTTP, {}: {error}", target.kind.name())))?;
            }
        }
        Ok(())
    }

    fn start(&mut self, servers: &[SocketAddr]) -> Vec<Target> {
        let mut targets = Vec::new();
        for kind in self.kinds() {
            match peers::start(kind, &self.places, servers) {
                Ok(target) => targets.push(target),
                Err(error) => self.skip(kind.name(), &error),
            }
        }
        targets
    }

    async fn load(
        &mut self,
        target: &Target,
        round: usize,
        [ping, turns, stream]: [bool; 3],
    ) -> io::Result<()> {
        if ping {
            phases::pings(target, self.scale, &mut self.samples).await?;
        }
        if turns {
            phases::turns(target, self.scale, round, &mut self.samples).await?;
        }
        if stream {
            phases::stream(target, self.scale, round, &mut self.samples).await?;
        }
        Ok(())
    }

    async fn memory(&mut self, kinds: &[Kind], servers: &[SocketAddr]) -> io::Result<()> {
        // Memory hardly varies.
        for round in 0..self.rounds().min(3) {
            eprintln!("memory, round {}", round + 1);
            for kind in kinds {
                let (places, samples) = (&self.places, &mut self.samples);
                let done = phases::memory(*kind, places, servers, self.scale, round, samples).await;
                done.map_err(|error| io::Error::other(format!("{}, memory: {error}", kind.name())))?;
            }
        }
        Ok(())
    }

    fn sdk(&mut self) {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let packages = self.args.packages.clone().unwrap_or_else(|| here.to_owned());
        for _ in 0..self.rounds().min(3) {
            if let Err(error) = sdk::measure(&self.places, &packages, &mut self.samples) {
                self.skip("SDK ping", &error);
            }
        }
    }
}
