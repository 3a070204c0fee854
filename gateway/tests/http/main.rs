//! The HTTP face, before the stub CLI.

#[path = "../common/mod.rs"]
mod common;

mod bad_input;
mod chat;
mod cloud;
mod contract;
mod corpus;
mod cors;
mod cuts;
mod floods;
mod history;
mod layers;
mod lifecycle;
mod lifetimes;
mod local;
mod people;
mod sessions;
mod standing;
mod turns;
mod websocket;

use common::{Gateway, fleet, start, stub, with_http};
use jetway_loadtest::stub::Stub;

/// A stub and a gateway with HTTP before it. The directory goes with the value that is returned last.
async fn gateway(more: &str) -> (Stub, Gateway, tempfile::TempDir) {
    let (stub, dir) = (stub(1), tempfile::tempdir().unwrap());
    let gateway = gateway_on(&stub, &dir, more).await;
    (stub, gateway, dir)
}

/// Another one, on the same CLI server and with the same directory.
async fn gateway_on(stub: &Stub, dir: &tempfile::TempDir, more: &str) -> Gateway {
    let more = format!("directory.path = \"{}\"\n{more}", dir.path().join("directory.db").display());
    start(&with_http(&fleet(stub.addrs(), &more))).await
}
