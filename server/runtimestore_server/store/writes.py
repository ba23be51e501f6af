"""Defines each kind of write, with its idempotency key and its fingerprint, checked before it comes here."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runtimestore.errors import RuntimeStoreError
    from runtimestore_server.store.values import (
        InputDocument,
        OpsDocument,
        ReceiptDocument,
        RuntimeKey,
        SessionSnapshot,
    )


class Disallowed(NamedTuple):
    """What is left of a write that the server's settings do not allow: it may repeat one that landed before."""

    refusal: RuntimeStoreError
    """What is answered if it does not."""
    fingerprint: bytes
    former_fingerprint: bytes | None = None


class PartialInputs(NamedTuple):
    """What a write says of its inputs that did not change, and which it therefore does not carry."""

    all_sha256: bytes
    """Stands for all inputs that are meant: see `PartialInputs` in the protos."""
    if_revision: int | None
    """What the caller expects, which is a part of what the request means; `Write.if_revision` is what this rests on."""


class AnyWrite(Protocol):
    """What every kind of write has."""

    @property
    def realm(self) -> str:
        """The realm in which the request id is unique."""

    @property
    def request_id(self) -> str | None:
        """The idempotency key, or None: then a repeat is not recognised."""

    @property
    def subject(self) -> object:
        """What is written: two writes to one subject land in the order in which they came."""

    @property
    def size_bytes(self) -> int:
        """How many bytes of documents this write holds in memory."""

    @property
    def stored_bytes(self) -> int:
        """About how many bytes of documents are written for it."""

    def fingerprint(self) -> bytes:
        """Return what makes two requests the same."""

    def former_fingerprint(self) -> bytes | None:
        """Tell what made two requests the same before this version, if it was another thing: repeats come late."""


@dataclass(frozen=True, slots=True)
class Write:
    """One write to one runtime: it lands whole or is refused whole."""

    runtime: RuntimeKey
    request_id: str | None = None
    if_revision: int | None = None
    fence: int | None = None
    snapshot: SessionSnapshot | None = None
    receipt: ReceiptDocument | None = None
    inputs: tuple[InputDocument, ...] = ()
    partial_inputs: PartialInputs | None = None
    runtime_state: str | None = None
    ops: OpsDocument | None = None
    disallowed: Disallowed | None = None

    def disallow(self, refusal: RuntimeStoreError) -> Write:
        """Take the same request without its documents: they are megabytes, and only their fingerprint matters now."""
        disallowed = Disallowed(refusal, self.fingerprint(), self.former_fingerprint())
        return Write(self.runtime, self.request_id, disallowed=disallowed)

    @property
    def realm(self) -> str:
        """The realm in which the request id is unique."""
        return self.runtime.realm

    @property
    def subject(self) -> RuntimeKey:
        """What is written: two writes to one subject land in the order in which they came."""
        return self.runtime

    @property
    def size_bytes(self) -> int:
        """How many bytes of documents this write holds in memory."""
        return (
            sum(len(document.state_json) for document in self.inputs)
            + (self.snapshot.held_bytes if self.snapshot else 0)
            + (len(self.receipt.receipt) if self.receipt else 0)
            + (len(self.ops.snapshot_json) if self.ops else 0)
        )

    @property
    def stored_bytes(self) -> int:
        """About how many bytes of documents are written for it."""
        snapshot = self.snapshot
        return self.size_bytes - (snapshot.held_bytes - snapshot.stored_bytes if snapshot else 0)

    def fingerprint(self) -> bytes:
        """Return what makes two requests the same: every field that changes what is written or when it is refused.

        But for the fence: a writer that lost an answer and acquired the runtime anew repeats with its new one.
        """
        if self.disallowed:
            return self.disallowed.fingerprint
        partial = self.partial_inputs
        if_revision, all_sha256 = partial[::-1] if partial else (self.if_revision, sha256_of_inputs(self.inputs))
        if all_sha256 == NO_INPUTS:
            return fingerprint(b"runtime/1", *self._but_inputs(if_revision))
        return fingerprint(b"runtime/2", *self._but_inputs(if_revision), all_sha256)

    def former_fingerprint(self) -> bytes | None:
        """Return what made two requests with inputs the same before a request could carry a part of them."""
        if self.disallowed:
            return self.disallowed.former_fingerprint
        if not self.inputs or self.partial_inputs:
            return None
        documents = (part for document in self.inputs for part in (document.input_id.encode(), document.sha256))
        return fingerprint(b"runtime/1", *self._but_inputs(self.if_revision), *documents)

    def _but_inputs(self, if_revision: int | None) -> tuple[bytes, ...]:
        return (
            self.runtime.runtime_id.encode(),
            _optional_number(if_revision),
            self.snapshot.sha256 if self.snapshot else b"",
            self.receipt.sha256 if self.receipt else b"",
            (self.runtime_state or "").encode(),
            self.ops.sha256 if self.ops else b"",
        )


