//! The store as upstream's runtimes hold it: an `Arc<dyn RuntimeStore>`.

mod upstream;
mod workers;

use std::{future::Future, thread};

use bytes::Bytes;
use meerkat_core::{
    lifecycle::{InputId, RunBoundaryReceipt, RunId},
    types::SessionId,
};
use meerkat_runtime::{
    identifiers::LogicalRuntimeId,
    input_state::StoredInputState,
    ops_lifecycle::PersistedOpsSnapshot,
    runtime_state::RuntimeState,
    store::{AuthOAuthFlowSnapshotUpdate, MachineLifecycleCommit, RuntimeStore, RuntimeStoreError, SessionDelta},
};
use upstream::{
    input_of, inputs_of, read_failed, receipt_of, state_of, stored_input, upstream_receipt, upstream_state,
    write_failed,
};
use workers::Workers;

use crate::{
    client::Client,
    errors::{Error, ErrorReason},
    settings::Settings,
    types::{RequestId, WriteOptions},
};

type StoreResult<T> = Result<T, RuntimeStoreError>;

/// A `RuntimeStore` that keeps everything on a server.
///
/// It may be built, used and dropped anywhere: in a plain thread, and inside of any runtime. Its connections live in a
/// small runtime of its own, so that the trait's synchronous methods can wait for them. A call that is dropped goes on,
/// as it does with the trait's other stores. Threads do not come along over a fork: build it behind one, not before.
pub struct RemoteRuntimeStore {
    client: Client,
    authority_key: Option<String>,
    workers: Workers,
}

impl std::fmt::Debug for RemoteRuntimeStore {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("RemoteRuntimeStore").field("authority_key", &self.authority_key).finish_non_exhaustive()
    }
}

impl RemoteRuntimeStore {
    /// Connects to the server at an address, `host:port` or `unix:/path`, and asks who the authority of its OAuth flows
    /// is. It waits for the answer.
    ///
    /// # Errors
    ///
    /// The server does not answer, or refuses.
    pub fn connect(address: impl Into<String>) -> StoreResult<Self> {
        Self::connect_with(Client::builder(address))
    }

    /// Connects as [`RemoteRuntimeStore::connect`] does, with a realm, a token, TLS and whatever else a client has.
    ///
    /// # Errors
    ///
    /// The server does not answer, or refuses; or what was given cannot be meant.
    pub fn connect_with(settings: Settings) -> StoreResult<Self> {
        let workers = Workers::start()?;
        let client = {
            let _here = workers.handle().enter();
            settings.build().map_err(|error| RuntimeStoreError::Internal(error.to_string()))?
        };
        let asked = client.clone();
        let authority_key =
            workers.wait(async move { asked.auth_authority_key().await }).map_err(|error| read_failed(&error))?;
        Ok(Self { client, authority_key, workers })
    }

    /// The client beneath, for what the trait lacks: history, `LoadRuntime`, the server's own word of itself. Its calls
    /// need a Tokio runtime around them.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Becomes the one who drives a runtime: every write of this store to it carries the fence that is answered, and
    /// none of an older one lands any more.
    ///
    /// # Errors
    ///
    /// The server does not answer, or refuses.
    pub async fn acquire_runtime(&self, runtime_id: &LogicalRuntimeId, owner: &str) -> StoreResult<u64> {
        let (client, runtime_id, owner) = (self.client.clone(), runtime_id.0.clone(), owner.to_owned());
        let acquired = async move { client.acquire_runtime(&runtime_id, &owner, RequestId::Chosen).await };
        Ok(self.write(acquired).await?.fence)
    }

    async fn read<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> StoreResult<T> {
        self.workers.run(call).await.map_err(|error| read_failed(&error))
    }

    async fn write<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> StoreResult<T> {
        self.workers.run(call).await.map_err(|error| write_failed(&error))
    }
}

