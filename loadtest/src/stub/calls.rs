//! Which requests, notifications and replies reached a server, for tests of what must not.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use jetway_wire::Value;

use super::MAX_ENTRIES;

/// A request, notification or reply that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// Index of the server.
    pub server: usize,
    /// The connection, counted from 1 in each process.
    pub connection: u64,
    /// As it was spelled; empty for a reply.
    pub method: String,
    /// JSON, byte for byte; `null` without. Of a reply, its result or error.
    pub params: String,
}

/// A shared record of the last [`MAX_ENTRIES`].
#[derive(Debug, Clone, Default)]
pub(super) struct Calls(Arc<Mutex<VecDeque<Received>>>);

impl Calls {
    pub(super) fn add(&self, server: usize, connection: u64, method: &str, params: Option<Value<'_>>) {
        let params = params.map_or("null".into(), |p| String::from_utf8_lossy(p.text()).into_owned());
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if calls.len() == MAX_ENTRIES {
            calls.pop_front();
        }
        calls.push_back(Received { server, connection, method: method.to_owned(), params });
    }

    pub(super) fn list(&self) -> Vec<Received> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}
