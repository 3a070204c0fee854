//! One target under one load.

use std::{io, time::Duration};

use super::{
    load::{self, Outcome},
    measure::{Measure, Samples},
    peers::{Kind, Places, Target, start},
};

/// How much of everything.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// How long a phase's load lasts.
    pub phase: Duration,
    /// Idle connections.
    pub idle: usize,
}

const PINGS: [(usize, [Measure; 3]); 3] = [
    (1, [Measure::Ping1P50, Measure::Ping1P99, Measure::Ping1Ops]),
    (16, [Measure::Ping16P50, Measure::Ping16P99, Measure::Ping16Ops]),
    (256, [Measure::Ping256P50, Measure::Ping256P99, Measure::Ping256Ops]),
];
/// Read buffers of clients that ping or wait, and of those that stream.
const SMALL: usize = 512;
const LARGE: usize = 64 << 10;
/// Load before a phase counts.
const WARM_UP: Duration = Duration::from_millis(100);
/// After connecting, until memory is read.
const SETTLE: Duration = Duration::from_millis(1500);
const LOADED: usize = 64;
const TURN: &str = "[[quiet]][[deltas 20 20]]";

/// Pings with 1, 16 and 256 connections.
///
/// # Errors
/// When the target refuses or ends.
pub async fn pings(target: &Target, scale: Scale, samples: &mut Samples) -> io::Result<()> {
    for (n, measures) in PINGS {
        let mut clients = load::open(&target.addrs, n, named(target), None, SMALL).await?;
        load::ping(&mut clients, WARM_UP).await?;
        let before = cpu(target)?;
        let outcome = load::ping(&mut clients, scale.phase).await?;
        if n == 16 {
            add_cpu(target, before, &outcome, Measure::Ping16Cpu, samples)?;
        }
        let values = [outcome.quantile_us(0.5), outcome.quantile_us(0.99), per_second(outcome.ops, &outcome)];
        measures
            .into_iter()
            .zip(values)
            .for_each(|(measure, value)| samples.add(measure, target.kind, value));
    }
    Ok(())
}

/// Turns of 20 deltas on 64 connections, in bursts and paced.
///
/// # Errors
/// When the target refuses or ends.
pub async fn turns(target: &Target, scale: Scale, round: usize, samples: &mut Samples) -> io::Result<()> {
    let prefix = format!("turns-{}-{round}", target.kind.name());
    let mut clients = load::open(&target.addrs, LOADED, named(target), Some(&prefix), LARGE).await?;
    load::turns(&mut clients, TURN, WARM_UP).await?;
    let before = cpu(target)?;
    let outcome = load::turns(&mut clients, TURN, scale.phase).await?;
    add_cpu(target, before, &outcome, Measure::TurnsCpu, samples)?;
    samples.add(Measure::TurnsOps, target.kind, per_second(outcome.ops, &outcome));
    let before = cpu(target)?;
    let outcome = load::turns(&mut clients, "[[quiet]][[deltas 20 20 1]]", scale.phase).await?;
    add_cpu(target, before, &outcome, Measure::PacedCpu, samples)
}

/// 2,000 deltas of 200 bytes at a time, on 8 connections.
///
/// # Errors
/// When the target refuses or ends.
pub async fn stream(target: &Target, scale: Scale, round: usize, samples: &mut Samples) -> io::Result<()> {
    let prefix = format!("stream-{}-{round}", target.kind.name());
    let mut clients = load::open(&target.addrs, 8, named(target), Some(&prefix), LARGE).await?;
    load::turns(&mut clients, TURN, WARM_UP).await?;
    let before = cpu(target)?;
    let outcome = load::turns(&mut clients, "[[quiet]][[deltas 2000 200]]", scale.phase).await?;
    add_cpu(target, before, &outcome, Measure::StreamCpu, samples)?;
    samples.add(Measure::StreamFrames, target.kind, per_second(outcome.frames, &outcome));
    Ok(())
}

/// Memory, each figure on a fresh process.
///
/// # Errors
/// When the target does not start, refuses or ends.
pub async fn memory(
    kind: Kind,
    places: &Places,
    servers: &[std::net::SocketAddr],
    scale: Scale,
    round: usize,
    samples: &mut Samples,
) -> io::Result<()> {
    let loaded = start(kind, places, servers)?;
    let Some(process) = &loaded.process else { return Ok(()) };
    let prefix = format!("load-{}-{round}", kind.name());
    let mut clients = load::open(&loaded.addrs, LOADED, named(&loaded), Some(&prefix), LARGE).await?;
    load::turns(&mut clients, TURN, scale.phase).await?;
    samples.add(Measure::LoadRss, kind, process.usage()?.rss / 1024.0);
    drop((clients, loaded));

    for (measure, sessions) in [(Measure::IdleConnection, false), (Measure::IdleSession, true)] {
        let target = start(kind, places, servers)?;
        let Some(process) = &target.process else { return Ok(()) };
        let prefix = format!("idle-{}-{round}", kind.name());
        // The first few bring what is needed once.
        let warm = format!("{prefix}-warm");
        let first = load::open(&target.addrs, 16, named(&target), sessions.then_some(&warm), SMALL).await?;
        let before = process.usage()?.pss;
        let prefix = sessions.then_some(&*prefix);
        let idle = load::open(&target.addrs, scale.idle, named(&target), prefix, SMALL).await?;
        tokio::time::sleep(SETTLE).await;
        #[allow(clippy::cast_precision_loss)]
        samples.add(measure, kind, (process.usage()?.pss - before) / idle.len() as f64);
        drop((first, idle));
    }
    Ok(())
}

/// Only Jetway wants to know who is there.
fn named(target: &Target) -> bool {
    target.kind == Kind::Jetway
}

fn cpu(target: &Target) -> io::Result<f64> {
    target.process.as_ref().map_or(Ok(f64::NAN), |process| process.cpu())
}

fn add_cpu(
    target: &Target,
    before: f64,
    outcome: &Outcome,
    measure: Measure,
    samples: &mut Samples,
) -> io::Result<()> {
    #[allow(clippy::cast_precision_loss)]
    samples.add(measure, target.kind, (cpu(target)? - before) / outcome.frames as f64 * 1e5);
    Ok(())
}

fn per_second(n: u64, outcome: &Outcome) -> f64 {
    #[allow(clippy::cast_precision_loss)]
    let n = n as f64;
    n / outcome.seconds
}
