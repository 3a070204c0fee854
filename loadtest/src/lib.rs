//! What Jetway's tests and benchmarks run against: endpoints that behave, or misbehave, on request.

pub mod bench;
pub mod faults;
pub mod model;
pub mod redis;
pub mod stub;
