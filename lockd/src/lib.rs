//! x
pub mod fence;
pub mod key;
pub mod redis;
pub mod rules;
pub mod store;
pub mod table;
