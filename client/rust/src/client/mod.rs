//! The typed client: the trait's methods and what the service has beside them.

mod loads;
mod oauth;
mod writes;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use crate::{
    call::{Caller, Unary},
    errors::Result,
    fences::Fences,
    known::KnownRuntimes,
    retry::{Deadline, Kind, RetryPolicy},
    servers::Servers,
    settings::Settings,
    types::ServerInfo,
    v1,
};

/// A client of one store and one realm. A clone shares its connections, and what it remembers.
///
/// It lives in the Tokio runtime in which it was built, whose clock and network are enabled (`enable_all`), and ends with
/// it; calls may be awaited in any other such runtime. Any number may run at once. A call that is dropped leaves either
/// the whole write or nothing.
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
///
/// [`ErrorReason::RevisionMismatch`]: crate::ErrorReason::RevisionMismatch
/// [`ErrorReason::CommitOutcomeUnknown`]: crate::ErrorReason::CommitOutcomeUnknown
/// [`Error::reason`]: crate::Error::reason
/// [`Error::request_id`]: crate::Error::request_id
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

    pub(crate) fn deadline(&self) -> Deadline {
        Deadline::after(self.timeout)
    }

    fn retry(&self) -> RetryPolicy {
        self.shared.caller.retry
    }

    fn realm(&self) -> String {
        self.shared.realm.clone()
    }

    async fn load<Q: Unary>(&self, request: Q) -> Result<Q::Answer> {
        self.shared.caller.unary(request, Kind::Load, self.deadline()).await
    }
}
