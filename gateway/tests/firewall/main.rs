//! The tenant firewall before a real `copilot-runtime`, which itself has none: nobody can see or touch what is not
//! theirs.

#[path = "../common/mod.rs"]
mod common;

mod events;
mod foreign;
mod host;
mod machines;
mod members;
mod persisted;
mod providers;
mod scene;
