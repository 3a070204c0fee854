//! One turn at a time in a shared session, across processes and through faults.
//!
//! A session *belongs* to one process at a time: the one that holds its [`Lease`]. The lease ends at a
//! deadline on the holder's own monotonic clock, counted from before its last renewal was sent, so that a
//! holder stops before the store gives the session to another. Every lease has a [`Fence`], larger than
//! those of all earlier leases of the session; whoever keeps the session's state stores the largest and
//! refuses what carries a smaller one, which makes up for what clocks and pauses can do.
//!
//! [`Turns`] is what a gateway uses: a queue of turns per session within this process, under a lease that is
//! taken for the first of them and kept until another process asks for it. [`Lockd`] is what it stands on:
//! leases from a store that several processes share.
//!
//! The cores read no clock and do no I/O: [`table`] (who holds what and who is in line; the scripts of the
//! Redis store do the same), [`attempt`] (what a waiter does next) and [`watch`] (what is to be renewed and
//! what is lost). Tests drive them through simulated faults.

pub mod attempt;
mod book;
mod error;
mod fence;
mod keeper;
mod key;
mod lease;
mod line;
mod lockd;
mod metrics;
mod redis;
mod rules;
mod status;
pub mod store;
pub mod table;
mod turns;
pub mod watch;
mod watchdog;

pub use error::AcquireError;
pub use fence::Fence;
pub use key::Key;
pub use lease::{Authority, Lease};
pub use lockd::{Floors, Lockd, no_floors};
pub use metrics::describe;
pub use redis::RedisStore;
pub use rules::{Moment, Rules};
pub use status::{Held, Status, Waiting};
pub use turns::{Ended, RoomStatus, Tenure, Turn, Turns};
pub use watch::Cause;
