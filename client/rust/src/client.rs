//! The typed client: the trait's methods and what the service has beside them.
//!
//! One type with a method for each of the service's is longer than modules are elsewhere; apart, one would search them.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::sleep;

use crate::{
    call::{Caller, Unary},
    errors::{Error, ErrorReason, Result},
    fences::Fences,
    forms::{Forms, RuntimeWrite},
    known::{KnownRuntimes, KnownSession},
    retry::{Deadline, Kind, RetryPolicy},
    servers::Servers,
    settings::Settings,
    streams::{InputBatches, RuntimeParts, SessionChunks},
    types::{
        Acquisition, Commit, CommittedReceipt, InputState, Loaded, LoadedRuntime, OAuthCommit, OAuthFlowSnapshot,
        ReadableInputStates, RequestId, RunBoundaryReceipt, RuntimeState, ServerInfo, SessionVersion, SessionVersions,
        WriteOptions,
    },
    v1,
};

/// A client of one store and one realm. A clone shares its connections, and what it remembers.
///
/// It lives in the Tokio runtime in which it was built. Any number of calls may run at once. A call that is dropped
/// leaves either the whole write or nothing.
///
/// **Writes** are one transaction each, all or nothing, and durable when the answer is there. `if_revision` commits only
/// if the runtime is at that revision, and else fails with [`ErrorReason::RevisionMismatch`]. A request id makes a repeat
/// recognisable; by default the client chooses one for each call and keeps it over the retries of that call.
///
/// **Loads** see one consistent snapshot and every write that was acknowledged before. What is absent is `None`, or
/// empty.
///
/// **Repeated**, within the timeout and as the [`RetryPolicy`] says, are calls that met an unreachable server or engine,
/// too many waiting calls, a commit of unknown outcome, or a reset on the way; a write without a request id only where
/// the server says that nothing was committed.
///
/// **Errors** are told apart by [`Error::reason`]. A write that failed with [`ErrorReason::CommitOutcomeUnknown`], or
/// without a reason, is either whole or nothing: repeat it with the [`Error::request_id`] to make sure.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
    timeout: Duration,
}

#[derive(Debug)]
struct Shared {
    caller: Caller,
    realm: String,
    fences: Fences,
    known: KnownRuntimes,
}

impl Client {
    /// Begins a client: `address` is `host:port` or `unix:/path`.
    pub fn builder(address: impl Into<String>) -> Settings {
        Settings::new(address)
    }

    pub(crate) fn new(servers: Servers, settings: Settings) -> Self {
        let caller = Caller {
            servers,
            token: settings.token,
            retry: settings.retry,
            max_message_bytes: settings.max_message_bytes,
        };
        let known = KnownRuntimes::new(settings.known_bytes);
        let shared = Shared { caller, realm: settings.realm, fences: Fences::default(), known };
        Self { shared: Arc::new(shared), timeout: settings.timeout }
    }

