//! Commits of lifecycle changes. Upstream has no constructor for them: they are what its own machine hands to a store.

use std::sync::{Arc, Mutex, PoisonError};

use meerkat_core::{
    lifecycle::{InputId, RunBoundaryReceipt, RunId},
    types::SessionId,
};
use meerkat_runtime::{
    InMemoryRuntimeStore, LogicalRuntimeId, MeerkatMachine, RuntimeState, RuntimeStore, RuntimeStoreError,
    SessionDelta, SessionServiceRuntimeExt, input_state::StoredInputState, store::MachineLifecycleCommit,
    traits::RuntimeControlPlane,
};

type StoreResult<T> = Result<T, RuntimeStoreError>;

/// Keeps each commit that it is given, beside what any store does.
struct Recording {
    inner: InMemoryRuntimeStore,
    commits: Mutex<Vec<MachineLifecycleCommit>>,
}

/// One commit for each state that the machine reaches: idle, retired, stopped and destroyed.
pub async fn commits() -> Vec<MachineLifecycleCommit> {
    let store = Arc::new(Recording { inner: InMemoryRuntimeStore::new(), commits: Mutex::default() });
    let machine = MeerkatMachine::persistent_without_blobs(Arc::clone(&store) as Arc<dyn RuntimeStore>);
    let (retired, stopped, destroyed) = (SessionId::new(), SessionId::new(), SessionId::new());
    for session in [&retired, &stopped, &destroyed] {
        machine.register_session(session.clone()).await;
    }
    machine.retire_runtime(&retired).await.expect("it retires");
    machine.stop_runtime_executor(&stopped, "test").await.expect("it stops");
    machine.destroy(&LogicalRuntimeId::for_session(&destroyed)).await.expect("it is destroyed");
    let mut commits = std::mem::take(&mut *store.commits.lock().unwrap_or_else(PoisonError::into_inner));
    commits.sort_by_key(|commit| commit.runtime_state().to_string());
    commits.dedup_by_key(|commit| commit.runtime_state());
    let states: Vec<RuntimeState> = commits.iter().map(|commit| commit.runtime_state()).collect();
    for state in [RuntimeState::Idle, RuntimeState::Retired, RuntimeState::Stopped, RuntimeState::Destroyed] {
        assert!(states.contains(&state), "{states:?}");
    }
    commits
}

#[async_trait::async_trait]
impl RuntimeStore for Recording {
    async fn commit_session_snapshot(&self, runtime_id: &LogicalRuntimeId, delta: SessionDelta) -> StoreResult<()> {
        self.inner.commit_session_snapshot(runtime_id, delta).await
    }

    async fn atomic_apply(
        &self,
        runtime_id: &LogicalRuntimeId,
        session_delta: Option<SessionDelta>,
        receipt: RunBoundaryReceipt,
        input_updates: Vec<StoredInputState>,
        session_store_key: Option<SessionId>,
    ) -> StoreResult<()> {
        self.inner.atomic_apply(runtime_id, session_delta, receipt, input_updates, session_store_key).await
    }

    async fn load_input_states(&self, runtime_id: &LogicalRuntimeId) -> StoreResult<Vec<StoredInputState>> {
        self.inner.load_input_states(runtime_id).await
    }

    async fn load_boundary_receipt(
        &self,
        runtime_id: &LogicalRuntimeId,
        run_id: &RunId,
        sequence: u64,
    ) -> StoreResult<Option<RunBoundaryReceipt>> {
        self.inner.load_boundary_receipt(runtime_id, run_id, sequence).await
    }

    async fn load_session_snapshot(&self, runtime_id: &LogicalRuntimeId) -> StoreResult<Option<Vec<u8>>> {
        self.inner.load_session_snapshot(runtime_id).await
    }

    async fn persist_input_state(&self, runtime_id: &LogicalRuntimeId, state: &StoredInputState) -> StoreResult<()> {
        self.inner.persist_input_state(runtime_id, state).await
    }

    async fn load_input_state(
        &self,
        runtime_id: &LogicalRuntimeId,
        input_id: &InputId,
    ) -> StoreResult<Option<StoredInputState>> {
        self.inner.load_input_state(runtime_id, input_id).await
    }

    async fn load_runtime_state(&self, runtime_id: &LogicalRuntimeId) -> StoreResult<Option<RuntimeState>> {
        self.inner.load_runtime_state(runtime_id).await
    }

    async fn commit_machine_lifecycle(
        &self,
        runtime_id: &LogicalRuntimeId,
        commit: MachineLifecycleCommit,
        input_states: &[StoredInputState],
    ) -> StoreResult<()> {
        self.commits.lock().unwrap_or_else(PoisonError::into_inner).push(commit);
        self.inner.commit_machine_lifecycle(runtime_id, commit, input_states).await
    }
}
