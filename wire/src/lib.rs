//! The JSON-RPC that Copilot SDKs and the Copilot CLI speak, read strictly.
//!
//! * [`frame`]: `Content-Length` framing with a cap on everything.
//! * [`json`]: one scanner, used twice: to refuse what the CLI and Jetway could read differently,
//!   and to find a value without building any.
//! * [`envelope`]: what a frame is (request, notification, reply), with its id rewritable in place.
//! * [`catalogue`]: every method, what class it is, and where session ids stand in its params.
//! * [`event`]: the few notifications that Jetway acts on.
//! * [`peer`]: call, notify and serve over any byte stream, for probes and tests.
//!
//! This crate knows nothing of users, tenants or backends.

pub mod catalogue;
pub mod envelope;
pub mod event;
pub mod frame;
pub mod json;
pub mod peer;

pub use envelope::{Envelope, Id, Kind};
pub use json::Value;
