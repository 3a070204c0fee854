//! Check 38: CLI servers and gateways are replaced one after the other, under load.
//!
//! Servers of one `state`, two gateways at one address (`drain.hand_over`), Redis for the directory and the locks. A
//! CLI server is drained at both gateways, ended, started again and put back into use; a gateway is told to stop when
//! its replacement listens. Applications take one turn after the other, each with a connection of its own, and do what
//! an application does whose connection ends: connect again, resume, and send what has no answer once more.
//!
//! What counts:
//!
//! * **refused**: a prompt, a `session.resume` or a `session.create` that was answered with an error, any error;
//! * **lost**: a prompt that was taken and whose turn did not end with `session.idle`, or ended unheard;
//! * not refused: a connection that ended between turns. If a prompt was under way then, it has no answer: it must not
//!   have run (the same nonce is sent again, and no nonce may be seen twice).
//!
//! `JETWAY_TURNS` and `JETWAY_RESTARTS` have more of both: `make rolling` has 10,000 and 20.

#[path = "../common/mod.rs"]
mod common;

mod app;
mod fleet;
mod scene;

use fleet::Fleet;

fn count(variable: &str, otherwise: usize) -> usize {
    std::env::var(variable).map_or(otherwise, |n| n.parse().expect(variable))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_38_everything_is_replaced() {
    let (turns, restarts) = (count("JETWAY_TURNS", 600), count("JETWAY_RESTARTS", 6));
    scene::roll("check_38_everything_is_replaced", Fleet::stub(3), 24, turns, restarts).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_38_on_real_runtimes() {
    let Some(fleet) = Fleet::real("check_38_on_real_runtimes", 3).await else { return };
    // A runtime's turn costs a hundred times the stub's.
    let (turns, restarts) = (count("JETWAY_TURNS", 600) / 10, count("JETWAY_RESTARTS", 4).min(20));
    scene::roll("check_38_on_real_runtimes", fleet, 6, turns, restarts).await;
}
