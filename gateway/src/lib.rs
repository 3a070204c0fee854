//! The Jetway gateway: what `main` wires together, and what tests run in-process.

// Each layer of the stack has the next one's future in its own.
#![recursion_limit = "256"]

mod accept;
mod admin;
mod admission;
pub mod app;
mod audit;
mod auth;
pub mod directory;
mod drain;
mod egress;
mod http;
pub mod metrics;
mod net;
mod policy;
mod quantity;
mod reload;
mod rescue;
mod sdk;
mod sessions;
mod stack;

pub use app::{Addresses, App, StartError};
pub use policy::patterns::load;
pub use reload::Reload;
