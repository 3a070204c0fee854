//! Every bound that Jetway keeps, with its reason. Those that operators may need to move are fields of
//! [`Limits`] (`[limits]` in the file); the rest are constants, because moving them only breaks things.

use crate::{error::Problem, reader::Section, units::ByteSize};
use std::{ops::RangeInclusive, time::Duration};

/// The longest configuration, key or secret file, in bytes: such files are written by hand, and what is
/// longer is the wrong file (`/dev/zero`, a log).
pub const CONFIG_FILE_BYTES: u64 = 1 << 20;

/// The longest credential (API key with user, pinned token, JWT), in bytes. JWTs with many claims reach
/// 4 KiB; HTTP servers commonly stop at 8 KiB for a whole header line.
pub const CREDENTIAL_BYTES: usize = 8 << 10;

/// What a peer may send before it has authenticated, in bytes. Its first frame holds a token and a few
/// flags. This counts bytes that pass; the heap held for such a peer stays under [`PREAUTH_HEAP_BYTES`].
pub const PREAUTH_BYTES: usize = 64 << 10;

/// The heap that an unauthenticated connection may hold, in bytes: ten thousand strangers then cost 80 MiB.
/// A first frame that is longer is refused by its header, before its body is read.
pub const PREAUTH_HEAP_BYTES: usize = 8 << 10;

/// The longest frame header, in bytes: `Content-Length` and perhaps `Content-Type` need under 100.
pub const FRAME_HEADER_BYTES: usize = 4 << 10;

/// The deepest JSON nesting. The CLI itself refuses something between 100 and 200 levels; staying below
/// means that nothing which Jetway accepts fails there, and that recursion is bounded here.
pub const JSON_DEPTH: usize = 96;

/// The longest log line, in bytes: what callers send may appear in a line, and must not flood the log.
pub const LOG_LINE_BYTES: usize = 8 << 10;

/// The longest line that is read of a CLI process's output, in bytes. Only its first lines matter (the
/// port that it listens on).
pub const CLI_OUTPUT_LINE_BYTES: usize = 8 << 10;

/// How many ended CLI servers are remembered, to tell operators why they went: some minutes' worth on a busy
/// host, at some 200 bytes each.
pub const DEPARTED_SERVERS: usize = 100;

/// How many CLI processes are started at a time for each processor: one works while another waits for the disk. All at
/// once none would be ready in time.
pub const STARTS_PER_CPU: usize = 2;

/// How many users may be in line for their CLI process, at some 200 bytes each beside what their calls hold.
pub const WAITING_FOR_PROCESSES: usize = 10_000;

/// How many servers, users and sessions `/admin/v1/status` lists of each unless asked, and at most: a page that
/// a person reads, and one that still takes milliseconds. Totals count all of them.
pub const STATUS_ROWS: RangeInclusive<usize> = 50..=10_000;

/// Audit lines that wait to be written. A disk that stalls for longer than these last loses lines, and says how many.
pub const AUDIT_QUEUE: usize = 4096;

/// Denials that are written down per second of one tenant, or of one address of strangers, and how many more at once:
/// enough to see what goes on, and a flood of one hides nothing of the others.
pub const AUDIT_DENIALS: (u32, u32) = (10, 50);

/// How far the clock of a token's issuer may be ahead or behind.
pub const JWT_SKEW: Duration = Duration::from_secs(60);

/// How long a connection whose token has expired may go on with what it does. It ends as soon as it does nothing; this
/// is for clients that never do.
pub const JWT_OVERTIME: Duration = Duration::from_secs(600);

/// How long a published key set is not fetched again, whatever keys tokens name: strangers choose those.
pub const JWKS_REFETCH: Duration = Duration::from_secs(10);

/// How old a key set becomes before it is fetched again: a key that its issuer withdraws is refused after that.
pub const JWKS_REFRESH: Duration = Duration::from_secs(600);

/// How old a key set may be that cannot be fetched any more. An issuer may be down for a night.
pub const JWKS_MAX_AGE: Duration = Duration::from_secs(24 * 3600);

/// How long an ephemeral session is kept after its last use: its user may be at lunch, and its files are not wanted after.
pub const EPHEMERAL_UNUSED: Duration = Duration::from_secs(3600);

/// What a sandbox's own `/tmp` holds, in bytes: it is memory, and counts as its user's. Builds and package managers
/// put some hundred MB there.
pub const SANDBOX_TMP_BYTES: u64 = 512 << 20;

/// The same of its `/dev/shm`.
pub const SANDBOX_SHM_BYTES: u64 = 64 << 20;

/// The smallest `limits.max_frame`, in bytes: session options with tools and a system prompt take tens of
/// KiB, an event with a file's content hundreds.
const SMALLEST_MAX_FRAME: usize = 1 << 20;

/// The longest `limits.cloud_start`: what takes longer does not come.
const HOUR: Duration = Duration::from_secs(3600);

