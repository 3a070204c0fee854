//! Every metric of the gateway, named, described and recorded in one place.
//!
//! Labels come from closed sets: never a tenant, user or session id.

use std::{sync::LazyLock, time::Duration};

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use crate::{rescue, sessions::turn::Ended, stack::Refusal};

/// Upper bounds of every histogram's buckets, in seconds: from what Jetway adds to what a long turn takes.
const BUCKETS: [f64; 19] = [
    0.000_02, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 10.0, 60.0, 600.0,
];

/// Begins to collect, for this process.
///
/// # Panics
///
/// If it was called before, or the buckets above are none.
pub fn install() -> PrometheusHandle {
    let builder = PrometheusBuilder::new().set_buckets(&BUCKETS).expect("there are buckets");
    let handle = builder.install_recorder().expect("nothing else collects metrics");
    describe();
    handle
}

/// Tells the exporter what each metric is.
fn describe() {
    describe_gauge!("jetway_connections", "Client connections that are open, by listener");
    describe_counter!(
        "jetway_connections_total",
        "Client connections accepted, by listener and how they ended"
    );
    describe_counter!("jetway_calls_total", "Requests of clients, by outcome");
    describe_histogram!(
        "jetway_added_latency_seconds",
        Unit::Seconds,
        "From reading a request to handing it on, starting a CLI server included"
    );
    describe_gauge!("jetway_sessions_attached", "Sessions attached to client connections");
    describe_gauge!("jetway_turns_running", "Turns that have begun and not ended");
    describe_gauge!("jetway_turns_waiting", "Turns that wait for room");
    describe_histogram!(
        "jetway_turn_wait_seconds",
        Unit::Seconds,
        "How long turns waited for room that had to, by what came of it"
    );
    describe_counter!("jetway_refusals_total", "Requests that ran into a limit, by limit");
    describe_counter!("jetway_turns_total", "Turns that have ended, by outcome");
    describe_histogram!(
        "jetway_turn_seconds",
        Unit::Seconds,
        "From prompt to the end of the turn, by outcome"
    );
    describe_histogram!(
        "jetway_first_delta_seconds",
        Unit::Seconds,
        "From prompt to the first delta of the answer"
    );
    describe_counter!("jetway_bytes_total", Unit::Bytes, "Frame bytes relayed, by direction");
    describe_counter!(
        "jetway_messages_filtered_total",
        "Messages of CLI servers that were not for the client"
    );
    describe_counter!("jetway_bad_frames_total", "What clients sent that is no frame or no message, by kind");
    describe_counter!(
        "jetway_evictions_total",
        "Users' CLI processes and sessions that were let go, by reason"
    );
    describe_counter!("jetway_resumes_total", "Sessions brought back unseen, by outcome");
    describe_histogram!(
        "jetway_resume_seconds",
        Unit::Seconds,
        "From noticing that a session must be brought back to its being back"
    );
    describe_counter!("jetway_tls_handshakes_total", "TLS handshakes of clients, by listener and outcome");
    describe_counter!("jetway_jwks_fetches_total", "Fetches of the issuer's key set, by outcome");
    describe_counter!(
        "jetway_config_reloads_total",
        "Times that the configuration was loaded again, by outcome"
    );
    describe_counter!("jetway_egress_total", "Connections that sandboxed CLI servers asked for, by outcome");
    describe_gauge!("jetway_draining", "1 while Jetway drains");
    describe_gauge!("jetway_backends", "CLI servers, by state");
    describe_gauge!("jetway_draining_sessions", "Sessions that are still on CLI servers that are drained");
    jetway_pool::describe();
    jetway_lockd::describe();
}

/// Handles of what is counted for every message: looking one up by name costs as much as relaying.
struct Hot {
    to_client: Counter,
    from_client: Counter,
    accepted: Counter,
    added: Histogram,
    turns_running: Gauge,
}

