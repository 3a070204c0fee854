//! How even, stable and fast the ring is: `cargo run --release -p jetway-pool --example ring_quality`.

use std::time::Instant;

use jetway_pool::ring::{self, Ring};

const USERS: u64 = 1_000_000;

fn main() {
    println!("{} points per weight, {USERS} users", ring::POINTS_PER_WEIGHT);
    println!("servers  names       users       max/mean  bounded  added·n  removed·n  ns/look-up  build ms");
    for n in [3, 10, 100] {
        for (kind, name) in [("sequential", sequential as fn(u64) -> String), ("random", random)] {
            for (users, user) in [("sequential", sequential as fn(u64) -> String), ("random", random)] {
                row(n, kind, name, users, user);
            }
        }
    }
}

fn row(n: usize, kind: &str, name: fn(u64) -> String, users: &str, user: fn(u64) -> String) {
    let names: Vec<_> = (0..=n as u64).map(|i| format!("cli-{}:4321", name(i))).collect();
    let build = |names: &[String]| Ring::new(names.iter().map(|name| (name.as_str(), 1)));
    let begun = Instant::now();
    let ring = build(&names[..n]);
    let built = begun.elapsed();
    let positions: Vec<_> = (0..USERS).map(|i| ring::digest(["acme", &user(i)])).collect();

    let begun = Instant::now();
    let places: Vec<_> = positions.iter().map(|at| ring.place(*at, |_| true).unwrap()).collect();
    let look_up = begun.elapsed().as_nanos() as f64 / USERS as f64;

    // Another server joins; and the first one leaves, which shifts the others' indices by one.
    let more = build(&names);
    let fewer = build(&names[1..n]);
    let moved = |other: &Ring, same: &dyn Fn(usize, usize) -> bool| {
        let moved = positions
            .iter()
            .zip(&places)
            .filter(|(at, place)| !same(**place, other.place(**at, |_| true).unwrap()));
        moved.count() as f64 / USERS as f64
    };
    let added = moved(&more, &|old, new| old == new) * (n + 1) as f64;
    let removed = moved(&fewer, &|old, new| old == new + 1) * n as f64;
    println!(
        "{n:>7}  {kind:<10}  {users:<10}  {:>8.3}  {:>7.3}  {added:>7.3}  {removed:>9.3}  {look_up:>10.1}  {:>8.1}",
        evenness(n, &places),
        evenness(n, &bounded(&ring, n, &positions)),
        built.as_secs_f64() * 1e3,
    );
}

fn evenness(n: usize, places: &[usize]) -> f64 {
    let mut loads = vec![0_u64; n];
    places.iter().for_each(|place| loads[*place] += 1);
    *loads.iter().max().unwrap() as f64 * n as f64 / places.len() as f64
}

/// Everybody there at once.
fn bounded(ring: &Ring, n: usize, positions: &[u64]) -> Vec<usize> {
    let mut loads = vec![0_u64; n];
    let place = |(total, at): (u64, &u64)| {
        let bound = ring::bound(total, 1, n as u64);
        let place = ring.place(*at, |server| loads[server] < bound).unwrap();
        loads[place] += 1;
        place
    };
    (0..).zip(positions).map(place).collect()
}

fn sequential(i: u64) -> String {
    format!("user-{i}")
}

fn random(i: u64) -> String {
    format!(
        "{:016x}",
        (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
    )
}