@dataclass(frozen=True, slots=True)
class Acquisition:
    """The wish to be the one who drives a runtime."""

    runtime: RuntimeKey
    owner: str
    request_id: str | None = None

    @property
    def realm(self) -> str:
        """The realm in which the request id is unique."""
        return self.runtime.realm

    @property
    def subject(self) -> RuntimeKey:
        """What is written: two writes to one subject land in the order in which they came."""
        return self.runtime

    @property
    def size_bytes(self) -> int:
        """How many bytes of documents this write holds in memory."""
        return 0

    @property
    def stored_bytes(self) -> int:
        """About how many bytes of documents are written for it."""
        return 0

    def fingerprint(self) -> bytes:
        """Return what makes two requests the same."""
        return fingerprint(b"acquire/1", self.runtime.runtime_id.encode(), self.owner.encode())

    def former_fingerprint(self) -> None:
        """Tell of none: there was no other."""


@dataclass(frozen=True, slots=True)
class OAuthFlowWrite:
    """One write to the OAuth flow snapshot of a realm."""

    realm: str
    request_id: str | None
    snapshot_json: bytes
    sha256: bytes
    expected_version: int | None = None
    """The version that must be there (0 = none); None replaces whatever is there."""
    disallowed: Disallowed | None = None

    def disallow(self, refusal: RuntimeStoreError) -> OAuthFlowWrite:
        """Return the same request without its bytes."""
        return OAuthFlowWrite(
            self.realm, self.request_id, b"", self.sha256, disallowed=Disallowed(refusal, self.fingerprint())
        )

    @property
    def subject(self) -> str:
        """What is written: two writes to one subject land in the order in which they came."""
        return self.realm

    @property
    def size_bytes(self) -> int:
        """How many bytes of documents this write holds in memory."""
        return len(self.snapshot_json)

    @property
    def stored_bytes(self) -> int:
        """About how many bytes of documents are written for it."""
        return len(self.snapshot_json)

    def fingerprint(self) -> bytes:
        """Return what makes two requests the same."""
        if self.disallowed:
            return self.disallowed.fingerprint
        return fingerprint(b"oauth/1", _optional_number(self.expected_version), self.sha256)

    def former_fingerprint(self) -> None:
        """Tell of none: there was no other."""


def fingerprint(version: bytes, *fields: bytes) -> bytes:
    """Return the SHA-256 of framed fields behind a version tag.

    Each field is preceded by its length, so that no two lists of fields share their bytes. Protobuf's own serialisation
    would not do: it differs between versions and languages.
    """
    digest = sha256(version)
    digest.update(b"".join([len(field).to_bytes(8, "big") + field for field in fields]))
    return digest.digest()


def sha256_of_inputs(inputs: Iterable[InputDocument]) -> bytes:
    """Return the digest that stands for all inputs of a write, as `PartialInputs.all_sha256` in the protos has it."""
    framed = (bytes.fromhex(document.input_id.replace("-", "")) + document.sha256 for document in inputs)
    return sha256(b"".join(framed)).digest()


NO_INPUTS = sha256_of_inputs(())
"""What stands for all inputs of a write where none is meant, whether it says so or not."""


def _optional_number(value: int | None) -> bytes:
    return b"" if value is None else b"%d" % value
