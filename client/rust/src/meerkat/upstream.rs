//! Makes of the client's types upstream's, and the other way.

use meerkat_core::{
    lifecycle::{InputId, RunBoundaryReceipt, RunId, run_primitive::RunApplyBoundary},
    types::SessionId,
};
use meerkat_runtime::{input_state::StoredInputState, runtime_state::RuntimeState, store::RuntimeStoreError};
use tonic::Code;

use super::StoreResult;
use crate::{
    errors::{Error, ErrorReason, StoreError},
    types::{self, InputState},
};

pub(super) fn write_failed(error: &Error) -> RuntimeStoreError {
    trait_error(error, StoreError::WriteFailed)
}

pub(super) fn read_failed(error: &Error) -> RuntimeStoreError {
    trait_error(error, StoreError::ReadFailed)
}

/// Makes the trait's error of a failure: the variant that the server named, with the cure where there is one.
fn trait_error(error: &Error, failed: StoreError) -> RuntimeStoreError {
    let variant = match (error.reason(), error.code()) {
        // A document over a limit, or an id that no server takes: nothing is wrong with the store or the service.
        (Some(ErrorReason::InvalidRequest), _) => failed,
        (None, Code::Unimplemented) => StoreError::Unsupported,
        _ => error.store_error().unwrap_or(failed),
    };
    let message = match (error.reason(), error.code()) {
        (None, Code::ResourceExhausted) => {
            format!("{error}; raise the server's --max-message-bytes where the message is what is too large")
        }
        (None, Code::OutOfRange) => format!("{error}; raise max_message_bytes of the client"),
        _ => error.to_string(),
    };
    match variant {
        StoreError::SessionKeyMismatch => key_mismatch(error).unwrap_or(RuntimeStoreError::WriteFailed(message)),
        StoreError::WriteFailed => RuntimeStoreError::WriteFailed(message),
        StoreError::ReadFailed => RuntimeStoreError::ReadFailed(message),
        StoreError::NotFound => RuntimeStoreError::NotFound(message),
        StoreError::Unsupported => RuntimeStoreError::Unsupported(message),
        StoreError::Internal => RuntimeStoreError::Internal(message),
    }
}

fn key_mismatch(error: &Error) -> Option<RuntimeStoreError> {
    let id = |key| error.text(key)?.parse().ok().map(SessionId);
    Some(RuntimeStoreError::SessionKeyMismatch { expected: id("expected")?, actual: id("actual")? })
}

pub(super) fn input_of(stored: &StoredInputState) -> StoreResult<InputState> {
    let state_json =
        serde_json::to_string(stored).map_err(|error| RuntimeStoreError::WriteFailed(error.to_string()))?;
    Ok(InputState { input_id: stored.state.input_id.0, state_json })
}

pub(super) fn inputs_of(stored: &[StoredInputState]) -> StoreResult<Vec<InputState>> {
    stored.iter().map(input_of).collect()
}

pub(super) fn stored_input(state: &InputState) -> StoreResult<StoredInputState> {
    serde_json::from_str(&state.state_json)
        .map_err(|error| RuntimeStoreError::ReadFailed(format!("input {}: {error}", state.input_id)))
}

pub(super) fn receipt_of(receipt: RunBoundaryReceipt) -> StoreResult<types::RunBoundaryReceipt> {
    let boundary = match receipt.boundary {
        RunApplyBoundary::Immediate => types::RunApplyBoundary::Immediate,
        RunApplyBoundary::RunStart => types::RunApplyBoundary::RunStart,
        RunApplyBoundary::RunCheckpoint => types::RunApplyBoundary::RunCheckpoint,
        other => {
            return Err(RuntimeStoreError::WriteFailed(format!("the service does not know boundary {other:?}")));
        }
    };
    Ok(types::RunBoundaryReceipt {
        run_id: receipt.run_id.0,
        boundary,
        contributing_input_ids: receipt.contributing_input_ids.into_iter().map(|id| id.0).collect(),
        conversation_digest: receipt.conversation_digest,
        message_count: receipt.message_count as u64,
        sequence: receipt.sequence,
    })
}

pub(super) fn upstream_receipt(receipt: types::RunBoundaryReceipt) -> StoreResult<RunBoundaryReceipt> {
    let message_count = usize::try_from(receipt.message_count)
        .map_err(|_| RuntimeStoreError::ReadFailed("the receipt counts more messages than this machine can".into()))?;
    Ok(RunBoundaryReceipt {
        run_id: RunId(receipt.run_id),
        boundary: match receipt.boundary {
            types::RunApplyBoundary::Immediate => RunApplyBoundary::Immediate,
            types::RunApplyBoundary::RunStart => RunApplyBoundary::RunStart,
            types::RunApplyBoundary::RunCheckpoint => RunApplyBoundary::RunCheckpoint,
        },
        contributing_input_ids: receipt.contributing_input_ids.into_iter().map(InputId).collect(),
        conversation_digest: receipt.conversation_digest,
        message_count,
        sequence: receipt.sequence,
    })
}

pub(super) fn state_of(state: RuntimeState) -> StoreResult<types::RuntimeState> {
    Ok(match state {
        RuntimeState::Initializing => types::RuntimeState::Initializing,
        RuntimeState::Idle => types::RuntimeState::Idle,
        RuntimeState::Attached => types::RuntimeState::Attached,
        RuntimeState::Running => types::RuntimeState::Running,
        RuntimeState::Retired => types::RuntimeState::Retired,
        RuntimeState::Stopped => types::RuntimeState::Stopped,
        RuntimeState::Destroyed => types::RuntimeState::Destroyed,
        other => {
            return Err(RuntimeStoreError::WriteFailed(format!("the service does not know state {other}")));
        }
    })
}

pub(super) fn upstream_state(state: types::RuntimeState) -> RuntimeState {
    match state {
        types::RuntimeState::Initializing => RuntimeState::Initializing,
        types::RuntimeState::Idle => RuntimeState::Idle,
        types::RuntimeState::Attached => RuntimeState::Attached,
        types::RuntimeState::Running => RuntimeState::Running,
        types::RuntimeState::Retired => RuntimeState::Retired,
        types::RuntimeState::Stopped => RuntimeState::Stopped,
        types::RuntimeState::Destroyed => RuntimeState::Destroyed,
    }
}
