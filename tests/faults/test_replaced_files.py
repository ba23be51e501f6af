"""A store whose file is removed, moved or written over under the server acknowledges nothing that would be gone."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path
from typing import ClassVar

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2

from runtimestore import StoreUnavailable
from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore.v1.runtime_store_pb2_grpc import RuntimeStoreStub
from runtimestore_server.store.schema import upgrade
from support.checkers.clean_up import until
from support.checkers.health import until_health_is
from support.checkers.refusals import refused
from support.generators.calls import Store
from support.generators.documents import new_id
from support.generators.edits import edited, grown, whole
from support.generators.turns import ONCE, Turns
from support.servers.server import ServerProcess, in_process

pytestmark = pytest.mark.usefixtures("runner")

INTERVAL_SECONDS = 0.2
ID = new_id()

LARGE = 9 * 1024 * 1024
"""Over the size after which a connection is closed and made anew, and after which a checkpoint is made."""

CHECKPOINTED = 1024 * 1024
"""More than a file has before a checkpoint brings a large session there."""

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class Blow:
    """What an operator does to a store under a server, and how it is undone."""

    undone: ClassVar[bool] = True
    keeps_the_log: ClassVar[bool] = False
    """Whether an orderly stop brings all that was acknowledged into the file all the same."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "data"
        self.folder.mkdir()
        self.file = self.folder / "store.db"
        self.other = folder / "other.db"
        self.prepare()

    def prepare(self) -> None:
        upgrade(f"sqlite:///{self.file}")
        upgrade(f"sqlite:///{self.other}")

    def strike(self) -> None:
        raise NotImplementedError

    def undo(self) -> None:
        raise NotImplementedError


class Removed(Blow):
    undone = False

    def strike(self) -> None:
        self.file.unlink()


class AllRemoved(Blow):
    undone = False

    def strike(self) -> None:
        shutil.rmtree(self.folder)


class Moved(Blow):
    def strike(self) -> None:
        self.file.rename(self.folder / "elsewhere.db")

    def undo(self) -> None:
        (self.folder / "elsewhere.db").rename(self.file)


class FolderMoved(Blow):
    def strike(self) -> None:
        self.folder.rename(self.folder.with_name("elsewhere"))

    def undo(self) -> None:
        self.folder.with_name("elsewhere").rename(self.folder)


class AnotherMovedOver(Blow):
    def strike(self) -> None:
        (self.folder / "kept.db").hardlink_to(self.file)
        self.other.replace(self.file)

    def undo(self) -> None:
        (self.folder / "kept.db").replace(self.file)


class AnotherCopiedOver(Blow):
    undone = False

    def strike(self) -> None:
        shutil.copyfile(self.other, self.file)


class OlderCopiedOver(Blow):
    undone = False

    def prepare(self) -> None:
        super().prepare()
        shutil.copyfile(self.file, self.other)

    def strike(self) -> None:
        shutil.copyfile(self.other, self.file)


class Emptied(Blow):
    undone = False

    def strike(self) -> None:
        os.truncate(self.file, 0)