/// Takes a session's bytes, without the room that was left for more of them: it is remembered until the next.
fn whole(delta: SessionDelta) -> Bytes {
    delta.session_snapshot.into_boxed_slice().into()
}

#[async_trait::async_trait]
impl RuntimeStore for RemoteRuntimeStore {
    fn auth_authority_key(&self) -> Option<String> {
        self.authority_key.clone()
    }

    fn persist_auth_oauth_flow_snapshot(&self, snapshot_json: &[u8]) -> StoreResult<()> {
        let (client, snapshot) = (self.client.clone(), Bytes::copy_from_slice(snapshot_json));
        let call = async move { client.persist_auth_oauth_flow_snapshot(snapshot, RequestId::Chosen).await };
        self.workers.wait(call).map(|_| ()).map_err(|error| write_failed(&error))
    }

    fn load_auth_oauth_flow_snapshot(&self) -> StoreResult<Option<Vec<u8>>> {
        let client = self.client.clone();
        let loaded = self.workers.wait(async move { client.load_auth_oauth_flow_snapshot().await });
        Ok(loaded.map_err(|error| read_failed(&error))?.snapshot_json.map(Vec::from))
    }

    fn update_auth_oauth_flow_snapshot(&self, update: &mut AuthOAuthFlowSnapshotUpdate<'_>) -> StoreResult<()> {
        // The closure may stay on its thread only, so the loop runs here and each call over there.
        let deadline = self.client.deadline();
        let mut rounds = self.client.update_rounds(deadline);
        loop {
            let client = self.client.clone();
            let current = self.workers.wait(async move { client.load_oauth(deadline).await });
            let current = current.map_err(|error| read_failed(&error))?;
            let next = Bytes::from(update(current.snapshot_json.as_deref())?);
            let (client, version) = (self.client.clone(), current.version);
            let replaced = self
                .workers
                .wait(async move { client.replace_oauth(version, next, RequestId::Chosen, deadline).await });
            match replaced {
                Ok(_) => return Ok(()),
                Err(error) if error.reason() == Some(ErrorReason::OauthFlowSnapshotChanged) => {
                    let pause = rounds.pause_after_lost_round();
                    thread::sleep(pause.map_err(|error| write_failed(&error))?);
                }
                Err(error) => return Err(write_failed(&error)),
            }
        }
    }

    async fn commit_session_snapshot(
        &self,
        runtime_id: &LogicalRuntimeId,
        session_delta: SessionDelta,
    ) -> StoreResult<()> {
        let (client, runtime_id) = (self.client.clone(), runtime_id.0.clone());
        let session = whole(session_delta);
        let call = async move { client.commit_session_snapshot(&runtime_id, session, WriteOptions::default()).await };
        self.write(call).await.map(|_| ())
    }

    async fn atomic_apply(
        &self,
        runtime_id: &LogicalRuntimeId,
        session_delta: Option<SessionDelta>,
        receipt: RunBoundaryReceipt,
        input_updates: Vec<StoredInputState>,
        session_store_key: Option<SessionId>,
    ) -> StoreResult<()> {
        let (client, runtime_id) = (self.client.clone(), runtime_id.0.clone());
        let session = session_delta.map(whole);
        let (receipt, inputs) = (receipt_of(receipt)?, inputs_of(&input_updates)?);
        let key = session_store_key.map(|key| key.0);
        let options = WriteOptions::default();
        let call = async move { client.atomic_apply(&runtime_id, session, receipt, &inputs, key, options).await };
        self.write(call).await.map(|_| ())
    }

    async fn load_input_states(&self, runtime_id: &LogicalRuntimeId) -> StoreResult<Vec<StoredInputState>> {
        let (client, runtime_id) = (self.client.clone(), runtime_id.0.clone());
        let loaded = self.read(async move { client.load_input_states(&runtime_id).await }).await?;
        loaded.value.iter().map(stored_input).collect()
    }

