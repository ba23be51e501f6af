"""Remembers what a runtime's store holds, so that what it has is neither sent nor fetched again.

A runtime sends its whole session and all its inputs at every turn. What the client remembers of the last turn makes of
them the edits of a session, and the inputs that changed. It is a memory of what was acknowledged or loaded, never a
promise: each short form names what it rests on, and the server refuses it where that is not so (any more).
"""

from __future__ import annotations

import threading
import uuid
from collections import OrderedDict
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from runtimestore._edits import common_prefix

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from hashlib import _Hash as Hash

    from runtimestore.types import InputState

__all__ = ["DEFAULT_KNOWN_BYTES", "ChangedInputs", "KnownRuntimes", "KnownSession"]

DEFAULT_KNOWN_BYTES = 64 * 2**20
INPUT_BYTES = 300
"""What an input that is remembered takes beside its document, about."""
RUNTIME_BYTES = 500
"""What a runtime that is remembered takes beside its session and inputs, about."""
CANONICAL_LENGTH = 36
"""Of a UUID as text: the store's own form."""


class KnownSession(NamedTuple):
    """A session snapshot that a runtime's store was seen to hold, or is to hold."""

    body: bytes
    sha256: bytes
    agreed_bytes: int
    """With how much of the one before it, from the beginning, it agrees."""
    agreed: Hash
    """The SHA-256 of that: of the next one, which agrees with more, only the rest is hashed."""

    @classmethod
    def of(cls, body: bytes, digest: bytes) -> KnownSession:
        """Make one that comes after nothing that is known; the digest is its own."""
        return cls(body, digest, 0, sha256())


class KnownInput(NamedTuple):
    """An input's document as the store holds it."""

    state_json: str
    framed: bytes
    """The 16 bytes of its UUID and the SHA-256 of its document: see `PartialInputs.all_sha256` in the protos."""

    @property
    def key(self) -> bytes:
        """The 16 bytes of its UUID."""
        return self.framed[:16]

    def size_bytes(self) -> int:
        """Return what it takes in memory, about."""
        return len(self.state_json) + INPUT_BYTES


@dataclass(slots=True)
class _Runtime:
    """What is known of one runtime: its session, and those inputs that are known to be so at `revision`."""

    session: KnownSession | None = None
    revision: int = 0
    inputs: dict[str, KnownInput] = field(default_factory=dict)
    inputs_bytes: int = 0

    def size_bytes(self) -> int:
        return RUNTIME_BYTES + (len(self.session.body) if self.session else 0) + self.inputs_bytes


class ChangedInputs(NamedTuple):
    """Those of many inputs that the store has not, at the revision at which it has the others."""

    revision: int
    changed: list[InputState]
    all_sha256: bytes
    """Stands for all of them: see `PartialInputs` in the protos."""


