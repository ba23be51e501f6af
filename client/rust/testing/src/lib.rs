//! Starts servers and puts faults between them and their clients, for the crate's tests.
#![allow(clippy::missing_panics_doc, reason = "a test that cannot start its server fails by that")]

mod program;
mod proxy;
mod secure;
mod server;

pub use program::Program;
pub use proxy::Proxy;
pub use secure::SecureServer;
pub use server::{Postgres, Server, root};
