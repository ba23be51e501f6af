//! What the calls take and return.

use std::{collections::BTreeSet, time::SystemTime};

use bytes::Bytes;
use tonic::Code;
use uuid::Uuid;

pub use crate::v1::{CommitCounters, Limits};
use crate::{errors::Error, v1};

/// The state of a runtime. Any state may follow any other: the runtime decides, the store remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RuntimeState {
    /// Being built; takes no input yet.
    Initializing,
    /// Waiting for input.
    Idle,
    /// Bound to an executor, no run in progress.
    Attached,
    /// A run is in progress.
    Running,
    /// Takes no new input; what it has is drained.
    Retired,
    /// Ended; may be recovered.
    Stopped,
    /// Ended for good.
    Destroyed,
}

impl RuntimeState {
    pub(crate) fn to_wire(self) -> v1::RuntimeState {
        match self {
            Self::Initializing => v1::RuntimeState::Initializing,
            Self::Idle => v1::RuntimeState::Idle,
            Self::Attached => v1::RuntimeState::Attached,
            Self::Running => v1::RuntimeState::Running,
            Self::Retired => v1::RuntimeState::Retired,
            Self::Stopped => v1::RuntimeState::Stopped,
            Self::Destroyed => v1::RuntimeState::Destroyed,
        }
    }

    pub(crate) fn from_wire(number: i32) -> Result<Self, Error> {
        match v1::RuntimeState::try_from(number) {
            Ok(v1::RuntimeState::Initializing) => Ok(Self::Initializing),
            Ok(v1::RuntimeState::Idle) => Ok(Self::Idle),
            Ok(v1::RuntimeState::Attached) => Ok(Self::Attached),
            Ok(v1::RuntimeState::Running) => Ok(Self::Running),
            Ok(v1::RuntimeState::Retired) => Ok(Self::Retired),
            Ok(v1::RuntimeState::Stopped) => Ok(Self::Stopped),
            Ok(v1::RuntimeState::Destroyed) => Ok(Self::Destroyed),
            Ok(v1::RuntimeState::Unspecified) | Err(_) => Err(unknown("RuntimeState", number)),
        }
    }
}

/// Where in a run a primitive was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RunApplyBoundary {
    /// At once, outside a run's own boundaries.
    Immediate,
    /// At the start of a run.
    RunStart,
    /// At a checkpoint within a run.
    RunCheckpoint,
}

impl RunApplyBoundary {
    fn to_wire(self) -> v1::RunApplyBoundary {
        match self {
            Self::Immediate => v1::RunApplyBoundary::Immediate,
            Self::RunStart => v1::RunApplyBoundary::RunStart,
            Self::RunCheckpoint => v1::RunApplyBoundary::RunCheckpoint,
        }
    }

    fn from_wire(number: i32) -> Result<Self, Error> {
        match v1::RunApplyBoundary::try_from(number) {
            Ok(v1::RunApplyBoundary::Immediate) => Ok(Self::Immediate),
            Ok(v1::RunApplyBoundary::RunStart) => Ok(Self::RunStart),
            Ok(v1::RunApplyBoundary::RunCheckpoint) => Ok(Self::RunCheckpoint),
            Ok(v1::RunApplyBoundary::Unspecified) | Err(_) => Err(unknown("RunApplyBoundary", number)),
        }
    }
}

fn unknown(kind: &str, number: i32) -> Error {
    let message = format!("the server answered with {kind} {number}, which this client does not know");
    Error::call_failed(Code::Unimplemented, message)
}

/// Reads an id that the server answered.
fn answered_id(text: &str) -> Result<Uuid, Error> {
    text.parse().map_err(|_| Error::call_failed(Code::Internal, "the server answered with an id that is no UUID"))
}

/// The proof that a primitive was applied at a boundary of a run. Its key is (runtime, `run_id`, `sequence`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunBoundaryReceipt {
    /// The run.
    pub run_id: Uuid,
    /// Where in the run the primitive was applied.
    pub boundary: RunApplyBoundary,
    /// The inputs that went into it, in the order given.
    pub contributing_input_ids: Vec<Uuid>,
    /// The digest of the conversation as the runtime computed it; any text, kept as it is.
    pub conversation_digest: Option<String>,
    /// How many messages the conversation had.
    pub message_count: u64,
    /// The number of the boundary within the run. They need not arrive in order.
    pub sequence: u64,
}

