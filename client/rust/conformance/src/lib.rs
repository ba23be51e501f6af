//! Proves the crate by upstream's own runtime and store.
#![allow(clippy::missing_panics_doc, reason = "a test that cannot go on fails by that")]

pub mod documents;
pub mod lifecycle;
pub mod turns;
