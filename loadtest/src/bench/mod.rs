//! The side-by-side benchmark: the same load on the same stub CLI servers, directly and through a plain copy,
//! nginx, HAProxy and Jetway, in interleaved rounds.
//!
//! Every round measures every target once, beginning with another one each time, so that a disturbance of
//! the machine hits all of them alike. What is reported is the median over the rounds, with the extremes; goals
//! for added latency compare the fastest rounds, because disturbances only add to it.
//!
//! * CPU is what the program in between used, its workers included, by the scheduler's own count.
//! * Memory is read from `smaps_rollup` of a fresh process. Kernel socket buffers are in nobody's figure.
//! * Turns are `[[quiet]]`, and `session.lifecycle` is off: Jetway shows a client only what is its own, so that
//!   with the CLI's broadcasts it would have fewer frames to carry than its peers.

pub mod goals;
pub mod http;
pub mod load;
pub mod machine;
pub mod measure;
pub mod peers;
pub mod phases;
pub mod process;
pub mod report;
pub mod sdk;
pub mod splice;

/// What counts as a frame.
pub const FRAME: &str =
    "one Content-Length message, counted where the client sends or receives it; a ping is two";
