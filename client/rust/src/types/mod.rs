//! What the calls take and return.

mod loads;
mod stored;
mod writes;

pub use loads::{
    Loaded, LoadedRuntime, OAuthFlowSnapshot, ReadableInputStates, ServerInfo, SessionVersion, SessionVersions,
};
pub use stored::{CommittedReceipt, CorruptInput, InputState, RunApplyBoundary, RunBoundaryReceipt, RuntimeState};
pub use writes::{Acquisition, Commit, OAuthCommit, RequestId, WriteOptions};

pub use crate::v1::{CommitCounters, Limits};
