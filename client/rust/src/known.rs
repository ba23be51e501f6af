//! Remembers what a runtime's store holds, so that what it has is neither sent nor fetched again.
//!
//! A runtime sends its whole session and all its inputs at every turn. What the client remembers of the last turn makes
//! of them the edits of a session, and the inputs that changed. It is a memory of what was acknowledged or loaded, never
//! a promise: each short form names what it rests on, and the server refuses it where that is not so (any more).

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{edits::common_prefix, types::InputState};

/// How much a client remembers unless told.
pub const DEFAULT_KNOWN_BYTES: usize = 64 << 20;

/// What an input that is remembered takes beside its document, about.
const INPUT_BYTES: usize = 200;
/// What a runtime that is remembered takes beside its session and inputs, about: tables are half empty at times.
const RUNTIME_BYTES: usize = 2 * size_of::<Runtime>() + 100;

pub(crate) type Sha256Digest = [u8; 32];

pub(crate) fn sha256(bytes: &[u8]) -> Sha256Digest {
    Sha256::digest(bytes).into()
}

/// A session snapshot that a runtime's store was seen to hold, or is to hold.
#[derive(Debug, Clone)]
pub(crate) struct KnownSession {
    pub(crate) body: Bytes,
    pub(crate) sha256: Sha256Digest,
    /// With how much of the one before it, from the beginning, it agrees.
    pub(crate) agreed_bytes: usize,
    /// Has taken that in: of the next one, which agrees with more, only the rest is hashed.
    agreed: Sha256,
}

impl KnownSession {
    /// Makes one that comes after nothing that is known; the digest is its own.
    pub(crate) fn of(body: Bytes, sha256: Sha256Digest) -> Self {
        Self { body, sha256, agreed_bytes: 0, agreed: Sha256::new() }
    }

    /// Describes a session; `before` is the one before it, if that is known.
    fn after(before: Option<&Self>, body: &Bytes) -> Self {
        let agreed_bytes = before.map_or(0, |before| common_prefix(&before.body, body));
        let hashed = before.filter(|before| before.agreed_bytes <= agreed_bytes);
        let (hashed_bytes, mut agreed) =
            hashed.map_or_else(|| (0, Sha256::new()), |before| (before.agreed_bytes, before.agreed.clone()));
        agreed.update(&body[hashed_bytes..agreed_bytes]);
        let mut whole = agreed.clone();
        whole.update(&body[agreed_bytes..]);
        Self { body: body.clone(), sha256: whole.finalize().into(), agreed_bytes, agreed }
    }
}

/// An input's document as the store holds it.
#[derive(Debug, Clone)]
struct KnownInput {
    state_json: Arc<str>,
    sha256: Sha256Digest,
}

impl KnownInput {
    fn of(state_json: &str) -> Self {
        Self { state_json: state_json.into(), sha256: sha256(state_json.as_bytes()) }
    }

    fn is(&self, state_json: &str) -> bool {
        *self.state_json == *state_json
    }

    fn size_bytes(&self) -> usize {
        self.state_json.len() + INPUT_BYTES
    }
}

/// What is known of one runtime: its session, and those inputs that are known to be so at `revision`.
#[derive(Debug, Default)]
struct Runtime {
    session: Option<KnownSession>,
    revision: u64,
    inputs: HashMap<Uuid, KnownInput>,
    /// Counted as they change, and not all of them at each call.
    inputs_bytes: usize,
    size_bytes: usize,
    used: u64,
}

impl Runtime {
    fn remember(&mut self, input_id: Uuid, input: KnownInput) {
        self.inputs_bytes += input.size_bytes();
        if let Some(before) = self.inputs.insert(input_id, input) {
            self.inputs_bytes -= before.size_bytes();
        }
    }

    fn forget_inputs(&mut self) -> HashMap<Uuid, KnownInput> {
        self.inputs_bytes = 0;
        std::mem::take(&mut self.inputs)
    }
}

/// Those of many inputs that the store has not, at the revision at which it has the others.
#[derive(Debug)]
pub(crate) struct ChangedInputs {
    pub(crate) revision: u64,
    /// Places in the list of all of them, ascending.
    pub(crate) changed: Vec<usize>,
    /// Stands for all of them: see `PartialInputs` in the protos.
    pub(crate) all_sha256: Sha256Digest,
}

/// What is known of the runtimes that a client drives, the latest used, within so many bytes.
pub(crate) struct KnownRuntimes {
    most_bytes: usize,
    state: Mutex<State>,
}

impl fmt::Debug for KnownRuntimes {
    /// Shows none of the documents: a client that is shown is no reason to write conversations into a log.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("KnownRuntimes").field("most_bytes", &self.most_bytes).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    runtimes: HashMap<Arc<str>, Runtime>,
    /// By their last use, of which each of any runtime has a greater number: the first was used longest ago.
    by_use: BTreeMap<u64, Arc<str>>,
    size_bytes: usize,
    uses: u64,
}

impl State {
    fn forget(&mut self, runtime_id: &str) {
        if let Some(forgotten) = self.runtimes.remove(runtime_id) {
            self.by_use.remove(&forgotten.used);
            self.size_bytes -= forgotten.size_bytes;
        }
    }
}

impl KnownRuntimes {
    pub(crate) fn new(most_bytes: usize) -> Self {
        Self { most_bytes, state: Mutex::default() }
    }

    /// Tells the session that the store was last seen to hold.
    pub(crate) fn session(&self, runtime_id: &str) -> Option<KnownSession> {
        self.lock().runtimes.get(runtime_id)?.session.clone()
    }

