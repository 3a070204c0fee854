//! Walls around CLI processes, with the real program and the real runtime.

#[path = "../common/mod.rs"]
mod common;

mod hogs;
mod neighbours;
mod reach;
mod scene;
mod start;
