//! Documents of upstream's own types.

use std::fs;

use meerkat_core::{
    Session,
    lifecycle::{InputId, RunBoundaryReceipt, RunId, run_primitive::RunApplyBoundary},
    types::{Message, SessionId, UserMessage},
};
use meerkat_runtime::{
    input_state::{InputLifecycleState, StoredInputState},
    ops_lifecycle::PersistedOpsSnapshot,
};
use runtimestore_testing::root;
use uuid::Uuid;

/// A session with so many messages.
#[must_use]
pub fn session_of(id: &SessionId, messages: usize) -> Vec<u8> {
    let mut session = Session::with_id(id.clone());
    for number in 0..messages {
        session.push(Message::User(UserMessage::text(format!("message {number}"))));
    }
    serde_json::to_vec(&session).expect("upstream's own type")
}

/// An input in a phase.
#[must_use]
pub fn input(id: u128, phase: InputLifecycleState, attempt_count: u32) -> StoredInputState {
    let mut input = StoredInputState::new_accepted(InputId(Uuid::from_u128(id)));
    input.seed.phase = phase;
    input.seed.attempt_count = attempt_count;
    input
}

/// A receipt that two inputs went into.
#[must_use]
pub fn receipt(run: u128, sequence: u64) -> RunBoundaryReceipt {
    RunBoundaryReceipt {
        run_id: RunId(Uuid::from_u128(run)),
        boundary: RunApplyBoundary::RunStart,
        contributing_input_ids: vec![InputId(Uuid::from_u128(2)), InputId(Uuid::from_u128(1))],
        conversation_digest: run.is_multiple_of(2).then(|| "digest".to_owned()),
        message_count: 7,
        sequence,
    }
}

/// Registries of background operations as upstream writes them.
#[must_use]
pub fn ops_snapshots() -> Vec<PersistedOpsSnapshot> {
    ["empty", "1_completed", "7_mixed"].map(|name| sample(&format!("ops_snapshot_{name}.json"))).to_vec()
}

fn sample<T: for<'a> serde::Deserialize<'a>>(name: &str) -> T {
    let path = root().join("tests/samples").join(name);
    serde_json::from_slice(&fs::read(&path).expect("a sample")).expect("a sample of upstream's own type")
}
