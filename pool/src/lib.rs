//! CLI servers: a process of each user's own, or a fleet of servers that run already.
//!
//! * [`ring`], `homes`, `circuit`, `slots`, `backoff`, `recycle`, `pace`: the decisions. They do no I/O and read no clock.
//! * `per_user`: processes, by `command` (which program, in what environment), `spawner` (so that none
//!   outlives Jetway), [`sandbox`] (walls around them), `limits` (what each may use), `workspace` (a session's own files),
//!   `pulse` (does it answer?), `launch` (started, proved, stopped), `output` (its log lines), `strays` (what it leaves).
//! * `fleet`: servers by address, their health watched by `probe`.
//! * [`Pool`] is the one face of both; an [`Attachment`] is the right to use a server.
//!
//! This crate knows nothing of tenants' policies, of HTTP, or of who owns which session.

mod accounts;
mod backoff;
mod circuit;
mod command;
mod drain;
mod error;
mod fleet;
mod homes;
mod launch;
mod limits;
mod memory;
mod output;
mod pace;
mod per_user;
mod pool;
mod probe;
mod pulse;
mod recycle;
pub mod ring;
pub mod sandbox;
mod server;
mod slots;
mod spawner;
mod state_dir;
mod strays;
mod tally;
mod telemetry;
mod workspace;

pub use drain::{Departed, DrainReason};
pub use error::{CommandNotFound, Gone, Limit, Phase, PoolError, StartError, StopReason, Whose};
pub use limits::{Bounds, Usage};
pub use memory::Memory;
pub use pool::Pool;
pub use recycle::Cause;
pub use server::{Attachment, Readiness, Server, ServerId, ServerState, ServerStatus};
pub use telemetry::describe;
pub use workspace::Workspace;
