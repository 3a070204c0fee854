//! Why an HTTP request is not answered as it was asked. Only [`crate::rescue`] turns one into a response.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::stack::Refusal;

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $status:literal $slug:literal $title:literal,)+) => {
        /// A kind of failure. Its `type` is `urn:jetway:problem:` and its slug, and never changes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Kind { $($(#[$doc])* $kind,)+ }

        impl Kind {
            /// Every kind.
            pub(crate) const ALL: &[Self] = &[$(Self::$kind,)+];

            /// The HTTP status.
            pub(crate) fn status(self) -> u16 {
                match self { $(Kind::$kind => $status,)+ }
            }

            /// The last part of the `type`.
            pub(crate) fn slug(self) -> &'static str {
                match self { $(Kind::$kind => $slug,)+ }
            }

            /// The same for every occurrence.
            pub(crate) fn title(self) -> &'static str {
                match self { $(Kind::$kind => $title,)+ }
            }
        }
    };
}

kinds! {
    Malformed = 400 "malformed-request" "The request cannot be read",
    Unauthenticated = 401 "unauthenticated" "A valid credential is required",
    Forbidden = 403 "forbidden" "Not allowed",
    /// Unknown, or not the caller's: there is no telling which.
    SessionNotFound = 404 "session-not-found" "No such session",
    NotFound = 404 "not-found" "There is nothing here",
    MethodNotAllowed = 405 "method-not-allowed" "Not with this method",
    TooSlow = 408 "request-timeout" "The request took too long to arrive",
    /// A turn runs, and the caller did not want to wait, or has waited.
    Busy = 409 "session-busy" "A turn is running in this session",
    /// It waited its turn, and the session was aborted or left.
    Aborted = 409 "aborted" "The turn was given up before it began",
    Ambiguous = 409 "ambiguous-reference" "Several sessions are called so",
    Conflict = 409 "conflict" "The request does not fit the state of things",
    Ended = 410 "session-ended" "The session has ended",
    TooLarge = 413 "content-too-large" "The request is too large",
    MediaType = 415 "unsupported-media-type" "The body must be application/json",
    Invalid = 422 "invalid-request" "The request does not make sense",
    Overloaded = 429 "overloaded" "A limit is reached",
    Internal = 500 "internal-error" "Jetway failed",
    NotImplemented = 501 "not-implemented" "The CLI server cannot do this",
    CliFailed = 502 "cli-failed" "The CLI server refused or failed",
    TurnFailed = 502 "turn-failed" "The turn ended with an error",
    /// The turn may have acted, so it is not repeated.
    Indeterminate = 502 "turn-indeterminate" "The CLI server was lost and the outcome is unknown",
    Unavailable = 503 "unavailable" "No CLI server can take this now",
    Draining = 503 "draining" "This instance is about to stop",
    Timeout = 504 "timeout" "It took too long",
    /// The prompt was held, and was not sent.
    NotStarted = 504 "cloud-not-started" "The cloud's agent did not come in time",
}

/// One failure.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    /// For people; never holds a secret.
    pub(crate) detail: String,
    /// When to try again.
    pub(crate) retry_after: Option<Duration>,
    /// Members beside those of RFC 9457.
    pub(crate) more: Map<String, Value>,
}

impl Fault {
    pub(crate) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), retry_after: None, more: Map::new() }
    }

    /// The session is unknown or another's: the same bytes.
    pub(crate) fn no_session() -> Self {
        Self::new(Kind::SessionNotFound, "There is no such session, or it is not yours")
    }

    /// A value of the request that does not make sense.
    pub(crate) fn invalid(field: &str, detail: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, detail).with("field", field)
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.more.insert(name.to_owned(), value.into());
        self
    }

    pub(crate) fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        crate::rescue::http::fault(refusal)
    }
}
