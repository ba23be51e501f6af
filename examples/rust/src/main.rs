//! A runtime on the service: kill it while it thinks, start it again with the same session, and the turn is taken.

use std::{env, sync::Arc, time::Duration};

use chrono::Utc;
use meerkat_core::lifecycle::core_executor::{CoreApplyOutput, CoreExecutor, CoreExecutorError};
use meerkat_core::lifecycle::run_primitive::{RunApplyBoundary, RunPrimitive};
use meerkat_core::lifecycle::{InputId, RunBoundaryReceipt, RunId};
use meerkat_core::session::Session;
use meerkat_core::types::{Message, SessionId, UserMessage};
use meerkat_runtime::{Input, InputDurability, InputHeader, InputOrigin, InputVisibility, PromptInput};
use meerkat_runtime::{LogicalRuntimeId, MeerkatMachine, RuntimeStore, SessionServiceRuntimeExt};
use runtimestore::RemoteRuntimeStore;

/// Where a model would answer: the session, its store, and how long it thinks.
struct Agent(SessionId, Arc<dyn RuntimeStore>, Duration);

#[async_trait::async_trait]
impl CoreExecutor for Agent {
    async fn apply(&mut self, run_id: RunId, primitive: RunPrimitive) -> Result<CoreApplyOutput, CoreExecutorError> {
        println!("thinking");
        tokio::time::sleep(self.2).await;
        let stored = self.1.load_session_snapshot(&LogicalRuntimeId::for_session(&self.0)).await;
        let fresh = || Session::with_id(self.0.clone());
        let read = |document: Vec<u8>| serde_json::from_slice(&document).expect("a session");
        let mut session = stored.expect("the store answers").map_or_else(fresh, read);
        session.push(Message::User(UserMessage::text("a turn")));
        println!("turn {} is taken", session.messages().len());
        let receipt = RunBoundaryReceipt {
            run_id,
            boundary: RunApplyBoundary::RunStart,
            contributing_input_ids: primitive.contributing_input_ids().to_vec(),
            conversation_digest: None,
            message_count: session.messages().len(),
            sequence: 0,
        };
        Ok(CoreApplyOutput { receipt, session_snapshot: serde_json::to_vec(&session).ok(), terminal: None })
    }

    async fn cancel_after_boundary(&mut self, _reason: String) -> Result<(), CoreExecutorError> {
        Ok(())
    }

    async fn stop_runtime_executor(&mut self, _reason: String) -> Result<(), CoreExecutorError> {
        Ok(())
    }
}

fn prompt(text: &str) -> Input {
    let header = InputHeader {
        id: InputId::new(),
        timestamp: Utc::now(),
        source: InputOrigin::Operator,
        durability: InputDurability::Durable,
        visibility: InputVisibility::default(),
        idempotency_key: None,
        supersession_key: None,
        correlation_id: None,
    };
    let text = text.into();
    Input::Prompt(PromptInput { header, text, blocks: None, typed_turn_appends: vec![], turn_metadata: None })
}

#[tokio::main]
async fn main() {
    let mut arguments = env::args().skip(1);
    let mut next = || arguments.next().expect("an address, a session's UUID, and how many seconds to think");
    let (address, session, seconds) = (next(), SessionId(next().parse().expect("a UUID")), next());
    let store: Arc<dyn RuntimeStore> = Arc::new(RemoteRuntimeStore::connect(address).expect("a server"));
    let machine = Arc::new(MeerkatMachine::persistent_without_blobs(Arc::clone(&store)));
    let agent = Agent(session.clone(), store, Duration::from_secs(seconds.parse().expect("a number")));
    machine.register_session_with_executor(session.clone(), Box::new(agent)).await;
    // Upstream's machine may let an input lie that comes in the moment in which a recovered turn ends.
    while !machine.list_active_inputs(&session).await.expect("it is registered").is_empty() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let accepted = machine.accept_input_with_completion(&session, prompt("Hello")).await.expect("it is accepted");
    accepted.1.expect("a turn to wait for").wait().await;
}