class CutShort(Blow):
    undone = False

    def strike(self) -> None:
        os.truncate(self.file, self.file.stat().st_size // 2)


class Repointed(Blow):
    def prepare(self) -> None:
        super().prepare()
        self._point(self.file.rename(self.folder / "real.db"))

    def strike(self) -> None:
        self._point(self.other)

    def undo(self) -> None:
        self._point(self.folder / "real.db")

    def _point(self, at: Path) -> None:
        link = self.folder / "link"
        link.symlink_to(at)
        link.replace(self.file)


class LogRemoved(Blow):
    undone = False
    keeps_the_log = True

    def strike(self) -> None:
        Path(f"{self.file}-wal").unlink()


class LogCut(Blow):
    undone = False

    def strike(self) -> None:
        os.truncate(f"{self.file}-wal", 0)


class IndexRemoved(Blow):
    undone = False
    keeps_the_log = True

    def strike(self) -> None:
        Path(f"{self.file}-shm").unlink()


class Restored(Blow):
    """As the commands of many a manual have it, beside the server that nobody stopped."""

    undone = False

    def strike(self) -> None:
        for file in self.folder.iterdir():
            file.unlink()
        shutil.copyfile(self.other, self.file)


BLOWS = (
    Removed,
    AllRemoved,
    Moved,
    FolderMoved,
    AnotherMovedOver,
    AnotherCopiedOver,
    OlderCopiedOver,
    Emptied,
    CutShort,
    Repointed,
    LogRemoved,
    LogCut,
    IndexRemoved,
    Restored,
)


@pytest.mark.parametrize("kind", BLOWS, ids=lambda kind: kind.__name__)
async def test_what_is_acknowledged_is_in_the_file_that_the_path_names(tmp_path: Path, kind: type[Blow]) -> None:
    blow = kind(tmp_path)
    url = f"sqlite:///{blow.file}"
    small, large = Turns("rt:small"), Turns("rt:large", size_bytes=LARGE)
    with ServerProcess(url, health_interval_seconds=INTERVAL_SECONDS) as server:
        async with Store(server.address, retry=ONCE) as store:
            for _ in range(2):
                assert await small.take(store)
                assert await large.take(store)
            # What is copied over it is told by what a checkpoint wrote: the server has looked at the file since.
            await until(lambda: blow.file.stat().st_size > CHECKPOINTED)
            assert await small.take(store)
            stop = asyncio.Event()
            busy = [Turns(f"rt:busy-{number}") for number in range(4)]
            running = [asyncio.create_task(writer.go_on(store, stop)) for writer in busy]
            await asyncio.sleep(0.1)
            await asyncio.to_thread(blow.strike)
            for _ in range(2):  # from here on, while the others go on
                assert not await small.take(store)
                assert not await large.take(store)
                with pytest.raises(StoreUnavailable, match=r"removed, moved or written over.*restart the server"):
                    await store.load_session_snapshot("rt:large")
            await until_health_is(server.address, NOT_SERVING)
            stop.set()
            await asyncio.gather(*running)
            assert set(small.refusals) | set(large.refusals) == {"STORE_UNAVAILABLE"}
            # What was on its way to the file when it went is not known to be there.
            assert set().union(*(writer.refusals for writer in busy)) <= {"STORE_UNAVAILABLE", "COMMIT_OUTCOME_UNKNOWN"}
            assert "the file was replaced while it was open" in server.log
            writers = (small, large, *busy)
            if kind.undone:
                blow.undo()
                await until_health_is(server.address, SERVING)
                for writer in writers:
                    await writer.check(store)
                    assert await writer.take(store)
                server.kill()
    if not kind.undone and not kind.keeps_the_log:
        return
    with ServerProcess(url) as server:
        async with Store(server.address, retry=ONCE) as store:
            for writer in writers:
                await writer.check(store)


async def test_a_session_that_cannot_be_written_is_refused_alike_in_either_form(tmp_path: Path) -> None:
    file, runtime_id = tmp_path / "store.db", "rt:session:1"
    upgrade(f"sqlite:///{file}")
    base, result = grown(1), grown(2)
    async with in_process(f"sqlite:///{file}") as app, grpc.aio.insecure_channel(app.address) as channel:
        wire = RuntimeStoreStub(channel)
        for body in (grown(3), base):
            request = pb.CommitSessionSnapshotRequest(runtime_id=runtime_id, session_delta=whole(body))
            await wire.CommitSessionSnapshot(request)
        file.rename(tmp_path / "elsewhere.db")

        told = []
        # The base of the last one is not remembered, and cannot be read.
        for delta in (whole(result), edited(base, result), edited(grown(3), result)):
            request = pb.CommitSessionSnapshotRequest(runtime_id=runtime_id, session_delta=delta)
            found = await refused(wire.CommitSessionSnapshot(request))
            told.append((found.reason, found.store_error, found.message))
        assert {answer[:2] for answer in told} == {("STORE_UNAVAILABLE", "write_failed")}
        assert len(set(told)) == 1
