//! How writes are made, and what they are answered with.

use uuid::Uuid;

/// Which id makes a repeat of a write recognisable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RequestId {
    /// The client chooses one for the call and keeps it over the retries of that call.
    #[default]
    Chosen,
    /// The caller's own: the same id with the same content is answered as the first time, and changes nothing.
    Given(Uuid),
    /// None: no such memory, and the write is repeated only where the server says that nothing was committed.
    None,
}

impl RequestId {
    pub(crate) fn text(self) -> String {
        match self {
            Self::Chosen => Uuid::new_v4().to_string(),
            Self::Given(id) => id.to_string(),
            Self::None => String::new(),
        }
    }
}

impl From<Uuid> for RequestId {
    fn from(id: Uuid) -> Self {
        Self::Given(id)
    }
}

/// How a write is made. The default: whatever the revision, with a request id of the client's.
#[derive(Debug, Clone, Copy, Default)]
pub struct WriteOptions {
    /// Commit only if the runtime is at this revision; 0 means that nothing was ever written.
    pub if_revision: Option<u64>,
    /// Makes a repeat recognisable.
    pub request_id: RequestId,
}

/// The acknowledgement of a write to a runtime: it is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// The runtime's revision after this write; of a repeat, the one that the first answer told.
    pub revision: u64,
    /// Whether this request was recognised as a repeat; nothing was changed then.
    pub replayed: bool,
}

/// The acknowledgement of a write of the OAuth flow snapshot: it is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OAuthCommit {
    /// The snapshot's version after this write; of a repeat, the one that the first answer told.
    pub version: u64,
    /// Whether this request was recognised as a repeat; nothing was changed then.
    pub replayed: bool,
}

/// The right to drive a runtime: the client sends its fence with every write to it from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acquisition {
    /// Greater than every one before.
    pub fence: u64,
    /// Who held the runtime until now; `None` if nobody ever acquired it, and in a replay.
    pub previous_owner: Option<String>,
}
