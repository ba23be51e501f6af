//! Gives a write two forms that mean the same: a short one, of what changed, and the whole one behind it.
//!
//! The short form goes first. A server that finds that it rests on something else than what is stored refuses it, and
//! nothing is written; then the whole follows, under the same request id.

use bytes::Bytes;

use crate::{
    edits::find_edits,
    errors::{Error, ErrorReason},
    known::{KnownRuntimes, KnownSession},
    types::{Commit, InputState},
    v1,
};

/// A write to a runtime whose session or inputs have two forms.
pub(crate) trait RuntimeWrite: Clone {
    fn runtime_id(&self) -> &str;
    fn request_id(&self) -> &str;
    fn if_revision(&self) -> Option<u64>;
    /// Whether `PartialInputs` may stand for its inputs.
    const MANY_INPUTS: bool;
    fn set_session(&mut self, delta: v1::SessionDelta);
    fn set_inputs(&mut self, inputs: Vec<v1::StoredInputState>, partial: Option<(u64, v1::PartialInputs)>);
}

macro_rules! runtime_write {
    ($request:ty, many: $many:literal, $self:ident, session($delta:ident): $session:block, inputs($inputs:ident, $partial:ident): $set:block) => {
        impl RuntimeWrite for $request {
            const MANY_INPUTS: bool = $many;

            fn runtime_id(&self) -> &str {
                &self.runtime_id
            }

            fn request_id(&self) -> &str {
                &self.request_id
            }

            fn if_revision(&self) -> Option<u64> {
                self.if_revision
            }

            fn set_session(&mut $self, $delta: v1::SessionDelta) $session

            fn set_inputs(&mut $self, $inputs: Vec<v1::StoredInputState>, $partial: Option<(u64, v1::PartialInputs)>) $set
        }
    };
}

runtime_write!(v1::CommitSessionSnapshotRequest, many: false, self,
    session(delta): { self.session_delta = Some(delta); },
    inputs(_inputs, _partial): {});
runtime_write!(v1::AtomicApplyRequest, many: true, self,
session(delta): { self.session_delta = Some(delta); },
inputs(inputs, partial): {
    self.input_updates = inputs;
    if let Some((revision, partial)) = partial {
        (self.if_revision, self.partial_inputs) = (Some(revision), Some(partial));
    }
});
runtime_write!(v1::CommitMachineLifecycleRequest, many: true, self,
session(_delta): {},
inputs(inputs, partial): {
    self.input_states = inputs;
    if let Some((revision, partial)) = partial {
        (self.if_revision, self.partial_inputs) = (Some(revision), Some(partial));
    }
});
runtime_write!(v1::PersistInputStateRequest, many: false, self,
    session(_delta): {},
    inputs(inputs, _partial): { self.state = inputs.into_iter().next(); });
runtime_write!(v1::PersistOpsLifecycleRequest, many: false, self,
    session(_delta): {},
    inputs(_inputs, _partial): {});

/// The forms of one write to a runtime; `request` is the one that is sent now.
#[derive(Debug)]
pub(crate) struct Forms<'a, W> {
    known: &'a KnownRuntimes,
    /// The revision that was known as the write was made.
    since: u64,
    shared: W,
    body: Option<Bytes>,
    /// The session that the store was seen to hold, and the one that it is to hold.
    before: Option<KnownSession>,
    session: Option<KnownSession>,
    inputs: &'a [InputState],
    is_short: bool,
    sends_edits: bool,
    pub(crate) request: W,
}

impl<'a, W: RuntimeWrite> Forms<'a, W> {
    /// Makes the forms of `shared`, which has all but the session and the inputs.
    pub(crate) fn new(known: &'a KnownRuntimes, shared: W, body: Option<Bytes>, inputs: &'a [InputState]) -> Self {
        let since = known.revision(shared.runtime_id());
        let before = body.as_ref().and_then(|_| known.session(shared.runtime_id()));
        let session = body.as_ref().and_then(|body| known.described(body, before.as_ref()));
        let request = shared.clone();
        let (is_short, sends_edits) = (false, false);
        let mut forms = Self { known, since, shared, body, before, session, inputs, is_short, sends_edits, request };
        let (edits, partial) = (forms.edits(), forms.partial());
        forms.request = forms.form(edits, partial);
        forms
    }