/// The bounds that may be moved, `[limits]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The longest frame body, in bytes. The CLI takes 512 MiB; images and large files in prompts reach
    /// tens of MiB.
    pub max_frame: usize,
    /// The longest HTTP request body, in bytes: it becomes one frame, so it must fit in one.
    pub max_http_body: usize,
    /// Connections on all listeners together. Each costs a file descriptor, and one more upstream on a fleet.
    pub max_connections: usize,
    /// Requests of one connection that wait for a reply. SDKs keep a handful in flight.
    pub max_in_flight: usize,
    /// Sessions open on one connection: bounds the map from which its notifications are filtered.
    pub max_sessions_per_connection: usize,
    /// Sessions that one user may own, those put to rest included: bounds the directory.
    pub max_sessions_per_user: usize,
    /// Turns running at a time, of all tenants: what this gateway's CLI servers and models stand. More wait.
    pub max_concurrent_turns: usize,
    /// Turns of all tenants that wait for room: each holds its request.
    pub max_waiting_turns: usize,
    /// How long a turn may wait for room: whoever is there may well wait so long, and not much longer.
    pub turn_wait: Duration,
    /// How long the first prompt of a cloud session waits for the session's agent: a machine has to be had for it,
    /// and a repository to be cloned there.
    pub cloud_start: Duration,
    /// How long a connection may stay silent before it has authenticated.
    pub handshake_timeout: Duration,
    /// How long a frame or a request head may take without bringing 16 KiB more: slow drips hold a
    /// connection for no longer.
    pub partial_frame_timeout: Duration,
    /// How long a write to a client may make no progress before the client counts as gone.
    pub stalled_write_timeout: Duration,
    /// How often a CLI that does not come up is started, for one user in one go.
    pub cli_start_attempts: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_frame: 64 << 20,
            max_http_body: 16 << 20,
            max_connections: 20_000,
            max_in_flight: 1024,
            max_sessions_per_connection: 256,
            max_sessions_per_user: 10_000,
            max_concurrent_turns: 1000,
            max_waiting_turns: 10_000,
            turn_wait: Duration::from_secs(30),
            cloud_start: Duration::from_secs(300),
            handshake_timeout: Duration::from_secs(5),
            partial_frame_timeout: Duration::from_secs(8),
            stalled_write_timeout: Duration::from_secs(30),
            cli_start_attempts: 3,
        }
    }
}

impl Limits {
    pub(crate) fn read(s: &mut Section<'_>) -> Self {
        let d = Self::default();
        let timeout = Duration::from_secs(1)..=Duration::from_secs(600);
        let limits = Self {
            max_frame: bytes(s, "max_frame", d.max_frame, SMALLEST_MAX_FRAME..=512 << 20),
            max_http_body: bytes(s, "max_http_body", d.max_http_body, 64 << 10..=512 << 20),
            max_connections: s.get_in("max_connections", d.max_connections, 1..=1_000_000),
            max_in_flight: s.get_in("max_in_flight", d.max_in_flight, 1..=65_536),
            max_sessions_per_connection: s.get_in(
                "max_sessions_per_connection",
                d.max_sessions_per_connection,
                1..=10_000,
            ),
            max_sessions_per_user: s.get_in("max_sessions_per_user", d.max_sessions_per_user, 1..=1_000_000),
            max_concurrent_turns: s.get_in("max_concurrent_turns", d.max_concurrent_turns, 1..=1_000_000),
            max_waiting_turns: s.get_in("max_waiting_turns", d.max_waiting_turns, 0..=1_000_000),
            turn_wait: s.get_in("turn_wait", d.turn_wait, timeout.clone()),
            cloud_start: s.get_in("cloud_start", d.cloud_start, timeout.start().to_owned()..=HOUR),
            handshake_timeout: s.get_in("handshake_timeout", d.handshake_timeout, timeout.clone()),
            partial_frame_timeout: s.get_in(
                "partial_frame_timeout",
                d.partial_frame_timeout,
                timeout.clone(),
            ),
            stalled_write_timeout: s.get_in("stalled_write_timeout", d.stalled_write_timeout, timeout),
            cli_start_attempts: s.get_in("cli_start_attempts", d.cli_start_attempts, 1..=10),
        };
        limits.check(s);
        limits
    }

    fn check(&self, s: &Section<'_>) {
        let fits = self.max_http_body.saturating_add(FRAME_HEADER_BYTES) <= self.max_frame;
        s.relate(&["max_http_body", "max_frame"], fits, || {
            Problem::new(
                "a request of that size does not fit into a frame of limits.max_frame",
                "make it smaller by 4KiB or more than limits.max_frame, or raise that",
            )
        });
    }
}

/// Reads a number of bytes.
pub(crate) fn bytes(
    s: &mut Section<'_>,
    key: &'static str,
    default: usize,
    range: RangeInclusive<usize>,
) -> usize {
    let size = |bytes: usize| ByteSize(bytes as u64);
    let bytes = s.get_in(key, size(default), size(*range.start())..=size(*range.end())).0;
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