static HOT: LazyLock<Hot> = LazyLock::new(|| Hot {
    to_client: counter!("jetway_bytes_total", "direction" => "to_client"),
    from_client: counter!("jetway_bytes_total", "direction" => "from_client"),
    accepted: counter!("jetway_calls_total", "outcome" => "accepted"),
    added: histogram!("jetway_added_latency_seconds"),
    turns_running: gauge!("jetway_turns_running"),
});

pub(crate) fn connected(listener: &'static str) {
    gauge!("jetway_connections", "listener" => listener).increment(1);
}

pub(crate) fn disconnected(listener: &'static str, how: &'static str) {
    gauge!("jetway_connections", "listener" => listener).decrement(1);
    counter!("jetway_connections_total", "listener" => listener, "end" => how).increment(1);
}

pub(crate) fn accepted(took: Duration) {
    HOT.accepted.increment(1);
    HOT.added.record(took);
}

pub(crate) fn refused(refusal: &Refusal) {
    outcome(rescue::name(refusal));
    if let Refusal::Overloaded(limit, _) = refusal {
        counter!("jetway_refusals_total", "limit" => limit.as_str()).increment(1);
    }
}

pub(crate) fn outcome(outcome: &'static str) {
    counter!("jetway_calls_total", "outcome" => outcome).increment(1);
}

pub(crate) fn turns_waiting(now: usize) {
    gauge!("jetway_turns_waiting").set(now as f64);
}

pub(crate) fn turn_waited(outcome: &'static str, took: Duration) {
    histogram!("jetway_turn_wait_seconds", "outcome" => outcome).record(took);
}

pub(crate) fn sessions_attached(change: i8) {
    gauge!("jetway_sessions_attached").increment(change);
}

pub(crate) fn turns_running(now: usize) {
    HOT.turns_running.set(now as f64);
}

pub(crate) fn turn_ended(turn: &Ended, running: usize) {
    turns_running(running);
    let outcome = turn.outcome.as_str();
    counter!("jetway_turns_total", "outcome" => outcome).increment(1);
    histogram!("jetway_turn_seconds", "outcome" => outcome).record(turn.took);
    if let Some(first) = turn.first {
        histogram!("jetway_first_delta_seconds").record(first);
    }
}

pub(crate) fn bytes_to_client(n: usize) {
    HOT.to_client.increment(n as u64);
}

pub(crate) fn bytes_from_client(n: usize) {
    HOT.from_client.increment(n as u64);
}

pub(crate) fn let_go(reason: &'static str) {
    counter!("jetway_evictions_total", "reason" => reason).increment(1);
}

pub(crate) fn resumed(outcome: &'static str, took: Duration) {
    counter!("jetway_resumes_total", "outcome" => outcome).increment(1);
    histogram!("jetway_resume_seconds").record(took);
}

pub(crate) fn filtered() {
    counter!("jetway_messages_filtered_total").increment(1);
}

pub(crate) fn bad_frame(kind: &'static str) {
    counter!("jetway_bad_frames_total", "kind" => kind).increment(1);
}

pub(crate) fn backends(state: &'static str, now: usize) {
    gauge!("jetway_backends", "state" => state).set(now as f64);
}

pub(crate) fn draining_sessions(now: usize) {
    gauge!("jetway_draining_sessions").set(now as f64);
}

pub(crate) fn tls_handshake(listener: &'static str, outcome: &'static str) {
    counter!("jetway_tls_handshakes_total", "listener" => listener, "outcome" => outcome).increment(1);
}

pub(crate) fn jwks_fetched(outcome: &'static str) {
    counter!("jetway_jwks_fetches_total", "outcome" => outcome).increment(1);
}

pub(crate) fn reloaded(outcome: &'static str) {
    counter!("jetway_config_reloads_total", "outcome" => outcome).increment(1);
}

pub(crate) fn egress(outcome: &'static str) {
    counter!("jetway_egress_total", "outcome" => outcome).increment(1);
}

pub(crate) fn draining(now: bool) {
    gauge!("jetway_draining").set(f64::from(u8::from(now)));
}
