//! The pool's metrics. Labels are words of ours, or the configured servers: never a user.

use std::time::Duration;

use jetway_config::sandbox::Level;
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use crate::{
    error::{Gone, PoolError},
    recycle::Cause,
    server::ServerId,
};

const SPAWNS: &str = "jetway_spawns_total";
const SPAWN_SECONDS: &str = "jetway_spawn_seconds";
const PROCESSES: &str = "jetway_processes";
const STOPS: &str = "jetway_process_stops_total";
const MEMORY: &str = "jetway_processes_memory_bytes";
const MEMORY_BUDGET: &str = "jetway_processes_memory_budget_bytes";
const SANDBOX: &str = "jetway_sandbox";
const BACKEND_UP: &str = "jetway_backend_up";
const RECYCLES: &str = "jetway_recycles_total";

/// Tells the installed recorder what the pool's metrics mean.
pub fn describe() {
    describe_counter!(SPAWNS, Unit::Count, "CLI processes started, by outcome");
    describe_histogram!(SPAWN_SECONDS, Unit::Seconds, "From the need for a CLI process until it is ready");
    describe_gauge!(PROCESSES, Unit::Count, "CLI processes that are ready");
    describe_counter!(STOPS, Unit::Count, "CLI processes that ended, by reason");
    describe_gauge!(MEMORY, Unit::Bytes, "Memory that CLI processes hold, what they share counted once");
    describe_gauge!(MEMORY_BUDGET, Unit::Bytes, "Memory that they may hold");
    describe_gauge!(SANDBOX, Unit::Count, "1 for what CLI processes are walled in with");
    describe_gauge!(BACKEND_UP, Unit::Count, "1 while the CLI server can be used");
    describe_counter!(RECYCLES, Unit::Count, "CLI servers left so that fresh ones replace them, by reason");
}

pub(crate) fn spawned(outcome: Result<Duration, &PoolError>) {
    let label = match outcome {
        Ok(_) => "ready",
        Err(PoolError::StartTimeout { .. }) => "timeout",
        Err(PoolError::ShuttingDown) => "cancelled",
        Err(_) => "failed",
    };
    counter!(SPAWNS, "outcome" => label).increment(1);
    if let Ok(took) = outcome {
        histogram!(SPAWN_SECONDS).record(took.as_secs_f64());
        gauge!(PROCESSES).increment(1.0);
    }
}

pub(crate) fn stopped(gone: &Gone) {
    let reason = match gone {
        Gone::Stopped(reason) => reason.as_str(),
        Gone::Exited { .. } | Gone::Down { .. } => "exited",
    };
    counter!(STOPS, "reason" => reason).increment(1);
    gauge!(PROCESSES).decrement(1.0);
}

pub(crate) fn memory(used: u64, budget: u64) {
    gauge!(MEMORY).set(used as f64);
    gauge!(MEMORY_BUDGET).set(budget as f64);
}

pub(crate) fn sandbox(level: Level) {
    gauge!(SANDBOX, "level" => level.as_str()).set(1.0);
}

pub(crate) fn backend(id: &ServerId, up: bool) {
    gauge!(BACKEND_UP, "backend" => id.to_string()).set(if up { 1.0 } else { 0.0 });
}

pub(crate) fn recycling(cause: Cause) {
    counter!(RECYCLES, "reason" => cause.as_str()).increment(1);
}