impl RunBoundaryReceipt {
    pub(crate) fn into_wire(self) -> v1::RunBoundaryReceipt {
        v1::RunBoundaryReceipt {
            run_id: self.run_id.to_string(),
            boundary: self.boundary.to_wire().into(),
            contributing_input_ids: self.contributing_input_ids.iter().map(Uuid::to_string).collect(),
            conversation_digest: self.conversation_digest,
            message_count: self.message_count,
            sequence: self.sequence,
        }
    }

    pub(crate) fn from_wire(receipt: v1::RunBoundaryReceipt) -> Result<Self, Error> {
        Ok(Self {
            run_id: answered_id(&receipt.run_id)?,
            boundary: RunApplyBoundary::from_wire(receipt.boundary)?,
            contributing_input_ids: receipt
                .contributing_input_ids
                .iter()
                .map(|id| answered_id(id))
                .collect::<Result<_, _>>()?,
            conversation_digest: receipt.conversation_digest,
            message_count: receipt.message_count,
            sequence: receipt.sequence,
        })
    }
}

/// A receipt as the store holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedReceipt {
    /// The receipt.
    pub receipt: RunBoundaryReceipt,
    /// The revision that it was committed with: `as_of_revision` takes it. `None` where it was committed before the
    /// store kept this.
    pub committed_revision: Option<u64>,
}

/// One input's state as the runtime serialised it: a JSON object with `input_id` and `current_state`, kept byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputState {
    /// The input; equals the document's own `input_id`.
    pub input_id: Uuid,
    /// The document.
    pub state_json: String,
}

impl InputState {
    pub(crate) fn to_wire(&self) -> v1::StoredInputState {
        v1::StoredInputState { input_id: self.input_id.to_string(), state_json: self.state_json.clone(), seed: None }
    }

    pub(crate) fn from_wire(stored: v1::StoredInputState) -> Result<Self, Error> {
        Ok(Self { input_id: answered_id(&stored.input_id)?, state_json: stored.state_json })
    }
}

/// An input whose stored document is not what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorruptInput {
    /// The input, as its row names it.
    pub input_id: String,
    /// What is wrong, for people.
    pub description: String,
}

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

/// Which id makes a repeat of a write recognisable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RequestId {
    /// The client chooses one for the call and keeps it over the retries of that call.
    #[default]
    Chosen,
    /// The caller's own: the same id with the same content is answered as the first time, and changes nothing.
    Given(Uuid),
    /// None: no such memory, and the write is repeated only where the server says that nothing was committed.
    None,
}

impl RequestId {
    pub(crate) fn text(self) -> String {
        match self {
            Self::Chosen => Uuid::new_v4().to_string(),
            Self::Given(id) => id.to_string(),
            Self::None => String::new(),
        }
    }
}

impl From<Uuid> for RequestId {
    fn from(id: Uuid) -> Self {
        Self::Given(id)
    }
}

/// How a write is made. The default: whatever the revision, with a request id of the client's.
#[derive(Debug, Clone, Copy, Default)]
pub struct WriteOptions {
    /// Commit only if the runtime is at this revision; 0 means that nothing was ever written.
    pub if_revision: Option<u64>,
    /// Makes a repeat recognisable.
    pub request_id: RequestId,
}

/// The acknowledgement of a write to a runtime: it is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// The runtime's revision after this write; of a repeat, the one that the first answer told.
    pub revision: u64,
    /// Whether this request was recognised as a repeat; nothing was changed then.
    pub replayed: bool,
}

/// The acknowledgement of a write of the OAuth flow snapshot: it is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OAuthCommit {
    /// The snapshot's version after this write; of a repeat, the one that the first answer told.
    pub version: u64,
    /// Whether this request was recognised as a repeat; nothing was changed then.
    pub replayed: bool,
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

/// The right to drive a runtime: the client sends its fence with every write to it from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acquisition {
    /// Greater than every one before.
    pub fence: u64,
    /// Who held the runtime until now; `None` if nobody ever acquired it, and in a replay.
    pub previous_owner: Option<String>,
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
