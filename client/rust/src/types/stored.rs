//! What a store holds of a runtime.

use tonic::Code;
use uuid::Uuid;

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
pub(super) fn answered_id(text: &str) -> Result<Uuid, Error> {
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
