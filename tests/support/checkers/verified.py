"""`verify` in the test's own process, and all that it told."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runtimestore import RuntimeState
from runtimestore_server.verify import verify
from support.generators.calls import RUNTIME_WRITES, Store, id_of
from support.generators.documents import new_id, session

if TYPE_CHECKING:
    from runtimestore_server.app import Application
    from runtimestore_server.verify import Finding, Report

RUNTIME = "rt:verify"
OF = {"realm": "default", "runtime_id": RUNTIME}
SESSION_OF = {"realm": "default", "session_id": id_of(f"session of {RUNTIME}")}


@dataclass
class Told:
    """What a verification told as it went, and its report at the end."""

    findings: list[Finding] = field(default_factory=list)
    begun: dict[str, int] = field(default_factory=dict)
    advanced: dict[str, int] = field(default_factory=dict)
    report: Report | None = None
    _table: str = ""

    def begin(self, table: str, rows: int) -> None:
        self.begun[table], self._table = rows, table

    def advance(self, rows: int) -> None:
        self.advanced[self._table] = self.advanced.get(self._table, 0) + rows

    def found(self, finding: Finding) -> None:
        self.findings.append(finding)

    @property
    def rows(self) -> dict[str, int]:
        assert self.report is not None
        return self.report.rows


async def verified(app: Application, told: Told | None = None) -> Told:
    """What `verify` tells of a server's database."""
    told = told or Told()
    told.report = await asyncio.to_thread(verify, app.store.database, told)
    return told


async def fill(store: Store) -> None:
    """A sound store with rows in every table, of two runtimes that have a session each."""
    for name in (RUNTIME, "rt:neighbour"):
        for write in RUNTIME_WRITES:
            await write(store, name, "a" if name == RUNTIME else "b")
        # Each runtime has a session of its own: those writes give all of them the same.
        await store.commit_session_snapshot(name, session("text", session_id=id_of(f"session of {name}")))
        await store.commit_machine_lifecycle(name, RuntimeState.IDLE)
    await store.persist_auth_oauth_flow_snapshot(b"flow", request_id=new_id())
    for _ in range(20):  # more often than anything was written
        await store.acquire_runtime("rt:acquired", "somebody")
