//! Loads of what a runtime has, and had.

use bytes::Bytes;

use super::Client;
use crate::{
    errors::{ErrorReason, Result},
    known::KnownSession,
    streams::{InputBatches, RuntimeParts, SessionChunks},
    types::{
        CommittedReceipt, InputState, Loaded, LoadedRuntime, ReadableInputStates, RunBoundaryReceipt, RuntimeState,
        SessionVersion, SessionVersions,
    },
    v1,
};

impl Client {
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

    /// Loads the registry of background operations, byte for byte as it was written.
    pub async fn load_ops_lifecycle(&self, runtime_id: &str) -> Result<Loaded<Option<String>>> {
        let request = v1::LoadOpsLifecycleRequest { realm: self.realm(), runtime_id: runtime_id.to_owned() };
        let answer = self.noted(runtime_id, self.load(request).await)?;
        Ok(Loaded { value: answer.snapshot.map(|snapshot| snapshot.snapshot_json), revision: answer.revision })
    }

    /// Forgets a runtime of which something stored is damaged: writing all of it again may mend it.
    pub(super) fn noted<T>(&self, runtime_id: &str, ended: Result<T>) -> Result<T> {
        ended.inspect_err(|error| {
            if error.reason() == Some(ErrorReason::StoredValueCorrupt) {
                self.shared.known.forget(runtime_id);
            }
        })
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
}
