//! Remembers what a runtime's store holds, so that what it has is neither sent nor fetched again.
//!
//! A runtime sends its whole session and all its inputs at every turn. What the client remembers of the last turn makes
//! of them the edits of a session, and the inputs that changed. It is a memory of what was acknowledged or loaded, never
//! a promise: each short form names what it rests on, and the server refuses it where that is not so (any more).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::types::InputState;

/// How much a client remembers unless told.
pub const DEFAULT_KNOWN_BYTES: usize = 64 << 20;

/// What an input that is remembered takes beside its document, about.
const INPUT_BYTES: usize = 200;

pub(crate) type Sha256Digest = [u8; 32];

pub(crate) fn sha256(bytes: &[u8]) -> Sha256Digest {
    Sha256::digest(bytes).into()
}

/// A session snapshot that a runtime's store was seen to hold.
#[derive(Debug, Clone)]
pub(crate) struct KnownSession {
    pub(crate) body: Bytes,
    pub(crate) sha256: Sha256Digest,
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
}

/// What is known of one runtime: its session, and those inputs that are known to be so at `revision`.
#[derive(Debug, Default)]
struct Runtime {
    session: Option<KnownSession>,
    revision: u64,
    inputs: HashMap<Uuid, KnownInput>,
    size_bytes: usize,
    /// Grows with each use of any runtime: the least is the one used longest ago.
    used: u64,
}

impl Runtime {
    fn count_bytes(&self) -> usize {
        self.session.as_ref().map_or(0, |session| session.body.len())
            + self.inputs.values().map(|input| input.state_json.len() + INPUT_BYTES).sum::<usize>()
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
#[derive(Debug)]
pub(crate) struct KnownRuntimes {
    most_bytes: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    runtimes: HashMap<String, Runtime>,
    size_bytes: usize,
    uses: u64,
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
                Some(stored) if *stored.state_json == *input.state_json => {
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
    pub(crate) fn described(&self, body: &Bytes) -> Option<KnownSession> {
        (self.most_bytes > 0).then(|| KnownSession { body: body.clone(), sha256: sha256(body) })
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
        let known = inputs.iter().map(|input| (input.input_id, KnownInput::of(&input.state_json))).collect();
        self.change(runtime_id, |runtime| (runtime.revision, runtime.inputs) = (revision, known));
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
            let mut before = std::mem::take(&mut runtime.inputs);
            let mut written = HashMap::with_capacity(inputs.len());
            for input in inputs {
                let found = before.remove(&input.input_id).or_else(|| written.remove(&input.input_id));
                let found = found.filter(|found: &KnownInput| *found.state_json == *input.state_json);
                written.insert(input.input_id, found.unwrap_or_else(|| KnownInput::of(&input.state_json)));
            }
            if follows {
                before.extend(written);
                written = before;
            }
            (runtime.revision, runtime.inputs) = (revision, written);
            if session.is_some() {
                runtime.session = session;
            }
        });
    }

    /// Forgets a runtime: the store holds something else than was thought.
    pub(crate) fn forget(&self, runtime_id: &str) {
        let mut state = self.lock();
        if let Some(forgotten) = state.runtimes.remove(runtime_id) {
            state.size_bytes -= forgotten.size_bytes;
        }
    }

    fn change(&self, runtime_id: &str, change: impl FnOnce(&mut Runtime)) {
        if self.most_bytes == 0 {
            return;
        }
        let mut state = self.lock();
        state.uses += 1;
        let uses = state.uses;
        if !state.runtimes.contains_key(runtime_id) {
            state.runtimes.insert(runtime_id.to_owned(), Runtime::default());
        }
        let Some(runtime) = state.runtimes.get_mut(runtime_id) else {
            return;
        };
        change(runtime);
        runtime.used = uses;
        let (before, now) = (runtime.size_bytes, runtime.count_bytes());
        runtime.size_bytes = now;
        state.size_bytes = state.size_bytes - before + now;
        while state.size_bytes > self.most_bytes {
            let Some(oldest) =
                state.runtimes.iter().min_by_key(|(_, runtime)| runtime.used).map(|(runtime_id, _)| runtime_id.clone())
            else {
                return;
            };
            let size_bytes = state.runtimes.remove(&oldest).map_or(0, |runtime| runtime.size_bytes);
            state.size_bytes -= size_bytes;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNTIME: &str = "rt:1";

    fn input(id: u128, state_json: &str) -> InputState {
        InputState { input_id: Uuid::from_u128(id), state_json: state_json.to_owned() }
    }

    fn changed(known: &KnownRuntimes, inputs: &[InputState]) -> Option<(u64, Vec<usize>)> {
        known.changed_inputs(RUNTIME, inputs).map(|some| (some.revision, some.changed))
    }

    #[test]
    fn inputs_are_known_from_one_write_to_the_next_but_not_over_anothers() {
        let known = KnownRuntimes::new(DEFAULT_KNOWN_BYTES);
        let (one, two) = (input(1, "a"), input(2, "b"));
        known.committed(RUNTIME, 1, 0, None, std::slice::from_ref(&one));
        known.committed(RUNTIME, 2, 1, None, std::slice::from_ref(&two));
        assert_eq!(changed(&known, &[one.clone(), input(2, "c"), two.clone()]), Some((2, vec![])));
        assert_eq!(changed(&known, &[one.clone(), input(2, "c")]), Some((2, vec![1])));
        known.committed(RUNTIME, 4, 2, None, std::slice::from_ref(&two));
        assert_eq!(changed(&known, &[one, two]), Some((4, vec![0])));
    }

    #[test]
    fn of_a_store_that_was_restored_nothing_is_known_any_more() {
        let known = KnownRuntimes::new(DEFAULT_KNOWN_BYTES);
        let (one, two) = (input(1, "a"), input(2, "b"));
        let session = known.described(&Bytes::from_static(b"{}"));
        known.committed(RUNTIME, 7, 0, session, std::slice::from_ref(&one));
        known.committed(RUNTIME, 4, 7, None, std::slice::from_ref(&two));
        assert!(known.session(RUNTIME).is_none());
        assert_eq!(changed(&known, &[one, two]), Some((4, vec![0])));
        known.went_back(RUNTIME, 4, 3);
        assert_eq!(known.revision(RUNTIME), 0);
    }

    #[test]
    fn what_was_used_longest_ago_is_forgotten_first() {
        let known = KnownRuntimes::new(100);
        for (runtime_id, bytes) in [("rt:1", 40), ("rt:2", 40), ("rt:3", 40)] {
            known.committed(runtime_id, 1, 0, known.described(&Bytes::from(vec![b'x'; bytes])), &[]);
        }
        let kept = ["rt:1", "rt:2", "rt:3"].map(|runtime_id| known.session(runtime_id).is_some());
        assert_eq!(kept, [false, true, true]);
        known.committed("rt:4", 1, 0, known.described(&Bytes::from(vec![b'x'; 200])), &[]);
        assert!(known.session("rt:4").is_none());
    }
}
