//! Two gateways at one address before a fleet, with everything replaced in turn.

use std::{
    net::TcpListener as Probe,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use jetway_loadtest::redis::Redis;
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::{
    app::{App, Tally},
    common::{
        self,
        program::{self, Program},
    },
    fleet::Fleet,
};

/// The longest that one replacement may take.
const LONG: Duration = Duration::from_secs(60);
/// Between two of them: the load goes on as usual.
const CALM: Duration = Duration::from_millis(300);
const LOOK: Duration = Duration::from_millis(20);
/// Between an application's turns.
const THINKING: Duration = Duration::from_millis(20);

struct Scene {
    gateways: Vec<Program>,
    toml: String,
    fleet: Fleet,
    _redis: Redis,
}

/// Replaces CLI servers and gateways by turns, `restarts` in all, under `apps` applications with at least `turns`
/// turns together.
pub(crate) async fn roll(test: &str, fleet: Fleet, apps: usize, turns: usize, restarts: usize) {
    let Some(redis) = Redis::start_for(test, &[]) else { return };
    // Nobody else gets the port while it is known to us only.
    let address = Probe::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let more = format!(
        "directory.store = \"redis\"\nredis.url = \"{}\"\nlocks.store = \"redis\"\ndrain.hand_over = true",
        redis.url()
    );
    let toml = common::fleet_of(fleet.addresses(), "state = \"shared\"\n", &more);
    let toml = toml.replace("sdk = \"127.0.0.1:0\"", &format!("sdk = \"{address}\""));
    let gateways = (0..2).map(|_| Program::start(&toml)).collect();
    let mut scene = Scene { gateways, toml, fleet, _redis: redis };

    let (over, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut load = JoinSet::new();
    for n in 0..apps {
        let mut app = App::new(address, n, scene.fleet.settings());
        let (over, done, prompt) = (over.clone(), done.clone(), scene.fleet.prompt());
        load.spawn(async move {
            while !over.load(Ordering::Relaxed) || done.load(Ordering::Relaxed) < turns {
                app.turn(prompt).await;
                done.fetch_add(1, Ordering::Relaxed);
                app.think(THINKING).await;
            }
            app.tally
        });
    }
    let since = Instant::now();
    while done.load(Ordering::Relaxed) < apps {
        assert!(since.elapsed() < LONG, "the load does not come up");
        tokio::time::sleep(LOOK).await;
    }
    for n in 0..restarts {
        // As many turns between two as are to be had in all.
        while done.load(Ordering::Relaxed) < turns * n / restarts {
            tokio::time::sleep(LOOK).await;
        }
        tokio::time::sleep(CALM).await;
        if n % 2 == 0 { scene.replace_server(n / 2 % 3).await } else { scene.replace_gateway().await }
    }
    over.store(true, Ordering::Relaxed);
    let tallies = load.join_all().await;
    scene.tell(tallies, restarts, since.elapsed());
}

impl Scene {
    async fn replace_server(&mut self, server: usize) {
        let address = self.fleet.addresses()[server];
        self.at_all("POST", &format!("/admin/v1/drain/{address}"), |_| true).await;
        self.at_all("GET", &format!("/admin/v1/servers/{address}"), |row| row["state"] == "drained").await;
        self.fleet.restart(server).await;
        self.at_all("POST", &format!("/admin/v1/undrain/{address}"), |row| row["state"] == "up").await;
    }

    /// The older one.
    async fn replace_gateway(&mut self) {
        self.gateways.push(Program::start(&self.toml));
        let mut old = self.gateways.remove(0);
        old.signal(Signal::SIGTERM);
        let (status, _) = old.exit(LONG).await;
        assert_eq!(status.code(), Some(0), "{}", old.log());
    }

    /// Asks all gateways until the answer of each is as it should be.
    async fn at_all(&self, method: &str, path: &str, is: impl Fn(&Value) -> bool) {
        for gateway in &self.gateways {
            let since = Instant::now();
            loop {
                let (_, page) = program::ask(gateway.admin, method, path).await;
                let row = serde_json::from_str(&page).unwrap();
                if is(&row) {
                    break;
                }
                assert!(since.elapsed() < LONG, "{method} {path}: not within {LONG:?}: {row:#}");
                tokio::time::sleep(LOOK).await;
            }
        }
    }

    fn tell(&self, tallies: Vec<Tally>, restarts: usize, took: Duration) {
        let mut all = Tally::default();
        for tally in tallies {
            all.completed.extend(tally.completed);
            all.refused.extend(tally.refused);
            all.lost.extend(tally.lost);
            all.away.extend(tally.away);
            (all.ended, all.unanswered) = (all.ended + tally.ended, all.unanswered + tally.unanswered);
        }
        let wrong = self.fleet.wrong(&all.completed);
        let (half, most) = (common::quantile(&mut all.away, 0.5), common::quantile(&mut all.away, 1.0));
        println!(
            "CHECK 38: {restarts} rolling restarts, {} of them of gateways, {} turns in {took:.1?}: {} refused, {} lost, \
             {} wrong in the ledgers; {} connections ended, {} with a prompt that had no answer and had not run; \
             the session was there again after {half:.1?} (median), {most:.1?} (at most)",
            restarts / 2,
            all.completed.len(),
            all.refused.len(),
            all.lost.len(),
            wrong.len(),
            all.ended,
            all.unanswered,
        );
        assert_eq!((all.refused, all.lost, wrong), Default::default());
        assert!(restarts < 2 || all.ended > 0, "nobody noticed a gateway's end");
    }
}
