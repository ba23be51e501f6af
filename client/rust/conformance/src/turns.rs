//! An executor that takes turns: each adds a message to the session and commits it.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use chrono::Utc;
use meerkat_core::{
    Session,
    lifecycle::{
        InputId, RunBoundaryReceipt, RunId,
        core_executor::{CoreApplyOutput, CoreExecutor, CoreExecutorError},
        run_primitive::{RunApplyBoundary, RunPrimitive},
    },
    types::{Message, SessionId, UserMessage},
};
use meerkat_runtime::{
    Input, InputDurability, InputHeader, InputOrigin, InputVisibility, LogicalRuntimeId, PromptInput, RuntimeStore,
};

/// What a turn of a machine does.
pub struct Turns {
    /// The session that grows.
    pub session_id: SessionId,
    /// Where it is kept.
    pub store: Arc<dyn RuntimeStore>,
    /// How many turns were begun.
    pub begun: Arc<AtomicUsize>,
    /// The turn in which it hangs for good, counted from 1.
    pub hangs_in: Option<usize>,
}

#[async_trait::async_trait]
impl CoreExecutor for Turns {
    async fn apply(&mut self, run_id: RunId, primitive: RunPrimitive) -> Result<CoreApplyOutput, CoreExecutorError> {
        let turn = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        if self.hangs_in == Some(turn) {
            println!("in turn {turn}");
            std::future::pending::<()>().await;
        }
        let runtime_id = LogicalRuntimeId::for_session(&self.session_id);
        let stored = self.store.load_session_snapshot(&runtime_id).await.expect("the store answers");
        let mut session = match stored {
            Some(document) => serde_json::from_slice(&document).expect("a session"),
            None => Session::with_id(self.session_id.clone()),
        };
        session.push(Message::User(UserMessage::text(format!(
            "turn of {} inputs",
            primitive.contributing_input_ids().len()
        ))));
        Ok(CoreApplyOutput {
            receipt: RunBoundaryReceipt {
                run_id,
                boundary: RunApplyBoundary::RunStart,
                contributing_input_ids: primitive.contributing_input_ids().to_vec(),
                conversation_digest: None,
                message_count: session.messages().len(),
                sequence: 0,
            },
            session_snapshot: Some(serde_json::to_vec(&session).expect("a session")),
            terminal: None,
        })
    }

    async fn cancel_after_boundary(&mut self, _reason: String) -> Result<(), CoreExecutorError> {
        Ok(())
    }

    async fn stop_runtime_executor(&mut self, _reason: String) -> Result<(), CoreExecutorError> {
        Ok(())
    }
}

/// A prompt of an operator that survives restarts.
#[must_use]
pub fn prompt(text: &str) -> Input {
    Input::Prompt(PromptInput {
        header: InputHeader {
            id: InputId::new(),
            timestamp: Utc::now(),
            source: InputOrigin::Operator,
            durability: InputDurability::Durable,
            visibility: InputVisibility::default(),
            idempotency_key: None,
            supersession_key: None,
            correlation_id: None,
        },
        text: text.into(),
        blocks: None,
        typed_turn_appends: Vec::new(),
        turn_metadata: None,
    })
}
