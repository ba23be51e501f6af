//! Writes to a runtime.

use bytes::Bytes;

use super::Client;
use crate::{
    call::Unary,
    errors::Result,
    forms::{Forms, RuntimeWrite},
    retry::Kind,
    types::{Acquisition, Commit, InputState, RequestId, RunBoundaryReceipt, RuntimeState, WriteOptions},
    v1,
};

impl Client {
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
    ///
    /// [`ErrorReason::BoundaryReceiptExists`]: crate::ErrorReason::BoundaryReceiptExists
    /// [`ErrorReason::SessionKeyMismatch`]: crate::ErrorReason::SessionKeyMismatch
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

    /// Becomes the one who drives a runtime. `owner`, such as a host and a process id, is told to who is held back.
    ///
    /// From now on every write of this client to the runtime carries the fence, and none of an older one lands any more:
    /// it fails with [`ErrorReason::Fenced`], also here when another acquires the runtime, until it is acquired again.
    ///
    /// [`ErrorReason::Fenced`]: crate::ErrorReason::Fenced
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