class KnownRuntimes:
    """What is known of the runtimes that a client drives, the latest used, within so many bytes."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._runtimes: OrderedDict[str, _Runtime] = OrderedDict()
        self._sizes: dict[str, int] = {}
        self._size_bytes = 0
        self._lock = threading.Lock()

    def session(self, runtime_id: str) -> KnownSession | None:
        """Return the session that the store was last seen to hold."""
        with self._lock:
            known = self._runtimes.get(runtime_id)
            return known.session if known else None

    def revision(self, runtime_id: str) -> int:
        """Return the newest revision that the runtime was seen at; 0 where nothing is known."""
        with self._lock:
            known = self._runtimes.get(runtime_id)
            return known.revision if known else 0

    def went_back(self, runtime_id: str, *, since: int, revision: int) -> None:
        """Forget a runtime that is at an earlier revision than it was seen at before the call that tells so.

        Its store was restored from a backup, or lost what it had acknowledged: another history has begun, in which the
        same revision is another state.
        """
        if revision < since:
            self.forget(runtime_id)

    def changed_inputs(self, runtime_id: str, inputs: Sequence[InputState]) -> ChangedInputs | None:
        """Return those inputs that the store has not; `None` where it is not known to have any of them."""
        with self._lock:
            known = self._runtimes.get(runtime_id)
            stored = known.inputs if known else {}
            if known is None or not stored:
                return None
            revision, all_of_them = known.revision, list[bytes]()
            changed: dict[bytes, InputState] = {}
            for state in inputs:
                # As it is it is nearly always in the store's own form, and has not changed.
                found = stored.get(state.input_id)
                if found is None or found.state_json != state.state_json or changed:
                    try:
                        found = found or stored.get(_canonical(state.input_id))
                        if found is None or found.state_json != state.state_json:
                            found = _known_input(state.input_id, state.state_json)
                            changed[found.key] = state
                        else:
                            changed.pop(found.key, None)  # twice in one request: the last counts
                    except ValueError:
                        return None  # no UUID: the server says so
                all_of_them.append(found.framed)
        if len(changed) == len(inputs):
            return None
        return ChangedInputs(revision, list(changed.values()), sha256(b"".join(all_of_them)).digest())

    def described(self, body: bytes | None, before: KnownSession | None = None) -> KnownSession | None:
        """Return a session as it is remembered; `None` where nothing is, which spares its digest.

        `before` is the one before it, if that is known.
        """
        if body is None or not self._most_bytes:
            return None
        agreed_bytes, hashed_bytes, agreed = 0, 0, sha256()
        if before is not None:
            agreed_bytes = common_prefix(before.body, 0, body, 0)
            if before.agreed_bytes <= agreed_bytes:
                hashed_bytes, agreed = before.agreed_bytes, before.agreed.copy()
        view = memoryview(body)
        agreed.update(view[hashed_bytes:agreed_bytes])
        whole = agreed.copy()
        whole.update(view[agreed_bytes:])
        return KnownSession(body, whole.digest(), agreed_bytes, agreed)

    def loaded_session(self, runtime_id: str, session: KnownSession) -> None:
        """Remember a session that was loaded; one that was known before, and has not changed, is the same object."""
        known = self.session(runtime_id)
        same = known is not None and known.body is session.body
        self._remember(runtime_id, None if same else session)

    def loaded_inputs(self, runtime_id: str, revision: int, inputs: Iterable[InputState]) -> None:
        """Remember all inputs that were loaded, as they were at a revision."""
        if not self._most_bytes:
            return
        try:
            known = {_canonical(one.input_id): _known_input(one.input_id, one.state_json) for one in inputs}
        except ValueError:
            return  # no inputs of a store: nothing rests on them
        with self._lock:
            runtime = self._runtimes.setdefault(runtime_id, _Runtime())
            runtime.revision, runtime.inputs = revision, known
            runtime.inputs_bytes = sum(map(KnownInput.size_bytes, known.values()))
        self._remember(runtime_id)

    def committed(
        self,
        runtime_id: str,
        revision: int,
        *,
        since: int,
        session: KnownSession | None = None,
        inputs: Iterable[InputState] = (),
    ) -> None:
        """Remember a write that landed with a revision: its session and inputs are what the store holds now.

        Of the inputs known before, those stay known that were so at the revision just before. `since` is the revision
        that was known as the write was sent; one that repeats an earlier write has none.
        """
        if not self._most_bytes:
            return
        self.went_back(runtime_id, since=since, revision=revision - 1)
        with self._lock:
            runtime = self._runtimes.setdefault(runtime_id, _Runtime())
            if runtime.revision >= revision:
                return  # a repeat of a write long ago, or answers that overtook each other
            before = runtime.inputs
            if runtime.revision != revision - 1:
                runtime.inputs, runtime.inputs_bytes = {}, 0
            runtime.revision = revision
            for state in inputs:
                held = runtime.inputs.get(state.input_id)
                if held is not None and held.state_json == state.state_json:
                    continue
                try:
                    name = _canonical(state.input_id)
                    found = before.get(name)
                    if found is None or found.state_json != state.state_json:
                        found = _known_input(state.input_id, state.state_json)
                except ValueError:
                    continue  # not one that the server took
                held = runtime.inputs.get(name)
                if held is not found:
                    runtime.inputs[name] = found
                    runtime.inputs_bytes += found.size_bytes() - (held.size_bytes() if held else 0)
        self._remember(runtime_id, session)

    def forget(self, runtime_id: str) -> None:
        """Forget it: the store holds something else than was thought."""
        with self._lock:
            self._runtimes.pop(runtime_id, None)
            self._size_bytes -= self._sizes.pop(runtime_id, 0)

    def _remember(self, runtime_id: str, session: KnownSession | None = None) -> None:
        if not self._most_bytes:
            return
        with self._lock:
            runtime = self._runtimes.setdefault(runtime_id, _Runtime())
            if session is not None:
                runtime.session = session
            self._runtimes.move_to_end(runtime_id)
            size = runtime.size_bytes()
            self._size_bytes += size - self._sizes.get(runtime_id, 0)
            self._sizes[runtime_id] = size
            while self._size_bytes > self._most_bytes:
                oldest, _ = self._runtimes.popitem(last=False)
                self._size_bytes -= self._sizes.pop(oldest, 0)  # none yet: it is being added just now


def _canonical(input_id: str) -> str:
    """Return an id in the store's own form: one UUID can be written in several.

    Raises:
        ValueError: it is no UUID.
    """
    if len(input_id) == CANONICAL_LENGTH and input_id == input_id.lower():
        return input_id
    return str(_uuid_of(input_id))


def _uuid_of(text: str) -> uuid.UUID:
    return uuid.UUID(text.lower())  # Python's takes a URN in small letters only


def _known_input(input_id: str, state_json: str) -> KnownInput:
    return KnownInput(state_json, _uuid_of(input_id).bytes + sha256(state_json.encode()).digest())
