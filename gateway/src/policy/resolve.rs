//! Names to addresses.

use std::{future::Future, net::IpAddr, time::Duration};

/// How long one name may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Addresses of one name that are looked at; a name with more has none.
const MOST: usize = 64;

/// Finds the addresses of names.
pub(crate) trait Resolve {
    /// All addresses of `name`; none if it has none, or if that cannot be learnt in time.
    fn resolve(&self, name: &str) -> impl Future<Output = Vec<IpAddr>> + Send;
}

/// As this machine does. Its hosts file and search list may not be those of a CLI server elsewhere.
#[derive(Debug, Clone, Copy)]
pub(crate) struct System;

impl Resolve for System {
    async fn resolve(&self, name: &str) -> Vec<IpAddr> {
        match tokio::time::timeout(PATIENCE, tokio::net::lookup_host((name, 443))).await {
            Ok(Ok(found)) => {
                let addresses: Vec<_> = found.take(MOST + 1).map(|at| at.ip()).collect();
                if addresses.len() > MOST { Vec::new() } else { addresses }
            }
            _ => Vec::new(),
        }
    }
}
