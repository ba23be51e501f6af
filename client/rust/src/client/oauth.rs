//! OAuth flow snapshots, of which a realm has one.

use bytes::Bytes;
use tokio::time::sleep;

use super::Client;
use crate::{
    errors::{Error, ErrorReason, Result},
    retry::{Deadline, Kind, UpdateRounds},
    types::{OAuthCommit, OAuthFlowSnapshot, RequestId},
    v1,
};

impl Client {
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
        let mut rounds = self.update_rounds(deadline);
        loop {
            let current = self.load_oauth(deadline).await?;
            let next = update(current.snapshot_json.as_deref())?;
            match self.replace_oauth(current.version, next.into(), RequestId::Chosen, deadline).await {
                Err(error) if error.reason() == Some(ErrorReason::OauthFlowSnapshotChanged) => {
                    sleep(rounds.pause_after_lost_round()?).await;
                }
                ended => return Ok(ended?),
            }
        }
    }

    /// Begins the rounds of a compare-and-swap.
    pub(crate) fn update_rounds(&self, deadline: Deadline) -> UpdateRounds {
        UpdateRounds::within(deadline, &self.retry())
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
}
