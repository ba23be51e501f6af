#![doc = include_str!("../README.md")]
#![allow(clippy::missing_errors_doc, reason = "every call fails as `Error` says; methods name what is special to them")]

mod addresses;
mod call;
mod client;
mod credentials;
mod edits;
pub mod errors;
mod fences;
mod forms;
mod known;
#[cfg(feature = "meerkat")]
pub mod meerkat;
mod retry;
mod servers;
mod settings;
mod streams;
pub mod types;
#[rustfmt::skip]
/// The messages as they are on the wire, made from the proto files.
#[allow(missing_docs, clippy::pedantic, clippy::doc_lazy_continuation, reason = "generated")]
mod v1;

pub use client::Client;
pub use credentials::{Pem, Tls, Token};
pub use errors::{Error, ErrorReason, Result};
pub use known::DEFAULT_KNOWN_BYTES;
#[cfg(feature = "meerkat")]
pub use meerkat::RemoteRuntimeStore;
pub use retry::RetryPolicy;
pub use settings::{DEFAULT_MAX_MESSAGE_BYTES, DEFAULT_TIMEOUT, Settings};
