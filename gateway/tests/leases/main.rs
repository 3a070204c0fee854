//! One turn at a time in a shared session, with real gateways on one Redis: contended, killed, stopped, cut off.
//! Each check prints its number. `JETWAY_TURNS` and `JETWAY_MOVES` set how long the counted ones are; `make chaos`
//! runs them at full length.
//!
//! That a checker of this kind catches a lock that is none is shown where bugs can be seeded: in
//! `lockd/tests/sim`, with GET-then-DEL releases, missing renewals and no fence at the last hop.

#[path = "../common/mod.rs"]
mod common;

mod contended;
mod holder;
mod scene;
mod store;