    async fn load_boundary_receipt(
        &self,
        runtime_id: &LogicalRuntimeId,
        run_id: &RunId,
        sequence: u64,
    ) -> StoreResult<Option<RunBoundaryReceipt>> {
        let (client, runtime_id, run_id) = (self.client.clone(), runtime_id.0.clone(), run_id.0);
        let call = async move { client.load_boundary_receipt(&runtime_id, run_id, sequence).await };
        self.read(call).await?.value.map(|found| upstream_receipt(found.receipt)).transpose()
    }

    async fn load_session_snapshot(&self, runtime_id: &LogicalRuntimeId) -> StoreResult<Option<Vec<u8>>> {
        let (client, runtime_id) = (self.client.clone(), runtime_id.0.clone());
        let loaded = self.read(async move { client.load_session_snapshot(&runtime_id).await }).await?;
        Ok(loaded.value.map(Vec::from))
    }

    async fn persist_input_state(&self, runtime_id: &LogicalRuntimeId, state: &StoredInputState) -> StoreResult<()> {
        let (client, runtime_id, state) = (self.client.clone(), runtime_id.0.clone(), input_of(state)?);
        let call = async move { client.persist_input_state(&runtime_id, state, WriteOptions::default()).await };
        self.write(call).await.map(|_| ())
    }

    async fn load_input_state(
        &self,
        runtime_id: &LogicalRuntimeId,
        input_id: &InputId,
    ) -> StoreResult<Option<StoredInputState>> {
        let (client, runtime_id, input_id) = (self.client.clone(), runtime_id.0.clone(), input_id.0);
        let loaded = self.read(async move { client.load_input_state(&runtime_id, input_id).await }).await?;
        loaded.value.as_ref().map(stored_input).transpose()
    }

    async fn load_runtime_state(&self, runtime_id: &LogicalRuntimeId) -> StoreResult<Option<RuntimeState>> {
        let (client, runtime_id) = (self.client.clone(), runtime_id.0.clone());
        let loaded = self.read(async move { client.load_runtime_state(&runtime_id).await }).await?;
        Ok(loaded.value.map(upstream_state))
    }

    async fn commit_machine_lifecycle(
        &self,
        runtime_id: &LogicalRuntimeId,
        commit: MachineLifecycleCommit,
        input_states: &[StoredInputState],
    ) -> StoreResult<()> {
        let (client, runtime_id) = (self.client.clone(), runtime_id.0.clone());
        let (state, inputs) = (state_of(commit.runtime_state())?, inputs_of(input_states)?);
        let options = WriteOptions::default();
        let call = async move { client.commit_machine_lifecycle(&runtime_id, state, &inputs, options).await };
        self.write(call).await.map(|_| ())
    }

    async fn persist_ops_lifecycle(
        &self,
        runtime_id: &LogicalRuntimeId,
        snapshot: &PersistedOpsSnapshot,
    ) -> StoreResult<()> {
        // Once a call: its maps serialise in another order each time, and a repeat must be the same request.
        let snapshot =
            serde_json::to_string(snapshot).map_err(|error| RuntimeStoreError::WriteFailed(error.to_string()))?;
        let (client, runtime_id) = (self.client.clone(), runtime_id.0.clone());
        let call = async move { client.persist_ops_lifecycle(&runtime_id, snapshot, WriteOptions::default()).await };
        self.write(call).await.map(|_| ())
    }

    async fn load_ops_lifecycle(&self, runtime_id: &LogicalRuntimeId) -> StoreResult<Option<PersistedOpsSnapshot>> {
        let (client, runtime_id) = (self.client.clone(), runtime_id.0.clone());
        let loaded = self.read(async move { client.load_ops_lifecycle(&runtime_id).await }).await?;
        let snapshot = loaded.value.map(|snapshot| serde_json::from_str(&snapshot)).transpose();
        snapshot.map_err(|error| RuntimeStoreError::ReadFailed(format!("the ops snapshot: {error}")))
    }
}
