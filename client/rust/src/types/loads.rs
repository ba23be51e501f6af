//! What loads are answered with.

use std::{collections::BTreeSet, time::SystemTime};

use bytes::Bytes;
use uuid::Uuid;

use super::stored::{CommittedReceipt, CorruptInput, InputState, RuntimeState, answered_id};
use crate::{
    errors::Error,
    v1::{self, CommitCounters, Limits},
};

/// All inputs of a runtime, each either sound or named as damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadableInputStates {
    /// The sound ones, `input_id` ascending.
    pub input_states: Vec<InputState>,
    /// The damaged ones, `input_id` ascending.
    pub corrupt_inputs: Vec<CorruptInput>,
    /// The runtime's revision that the load saw.
    pub revision: u64,
}

/// The OAuth flow snapshot of a realm. It holds secrets, and `Debug` shows none of them.
#[derive(Clone, PartialEq, Eq)]
pub struct OAuthFlowSnapshot {
    /// The bytes as they were written; `None` if none ever were.
    pub snapshot_json: Option<Bytes>,
    /// Counts the writes of this snapshot; 0 = absent.
    pub version: u64,
}

impl std::fmt::Debug for OAuthFlowSnapshot {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("OAuthFlowSnapshot").field("version", &self.version).finish_non_exhaustive()
    }
}

/// What a load found, and the runtime's revision that it saw: for compare-and-swap with `if_revision`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded<T> {
    /// What was found.
    pub value: T,
    /// The revision; 0 = nothing was ever written.
    pub revision: u64,
}

/// All that a runtime recovers from, as it was at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedRuntime {
    /// The revision that all parts belong to; 0 = nothing was ever written.
    pub revision: u64,
    /// The state, if one was ever committed.
    pub state: Option<RuntimeState>,
    /// All inputs, `input_id` ascending.
    pub input_states: Vec<InputState>,
    /// The receipts that the inputs name, each once.
    pub receipts: Vec<CommittedReceipt>,
    /// The registry of background operations, if one was ever written.
    pub ops_snapshot: Option<String>,
    /// The session, if there is one.
    pub session_snapshot: Option<Bytes>,
}

/// One version of a session: what one write left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionVersion {
    /// The revision of the runtime with which it was committed.
    pub revision: u64,
    /// When, by the database's clock; `None` for one that came over from a store without history.
    pub committed_at: Option<SystemTime>,
    /// The size of the whole document.
    pub size_bytes: u64,
    /// The SHA-256 of the whole document.
    pub sha256: Bytes,
    /// The run whose boundary was committed with it.
    pub run_id: Option<Uuid>,
    /// The number of that boundary within the run.
    pub sequence: Option<u64>,
}

impl SessionVersion {
    pub(crate) fn from_wire(version: v1::SessionVersion) -> Result<Self, Error> {
        Ok(Self {
            revision: version.revision,
            committed_at: version.committed_at.and_then(|at| at.try_into().ok()),
            size_bytes: version.size_bytes,
            sha256: version.sha256,
            run_id: version.run_id.as_deref().map(answered_id).transpose()?,
            sequence: version.sequence,
        })
    }
}

/// A page of a session's versions, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionVersions {
    /// The versions.
    pub versions: Vec<SessionVersion>,
    /// Asks for the next page; empty if this is the last one.
    pub next_page_token: String,
}

/// What a server is and what it accepts.
#[derive(Debug, Clone)]
pub struct ServerInfo {
    /// The version of the package that serves.
    pub server_version: String,
    /// The storage engine: `sqlite`, `postgresql` or `memory`.
    pub engine: String,
    /// The revision of the database schema.
    pub schema_revision: String,
    /// What it accepts.
    pub limits: Limits,
    /// What it can do beyond the trait's methods, by name.
    pub capabilities: BTreeSet<String>,
    /// Counters of the process since it started.
    pub commits: CommitCounters,
}
