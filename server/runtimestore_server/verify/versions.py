"""Checks the versions of sessions, one after the other: each must come to its digest."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from runtimestore_server.store.tables import BASE, session_versions
from runtimestore_server.store.values import RuntimeKey
from runtimestore_server.store.versions import edits
from runtimestore_server.store.versions.chains import StoredVersion, step
from runtimestore_server.store.versions.packing import unpacked
from runtimestore_server.store.versions.rows import Version, damage_of, sequence_of
from runtimestore_server.verify.rows import finding, session_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtimestore_server.verify.findings import Finding
    from runtimestore_server.verify.rows import Row

_TABLE = session_versions


class Chains:
    """Goes through versions in the order of their key, as the check of their table; one document is in memory."""

    def __init__(self) -> None:
        self._runtime: RuntimeKey | None = None
        self._before: object = None
        """The revision of the version before; None at the first one of a runtime."""
        self._document: bytearray | None = None
        """What the rows of a runtime have come to so far; None where no base was there to begin with."""

    @property
    def document(self) -> bytes:
        """The document of the version that was checked last, if nothing was wrong with it."""
        return bytes(self._document or b"")

    def __call__(self, row: Row) -> Iterator[Finding]:
        """Check one version, which comes after those before it."""
        runtime = RuntimeKey(row["realm"], row["runtime_id"])
        if runtime != self._runtime:
            self._runtime, self._before, self._document = runtime, None, None
        elif row["previous_revision"] not in (0, self._before):
            yield finding("version_missing", _TABLE, row, "the version before it is not the one that it names")
        self._before = row["revision"]
        version = version_in(row)
        if problem := self._advance(StoredVersion(version, row["seal"], row["body"])):
            yield finding("digest_mismatch", _TABLE, row, problem)
            return
        session = session_of(self.document)
        if session is None:
            yield finding("document_invalid", _TABLE, row, "it is no session document, though its SHA-256 is right")
        elif session.session_id != row["session_id"]:
            yield finding("column_mismatch", _TABLE, row, "session_id is not the id of the document")
        elif version.size_bytes != len(self._document or b""):
            yield finding("column_mismatch", _TABLE, row, "size_bytes is not the size of the document")
        elif damage_of(runtime, version, row["seal"]):
            yield finding("column_mismatch", _TABLE, row, "a column is not as it was written: its seal does not match")

    def _advance(self, row: StoredVersion) -> str | None:
        """Come to the version of a row; what is wrong with it, if it is not as it was written."""
        if row.version.kind == BASE:
            try:
                self._document = bytearray(unpacked(row.body, row.version.size_bytes))
            except edits.Undecodable:
                self._document = None
        elif self._document is not None:
            try:
                step(self._document, row)
            except edits.Undecodable:
                self._document = None
                return "body cannot be applied to the version before it"
        if self._document is None:
            return "there is nothing sound that it rests on"
        if sha256(self._document).digest() != row.version.sha256:
            return "what it comes to does not match its SHA-256"
        return None


def version_in(row: Row) -> Version:
    """Return the version of a session in a row as the driver hands it out."""
    version = Version(*(row[name] for name in Version._fields))
    return version._replace(sequence=sequence_of(version.sequence))
