//! Why Jetway does not forward a call. Only [`crate::rescue`] turns one into a reply.

use std::time::Duration;

use jetway_config::{SessionId, UserId};
use jetway_lockd::store::Place;

use crate::{policy::Denied, sessions::turn::TurnId};

/// When to try again where nothing better is known.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The shortest time after which a caller is asked to come again: sooner would be a busy wait.
pub(crate) const SOONEST: Duration = Duration::from_millis(50);

/// Which bound a call ran into; the `limit` of an `overloaded` error and of the refusal metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    /// Requests of one connection that await their replies.
    InFlight,
    /// Sessions attached to one connection.
    SessionsPerConnection,
    /// A CLI server could not be started or reached.
    ServerStart,
    /// All CLI servers are in use or down.
    Servers,
    /// Connections of one tenant, or of one user.
    Connections,
    /// Requests in a second of one tenant, or of one user.
    Rate,
    /// Bytes of large requests under way, of one tenant or of one user.
    BytesInFlight,
    /// Turns of one tenant, or of one user, that wait for room.
    WaitingTurns,
    /// How long a turn may wait for room.
    TurnWait,
    /// Sessions on one CLI server, all of them busy.
    ActiveSessions,
    /// Sessions of one tenant on all CLI servers, all of them busy.
    TenantSessions,
    /// CLI processes of one tenant's users, all of them in use.
    TenantProcesses,
    /// The session directory does not answer.
    Directory,
    /// The lock store does not answer.
    Locks,
    /// Sessions of one owner.
    SessionsPerUser,
}

impl Limit {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Limit::InFlight => "max_in_flight",
            Limit::SessionsPerConnection => "max_sessions_per_connection",
            Limit::ServerStart => "cli_server_start",
            Limit::Servers => "cli_servers",
            Limit::Connections => "max_connections",
            Limit::Rate => "requests_per_second",
            Limit::BytesInFlight => "max_bytes_in_flight",
            Limit::WaitingTurns => "max_waiting_turns",
            Limit::TurnWait => "turn_wait",
            Limit::ActiveSessions => "max_active_sessions",
            Limit::TenantSessions => "tenant_max_active_sessions",
            Limit::TenantProcesses => "tenant_max_processes",
            Limit::Directory => "directory",
            Limit::Locks => "locks",
            Limit::SessionsPerUser => "max_sessions_per_user",
        }
    }
}

/// Why a call was not forwarded, or had no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Nobody that Jetway knows.
    Unauthenticated(String),
    /// Unknown, or not the caller's: there is no telling which.
    SessionNotFound,
    /// Outside the tenant's method policy, or outside the catalogue.
    MethodNotAllowed {
        method: String,
        /// By which rule of the tenant's, if it was one.
        denied: Option<Denied>,
    },
    /// Another turn holds the session.
    Busy {
        /// How many turns are in line before.
        position: usize,
        /// Whose turn it is, if that is known.
        holder: Option<UserId>,
        retry_after: Duration,
    },
    /// A limit is reached.
    Overloaded(Limit, Duration),
    /// The CLI server was lost before it answered.
    Indeterminate { session: Option<SessionId>, turn: Option<TurnId> },
    /// The caller aborted or left the session before the call began.
    Aborted,
    /// The agent of a cloud session did not come; the prompt was not sent.
    NotStarted { session: SessionId, waited: Duration },
    /// Jetway is about to stop.
    Draining(Duration),
    /// No request that the CLI would take.
    Invalid(i64, String),
}

impl Refusal {
    /// Another turn holds the session; `place` is how far one got.
    pub(crate) fn busy(place: Option<&Place>) -> Self {
        Refusal::Busy {
            position: place.map_or(0, |p| p.ahead),
            holder: place.and_then(|p| p.holder.clone()),
            retry_after: place.map_or(RETRY_AFTER, |p| p.left.max(RETRY_AFTER)),
        }
    }
}