    /// Tells the newest revision that the runtime was seen at; 0 where nothing is known.
    pub(crate) fn revision(&self, runtime_id: &str) -> u64 {
        self.lock().runtimes.get(runtime_id).map_or(0, |known| known.revision)
    }

    /// Forgets a runtime that is at an earlier revision than it was seen at before the call that tells so.
    ///
    /// Its store was restored from a backup, or lost what it had acknowledged: another history has begun, in which the
    /// same revision is another state.
    pub(crate) fn went_back(&self, runtime_id: &str, since: u64, revision: u64) {
        if revision < since {
            self.forget(runtime_id);
        }
    }

    /// Finds those inputs that the store has not; `None` where it is not known to have any of them.
    pub(crate) fn changed_inputs(&self, runtime_id: &str, inputs: &[InputState]) -> Option<ChangedInputs> {
        let state = self.lock();
        let known = state.runtimes.get(runtime_id).filter(|known| !known.inputs.is_empty())?;
        let mut changed: HashMap<Uuid, usize> = HashMap::new();
        let mut all_of_them = Sha256::new();
        for (place, input) in inputs.iter().enumerate() {
            all_of_them.update(input.input_id.as_bytes());
            match known.inputs.get(&input.input_id) {
                Some(stored) if stored.is(&input.state_json) => {
                    changed.remove(&input.input_id); // twice in one request: the last counts
                    all_of_them.update(stored.sha256);
                }
                _ => {
                    changed.insert(input.input_id, place);
                    all_of_them.update(sha256(input.state_json.as_bytes()));
                }
            }
        }
        if changed.len() == inputs.len() {
            return None;
        }
        let mut changed: Vec<usize> = changed.into_values().collect();
        changed.sort_unstable();
        Some(ChangedInputs { revision: known.revision, changed, all_sha256: all_of_them.finalize().into() })
    }

    /// Describes a session as it is remembered; `None` where nothing is, which spares its digest.
    ///
    /// `before` is the one before it, if that is known.
    pub(crate) fn described(&self, body: &Bytes, before: Option<&KnownSession>) -> Option<KnownSession> {
        (self.most_bytes > 0).then(|| KnownSession::after(before, body))
    }

    /// Remembers a session that was loaded, with the digest that it was checked against.
    pub(crate) fn loaded_session(&self, runtime_id: &str, session: KnownSession) {
        self.change(runtime_id, |runtime| runtime.session = Some(session));
    }

    /// Remembers all inputs that were loaded, as they were at a revision.
    pub(crate) fn loaded_inputs(&self, runtime_id: &str, revision: u64, inputs: &[InputState]) {
        if self.most_bytes == 0 {
            return;
        }
        let known: Vec<_> = inputs.iter().map(|input| (input.input_id, KnownInput::of(&input.state_json))).collect();
        self.change(runtime_id, |runtime| {
            runtime.revision = revision;
            runtime.forget_inputs();
            for (input_id, input) in known {
                runtime.remember(input_id, input);
            }
        });
    }

    /// Remembers a write that landed with a revision: its session and inputs are what the store holds now.
    ///
    /// Of the inputs known before, those stay known that were so at the revision just before. `since` is the revision
    /// that was known as the write was sent; one that repeats an earlier write has none.
    pub(crate) fn committed(
        &self,
        runtime_id: &str,
        revision: u64,
        since: u64,
        session: Option<KnownSession>,
        inputs: &[InputState],
    ) {
        self.went_back(runtime_id, since, revision.saturating_sub(1));
        self.change(runtime_id, |runtime| {
            if runtime.revision >= revision {
                return; // a repeat of a write long ago, or answers that overtook each other
            }
            let follows = runtime.revision + 1 == revision;
            let mut before = if follows { HashMap::new() } else { runtime.forget_inputs() };
            runtime.revision = revision;
            for input in inputs {
                if runtime.inputs.get(&input.input_id).is_none_or(|held| !held.is(&input.state_json)) {
                    let found = before.remove(&input.input_id).filter(|found| found.is(&input.state_json));
                    let found = found.unwrap_or_else(|| KnownInput::of(&input.state_json));
                    runtime.remember(input.input_id, found);
                }
            }
            if session.is_some() {
                runtime.session = session;
            }
        });
    }

    /// Forgets a runtime: the store holds something else than was thought.
    pub(crate) fn forget(&self, runtime_id: &str) {
        self.lock().forget(runtime_id);
    }

    fn change(&self, runtime_id: &str, change: impl FnOnce(&mut Runtime)) {
        if self.most_bytes == 0 {
            return;
        }
        let mut locked = self.lock();
        let state = &mut *locked;
        state.uses += 1;
        let known = state.runtimes.get_key_value(runtime_id).map(|(known, _)| Arc::clone(known));
        let runtime_id = known.unwrap_or_else(|| runtime_id.into());
        let runtime = state.runtimes.entry(Arc::clone(&runtime_id)).or_default();
        change(runtime);
        let session_bytes = runtime.session.as_ref().map_or(0, |session| session.body.len());
        let size_bytes = RUNTIME_BYTES + runtime_id.len() + session_bytes + runtime.inputs_bytes;
        state.size_bytes = state.size_bytes - runtime.size_bytes + size_bytes;
        state.by_use.remove(&runtime.used);
        (runtime.size_bytes, runtime.used) = (size_bytes, state.uses);
        state.by_use.insert(state.uses, runtime_id);
        while state.size_bytes > self.most_bytes
            && let Some((_, oldest)) = state.by_use.pop_first()
        {
            state.forget(&oldest);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
