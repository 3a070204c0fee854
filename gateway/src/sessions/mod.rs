//! Who owns which session, where it lives, and the relay between its clients and its CLI server.

pub(crate) mod asked;
pub(crate) mod bounds;
pub(crate) mod client;
pub(crate) mod cloud;
pub(crate) mod draining;
pub(crate) mod forgotten;
pub(crate) mod idle;
pub(crate) mod kept;
pub(crate) mod lease;
pub(crate) mod leaving;
pub(crate) mod leg;
pub(crate) mod listing;
pub(crate) mod outlet;
pub(crate) mod pending;
pub(crate) mod placing;
pub(crate) mod registry;
pub(crate) mod relay;
pub(crate) mod requests;
pub(crate) mod resting;
pub(crate) mod revival;
pub(crate) mod room;
pub(crate) mod scribe;
pub(crate) mod tools;
pub(crate) mod turn;
mod unfinished;
pub(crate) mod waiting;
pub(crate) mod withheld;