    /// Puts the whole form in the place of the short one, if that is what was refused.
    pub(crate) fn instead(&mut self, error: &Error) -> bool {
        use ErrorReason::{
            BoundaryReceiptExists, InputStateInvalid, InvalidRequest, OpsSnapshotInvalid, RevisionMismatch,
            SessionSnapshotInvalid, SnapshotBaseMismatch,
        };
        // What refuses a short form that may be fine as a whole; a bad field where a server of an older version does not
        // know it. What refuses the whole as well is told by the answer to that.
        let short_refused = matches!(
            error.reason(),
            Some(
                SnapshotBaseMismatch
                    | RevisionMismatch
                    | SessionSnapshotInvalid
                    | InputStateInvalid
                    | OpsSnapshotInvalid
                    | InvalidRequest
            )
        );
        // Without its base a session's id is not seen. A key of another session is told before what the boundary has.
        let hides_the_key = self.sends_edits && error.reason() == Some(BoundaryReceiptExists);
        if !(hides_the_key || self.is_short && short_refused) {
            return false;
        }
        self.known.forget(self.shared.runtime_id());
        self.request = self.form(None, None);
        true
    }

    /// Remembers what the store holds now.
    pub(crate) fn committed(self, commit: Commit) {
        let since = if commit.replayed { 0 } else { self.since };
        self.known.committed(self.shared.runtime_id(), commit.revision, since, self.session, self.inputs);
    }

    /// Makes the session edits of the one that the store holds; `None` where the whole is not much longer.
    fn edits(&self) -> Option<v1::SnapshotEdits> {
        let (before, session) = (self.before.as_ref()?, self.session.as_ref()?);
        let edits = find_edits(&before.body, &session.body, session.agreed_bytes)?;
        Some(v1::SnapshotEdits {
            base_sha256: Bytes::copy_from_slice(&before.sha256),
            edits: edits
                .into_iter()
                .map(|edit| v1::Edit { start: edit.start as u64, end: edit.end as u64, replacement: edit.replacement })
                .collect(),
            sha256: Bytes::copy_from_slice(&session.sha256),
        })
    }

    /// Finds the inputs that changed, since which revision, and what stands for all of them.
    fn partial(&self) -> Option<(Vec<v1::StoredInputState>, u64, v1::PartialInputs)> {
        if self.inputs.is_empty() || !W::MANY_INPUTS {
            return None;
        }
        let some = self.known.changed_inputs(self.shared.runtime_id(), self.inputs)?;
        let own = self.shared.if_revision();
        if own.is_some_and(|own| own != some.revision) {
            return None;
        }
        let changed = some.changed.iter().map(|&place| self.inputs[place].to_wire()).collect();
        let all_sha256 = Bytes::copy_from_slice(&some.all_sha256);
        Some((changed, some.revision, v1::PartialInputs { all_sha256, if_revision: own }))
    }

    fn form(
        &mut self,
        edits: Option<v1::SnapshotEdits>,
        partial: Option<(Vec<v1::StoredInputState>, u64, v1::PartialInputs)>,
    ) -> W {
        self.sends_edits = edits.is_some();
        self.is_short = self.sends_edits || partial.is_some();
        let mut form = self.shared.clone();
        if let Some(body) = &self.body {
            let delta = match edits {
                Some(edits) => v1::session_delta::Delta::SnapshotEdits(edits),
                None => v1::session_delta::Delta::SessionSnapshot(body.clone()),
            };
            form.set_session(v1::SessionDelta { delta: Some(delta) });
        }
        match partial {
            Some((changed, revision, partial)) => form.set_inputs(changed, Some((revision, partial))),
            None => form.set_inputs(self.inputs.iter().map(InputState::to_wire).collect(), None),
        }
        form
    }
}