    /// Makes a clone whose calls have another budget, retries and pauses included.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { shared: Arc::clone(&self.shared), timeout }
    }

    /// Loads the stable name of the authority behind the realm's OAuth flows: `runtimestore:<store id>:<realm>`.
    ///
    /// It survives restarts, replicas and moves of the server. `None` for an ephemeral store.
    pub async fn auth_authority_key(&self) -> Result<Option<String>> {
        Ok(self.load(v1::AuthAuthorityKeyRequest { realm: self.realm() }).await?.authority_key)
    }

    /// Replaces the realm's OAuth flow snapshot, whatever is there, in one transaction.
    pub async fn persist_auth_oauth_flow_snapshot(
        &self,
        snapshot_json: impl Into<Bytes>,
        request_id: RequestId,
    ) -> Result<OAuthCommit> {
        let request = v1::PersistAuthOAuthFlowSnapshotRequest {
            realm: self.realm(),
            request_id: request_id.text(),
            snapshot_json: snapshot_json.into(),
        };
        let kind = Kind::Write { request_id: request.request_id.clone() };
        let answer = self.shared.caller.unary(request, kind, self.deadline()).await?;
        Ok(OAuthCommit { version: answer.version, replayed: answer.replayed })
    }

    /// Loads the realm's OAuth flow snapshot and its version, as they were at one moment.
    pub async fn load_auth_oauth_flow_snapshot(&self) -> Result<OAuthFlowSnapshot> {
        self.load_oauth(self.deadline()).await
    }

    /// Replaces the realm's OAuth flow snapshot if its version is the expected one; 0: there is none.
    ///
    /// # Errors
    ///
    /// [`ErrorReason::OauthFlowSnapshotChanged`]: it was changed meanwhile; nothing was written.
    pub async fn replace_auth_oauth_flow_snapshot(
        &self,
        expected_version: u64,
        snapshot_json: impl Into<Bytes>,
        request_id: RequestId,
    ) -> Result<OAuthCommit> {
        self.replace_oauth(expected_version, snapshot_json.into(), request_id, self.deadline()).await
    }

    /// Replaces the realm's OAuth flow snapshot by what `update` makes of it.
    ///
    /// Nobody else's change is lost: where the snapshot was changed between the load and the write, `update` runs again on
    /// the new bytes, until the deadline. Each round writes under a request id of its own, kept over the round's retries,
    /// so that `update` never runs again on its own write.
    ///
    /// # Errors
    ///
    /// What `update` returns, unchanged; nothing was written. Or the call's own.
    pub async fn update_auth_oauth_flow_snapshot<E: From<Error>>(
        &self,
        mut update: impl FnMut(Option<&[u8]>) -> std::result::Result<Vec<u8>, E>,
    ) -> std::result::Result<OAuthCommit, E> {
        let deadline = self.deadline();
        let mut lost = 0;
        loop {
            let current = self.load_oauth(deadline).await?;
            let next = update(current.snapshot_json.as_deref())?;
            match self.replace_oauth(current.version, next.into(), RequestId::Chosen, deadline).await {
                Err(error) if error.reason() == Some(ErrorReason::OauthFlowSnapshotChanged) => {
                    lost += 1;
                    sleep(self.pause_after_lost_round(lost, deadline)?).await;
                }
                ended => return Ok(ended?),
            }
        }
    }

    /// Writes a session snapshot that is no run boundary: it and its session projection, in one transaction.
    pub async fn commit_session_snapshot(
        &self,
        runtime_id: &str,
        session_delta: impl Into<Bytes>,
        options: WriteOptions,
    ) -> Result<Commit> {
        let request = v1::CommitSessionSnapshotRequest {
            realm: self.realm(),
            runtime_id: runtime_id.to_owned(),
            request_id: options.request_id.text(),
            if_revision: options.if_revision,
            session_delta: None,
            fence: self.shared.fences.held(runtime_id),
        };
        self.write(request, Some(session_delta.into()), &[]).await
    }

    /// Commits a run boundary in one transaction: session snapshot (if given) and projection, receipt, inputs.
    ///
    /// A receipt never exists without its session and inputs, and a boundary gets one. The same input twice: the last
    /// counts. With a delta `session_store_key` must equal the snapshot's `id`; without, it is ignored.
    ///
    /// # Errors
    ///
    /// [`ErrorReason::BoundaryReceiptExists`]: the boundary has a receipt already, be it an equal one. And
    /// [`ErrorReason::SessionKeyMismatch`]. Nothing was written.
    pub async fn atomic_apply(
        &self,
        runtime_id: &str,
        session_delta: Option<Bytes>,
        receipt: RunBoundaryReceipt,
        input_updates: &[InputState],
        session_store_key: Option<uuid::Uuid>,
        options: WriteOptions,
    ) -> Result<Commit> {
        let request = v1::AtomicApplyRequest {
            realm: self.realm(),
            runtime_id: runtime_id.to_owned(),
            request_id: options.request_id.text(),
            if_revision: options.if_revision,
            session_delta: None,
            receipt: Some(receipt.into_wire()),
            input_updates: Vec::new(),
            session_store_key: session_store_key.map(|key| key.to_string()),
            fence: self.shared.fences.held(runtime_id),
            partial_inputs: None,
        };
        self.write(request, session_delta, input_updates).await
    }

    /// Loads all inputs of a runtime, `input_id` ascending, as they were at one moment.
    pub async fn load_input_states(&self, runtime_id: &str) -> Result<Loaded<Vec<InputState>>> {
        let loaded = self.load_inputs(runtime_id, false).await?;
        self.shared.known.loaded_inputs(runtime_id, loaded.revision, &loaded.input_states);
        Ok(Loaded { value: loaded.input_states, revision: loaded.revision })
    }

    /// Loads all inputs of a runtime that are sound, and names those that are not, as they were at one moment.
    ///
    /// For the recovery of a runtime whose store was damaged. Writing an input again mends it.
    pub async fn load_readable_input_states(&self, runtime_id: &str) -> Result<ReadableInputStates> {
        self.load_inputs(runtime_id, true).await
    }

    /// Loads the receipt of one boundary: if it is there, so are the session and the inputs that came with it.
    pub async fn load_boundary_receipt(
        &self,
        runtime_id: &str,
        run_id: uuid::Uuid,
        sequence: u64,
    ) -> Result<Loaded<Option<CommittedReceipt>>> {
        let request = v1::LoadBoundaryReceiptRequest {
            realm: self.realm(),
            runtime_id: runtime_id.to_owned(),
            run_id: run_id.to_string(),
            sequence,
        };
        let answer = self.noted(runtime_id, self.load(request).await)?;
        let receipt = answer.receipt.map(RunBoundaryReceipt::from_wire).transpose()?;
        let committed_revision = answer.committed_revision;
        let value = receipt.map(|receipt| CommittedReceipt { receipt, committed_revision });
        Ok(Loaded { value, revision: answer.revision })
    }

    /// Loads the session snapshot of a runtime, byte for byte as it was written.
    ///
    /// # Errors
    ///
    /// [`ErrorReason::StoredValueCorrupt`]: what is stored, or what arrived, is not what was written.
    pub async fn load_session_snapshot(&self, runtime_id: &str) -> Result<Loaded<Option<Bytes>>> {
        let loaded = self.load_session(runtime_id, None).await?;
        if let Some(session) = &loaded.value {
            self.shared.known.loaded_session(runtime_id, session.clone());
        }
        Ok(Loaded { value: loaded.value.map(|session| session.body), revision: loaded.revision })
    }

    /// Loads the session as the write of a revision left it, or the last one before it that wrote one.
    ///
    /// # Errors
    ///
    /// [`ErrorReason::RevisionNotKept`]: that is older than what is kept; `oldest_revision` says what is.
    pub async fn load_session_snapshot_as_of(
        &self,
        runtime_id: &str,
        as_of_revision: u64,
    ) -> Result<Loaded<Option<Bytes>>> {
        let loaded = self.load_session(runtime_id, Some(as_of_revision)).await?;
        Ok(Loaded { value: loaded.value.map(|session| session.body), revision: loaded.revision })
    }

    /// Loads all that a runtime recovers from, as it was at one moment: a cold start in one call.
    pub async fn load_runtime(&self, runtime_id: &str) -> Result<LoadedRuntime> {
        let known = self.shared.known.session(runtime_id);
        let request = v1::LoadRuntimeRequest {
            realm: self.realm(),
            runtime_id: runtime_id.to_owned(),
            known_session_sha256: known.as_ref().map(|known| Bytes::copy_from_slice(&known.sha256)),
        };
        let parts = || RuntimeParts::new(known.clone());
        let read = self.shared.caller.stream(request, parts, self.deadline()).await;
        let (loaded, session) = self.noted(runtime_id, read)?;
        self.shared.known.loaded_inputs(runtime_id, loaded.revision, &loaded.input_states);
        if let Some(session) = session {
            self.shared.known.loaded_session(runtime_id, session);
        }
        Ok(loaded)
    }

    /// Lists the versions of a runtime's session that can be loaded by their revision, newest first.
    ///
    /// A page has at most `page_size` (0: the server's choice); its `next_page_token` asks for the next.
    pub async fn list_session_versions(
        &self,
        runtime_id: &str,
        page_size: u32,
        page_token: &str,
    ) -> Result<SessionVersions> {
        let request = v1::ListSessionVersionsRequest {
            realm: self.realm(),
            runtime_id: runtime_id.to_owned(),
            page_size: i32::try_from(page_size).unwrap_or(i32::MAX),
            page_token: page_token.to_owned(),
        };
        let answer = self.load(request).await?;
        let versions = answer.versions.into_iter().map(SessionVersion::from_wire).collect::<Result<_>>()?;
        Ok(SessionVersions { versions, next_page_token: answer.next_page_token })
    }

    /// Writes one input's state in one transaction: insert or replace, the last writer wins.
    pub async fn persist_input_state(
        &self,
        runtime_id: &str,
        state: InputState,
        options: WriteOptions,
    ) -> Result<Commit> {
        let request = v1::PersistInputStateRequest {
            realm: self.realm(),
            runtime_id: runtime_id.to_owned(),
            request_id: options.request_id.text(),
            if_revision: options.if_revision,
            state: None,
            fence: self.shared.fences.held(runtime_id),
        };
        self.write(request, None, &[state]).await
    }

    /// Loads one input's state, its document byte for byte as it was written.
    pub async fn load_input_state(&self, runtime_id: &str, input_id: uuid::Uuid) -> Result<Loaded<Option<InputState>>> {
        let request = v1::LoadInputStateRequest {
            realm: self.realm(),
            runtime_id: runtime_id.to_owned(),
            input_id: input_id.to_string(),
        };
        let answer = self.noted(runtime_id, self.load(request).await)?;
        Ok(Loaded { value: answer.state.map(InputState::from_wire).transpose()?, revision: answer.revision })
    }

    /// Loads the state of a runtime; `None` if none was ever committed.
    pub async fn load_runtime_state(&self, runtime_id: &str) -> Result<Loaded<Option<RuntimeState>>> {
        let request = v1::LoadRuntimeStateRequest { realm: self.realm(), runtime_id: runtime_id.to_owned() };
        let answer = self.noted(runtime_id, self.load(request).await)?;
        Ok(Loaded { value: answer.state.map(RuntimeState::from_wire).transpose()?, revision: answer.revision })
    }

    /// Writes the state of a runtime and inputs' states, in one transaction. The same input twice: the last counts.
    pub async fn commit_machine_lifecycle(
        &self,
        runtime_id: &str,
        commit: RuntimeState,
        input_states: &[InputState],
        options: WriteOptions,
    ) -> Result<Commit> {
        let request = v1::CommitMachineLifecycleRequest {
            realm: self.realm(),
            runtime_id: runtime_id.to_owned(),
            request_id: options.request_id.text(),
            if_revision: options.if_revision,
            commit: Some(v1::MachineLifecycleCommit { runtime_state: commit.to_wire().into() }),
            input_states: Vec::new(),
            fence: self.shared.fences.held(runtime_id),
            partial_inputs: None,
        };
        self.write(request, None, input_states).await
    }

    /// Writes the registry of background operations in one transaction: insert or replace.
    pub async fn persist_ops_lifecycle(
        &self,
        runtime_id: &str,
        snapshot_json: impl Into<String>,
        options: WriteOptions,
    ) -> Result<Commit> {
        let snapshot = v1::PersistedOpsSnapshot { snapshot_json: snapshot_json.into(), epoch_id: String::new() };
        let request = v1::PersistOpsLifecycleRequest {
            realm: self.realm(),
            runtime_id: runtime_id.to_owned(),
            request_id: options.request_id.text(),
            if_revision: options.if_revision,
            snapshot: Some(snapshot),
            fence: self.shared.fences.held(runtime_id),
        };
        self.write(request, None, &[]).await
    }

    /// Loads the registry of background operations, byte for byte as it was written.
    pub async fn load_ops_lifecycle(&self, runtime_id: &str) -> Result<Loaded<Option<String>>> {
        let request = v1::LoadOpsLifecycleRequest { realm: self.realm(), runtime_id: runtime_id.to_owned() };
        let answer = self.noted(runtime_id, self.load(request).await)?;
        Ok(Loaded { value: answer.snapshot.map(|snapshot| snapshot.snapshot_json), revision: answer.revision })
    }

    /// Becomes the one who drives a runtime. `owner`, such as a host and a process id, is told to who is held back.
    ///
    /// From now on every write of this client to the runtime carries the fence, and none of an older one lands any more:
    /// it fails with [`ErrorReason::Fenced`], also here when another acquires the runtime, until it is acquired again.
    pub async fn acquire_runtime(&self, runtime_id: &str, owner: &str, request_id: RequestId) -> Result<Acquisition> {
        let instead_of = self.shared.fences.held(runtime_id);
        let request = v1::AcquireRuntimeRequest {
            realm: self.realm(),
            runtime_id: runtime_id.to_owned(),
            owner: owner.to_owned(),
            request_id: request_id.text(),
        };
        let kind = Kind::Write { request_id: request.request_id.clone() };
        let answer = self.shared.caller.unary(request, kind, self.deadline()).await?;
        // An id of the caller's own may be that of an acquisition long ago; one that was chosen here cannot.
        let stale = answer.replayed && request_id != RequestId::Chosen;
        self.shared.fences.hold(runtime_id, answer.fence, instead_of.filter(|_| !stale));
        Ok(Acquisition { fence: answer.fence, previous_owner: answer.previous_owner })
    }

    /// Asks what the server is and what it accepts. It reads nothing from the store.
    pub async fn get_server_info(&self) -> Result<ServerInfo> {
        let answer = self.load(v1::GetServerInfoRequest { realm: self.realm() }).await?;
        Ok(ServerInfo {
            server_version: answer.server_version,
            engine: answer.engine,
            schema_revision: answer.schema_revision,
            limits: answer.limits.unwrap_or_default(),
            capabilities: answer.capabilities.into_iter().collect::<BTreeSet<_>>(),
            commits: answer.commits.unwrap_or_default(),
        })
    }

    /// Tells how long to wait before the next round of a compare-and-swap.
    pub(crate) fn pause_after_lost_round(&self, lost: u32, deadline: Deadline) -> Result<Duration> {
        let pause = self.retry().pause(lost);
        if pause < deadline.left() {
            return Ok(pause);
        }
        let message = format!("the snapshot was changed by others {lost} times; nothing was written");
        Err(Error::call_failed(tonic::Code::DeadlineExceeded, message))
    }

    pub(crate) async fn load_oauth(&self, deadline: Deadline) -> Result<OAuthFlowSnapshot> {
        let request = v1::LoadAuthOAuthFlowSnapshotRequest { realm: self.realm() };
        let answer = self.shared.caller.unary(request, Kind::Load, deadline).await?;
        Ok(OAuthFlowSnapshot { snapshot_json: answer.snapshot_json, version: answer.version })
    }

    pub(crate) async fn replace_oauth(
        &self,
        expected_version: u64,
        snapshot_json: Bytes,
        request_id: RequestId,
        deadline: Deadline,
    ) -> Result<OAuthCommit> {
        let request = v1::UpdateAuthOAuthFlowSnapshotRequest {
            realm: self.realm(),
            request_id: request_id.text(),
            expected_version,
            snapshot_json,
        };
        let kind = Kind::Write { request_id: request.request_id.clone() };
        let answer = self.shared.caller.unary(request, kind, deadline).await?;
        Ok(OAuthCommit { version: answer.version, replayed: answer.replayed })
    }

    pub(crate) fn deadline(&self) -> Deadline {
        Deadline::after(self.timeout)
    }

    fn retry(&self) -> RetryPolicy {
        self.shared.caller.retry
    }

    fn realm(&self) -> String {
        self.shared.realm.clone()
    }

    /// Forgets a runtime of which something stored is damaged: writing all of it again may mend it.
    fn noted<T>(&self, runtime_id: &str, ended: Result<T>) -> Result<T> {
        ended.inspect_err(|error| {
            if error.reason() == Some(ErrorReason::StoredValueCorrupt) {
                self.shared.known.forget(runtime_id);
            }
        })
    }

    async fn load<Q: Unary>(&self, request: Q) -> Result<Q::Answer> {
        self.shared.caller.unary(request, Kind::Load, self.deadline()).await
    }

    async fn load_inputs(&self, runtime_id: &str, skip_corrupt: bool) -> Result<ReadableInputStates> {
        let request =
            v1::LoadInputStatesRequest { realm: self.realm(), runtime_id: runtime_id.to_owned(), skip_corrupt };
        let read = self.shared.caller.stream(request, InputBatches::default, self.deadline()).await;
        self.noted(runtime_id, read)
    }

    async fn load_session(
        &self,
        runtime_id: &str,
        as_of_revision: Option<u64>,
    ) -> Result<Loaded<Option<KnownSession>>> {
        let (known, since) = (self.shared.known.session(runtime_id), self.shared.known.revision(runtime_id));
        let request = v1::LoadSessionSnapshotRequest {
            realm: self.realm(),
            runtime_id: runtime_id.to_owned(),
            known_sha256: known.as_ref().map(|known| Bytes::copy_from_slice(&known.sha256)),
            as_of_revision,
        };
        let chunks = || SessionChunks::new(known.clone(), as_of_revision);
        let read = self.shared.caller.stream(request, chunks, self.deadline()).await;
        let loaded = self.noted(runtime_id, read)?;
        self.shared.known.went_back(runtime_id, since, loaded.revision);
        Ok(loaded)
    }

    async fn write<W>(&self, request: W, session: Option<Bytes>, inputs: &[InputState]) -> Result<Commit>
    where
        W: Unary + RuntimeWrite,
        Commit: From<W::Answer>,
    {
        let mut forms = Forms::new(&self.shared.known, request, session, inputs);
        let ended = self.shared.caller.write(&mut forms, self.deadline()).await;
        let commit = Commit::from(self.noted(forms.request.runtime_id(), ended)?);
        forms.committed(commit);
        Ok(commit)
    }
}

macro_rules! acknowledgements {
    ($($answer:ident)*) => {$(
        impl From<v1::$answer> for Commit {
            fn from(answer: v1::$answer) -> Self {
                Self { revision: answer.revision, replayed: answer.replayed }
            }
        }
    )*};
}

acknowledgements! {
    CommitSessionSnapshotResponse AtomicApplyResponse PersistInputStateResponse CommitMachineLifecycleResponse
    PersistOpsLifecycleResponse
}
