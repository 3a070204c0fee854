//! A model provider that does what the prompt says: an OpenAI-compatible endpoint for a CLI's
//! bring-your-own-key option, so that whole turns run without an account and without the network.
//!
//! # What it answers
//!
//! The **last user message** decides. The CLI's wrappers around it (`<current_datetime>…` and the like)
//! are taken off. Directives may stand anywhere in the text; of two that exclude each other the last wins.
//!
//! | in the prompt | the answer |
//! |---|---|
//! | plain text | `You said: <text>`, one delta per word; a long text is cut short and its length named |
//! | `history`, alone | `History: <first prompt> \| <second prompt> \| …`: what this conversation held before |
//! | `[[say TEXT]]` | TEXT, one delta per word |
//! | `[[stream N BYTES DELAY_MS]]` | N deltas of BYTES bytes each, DELAY_MS before each |
//! | `[[tool NAME {json}]]` | a call of tool NAME (`{}` may be left out); several make several calls in one message |
//! | `[[then]]` | separates rounds: what follows is for the request that brings the tools' results |
//! | `[[delay MS]]` | waits before the first byte of the answer |
//! | `[[error STATUS MESSAGE]]` | an HTTP error with an OpenAI error body; 429 and 503 say `Retry-After: 1` |
//! | `[[hang]]` | nothing, or nothing more after `[[say]]` or `[[stream]]`, until the client goes |
//! | `[[cut]]` | closes the connection in mid-stream, after what was said |
//! | `[[usage IN OUT]]` | these token counts instead of estimates |
//!
//! When the rounds are used up and tool results have come, the answer is one line for each result of the
//! turn: `tool NAME returned: <result>`. A directive that cannot be read is answered with HTTP 400.
//!
//! # The ledger
//!
//! Each request leaves two lines in the [`Ledger`]: `began`, and `ended` or `aborted` (the client went
//! away, or `[[cut]]`). A `nonce:[A-Za-z0-9-]+` in the prompt is recorded, so that the clients' view, the
//! model's and the CLI's can be joined and a turn run twice shows. `GET /ledger[?nonce=N]` returns it.

mod http;
mod ledger;
mod reply;
mod request;
mod script;

pub use http::{Handle, serve};
pub use ledger::{Entry, Event, Ledger};

use std::time::Duration;

/// The largest request body: a conversation with a few prompts of tens of megabytes.
pub const MAX_BODY: usize = 64 << 20;
/// Connections served at once; later ones wait to be accepted.
pub const MAX_CONNECTIONS: usize = 16_384;
/// The most bytes that one `[[stream]]` may produce.
pub const MAX_STREAM: usize = 256 << 20;
/// The longest that `[[delay]]`, the pauses of `[[stream]]` and `[[hang]]` last.
pub const MAX_WAIT: Duration = Duration::from_secs(3600);
/// Lines the ledger keeps in memory; the oldest go first (a file keeps all).
pub const MAX_ENTRIES: usize = 200_000;
