"""No method takes a message that is larger than its requests can be: not from strangers, and not from anybody else."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest

from runtimestore_server.access.methods import TABLE
from runtimestore_server.rpc.admission import WRITES
from runtimestore_server.rpc.small_messages import LOOK_SECONDS, MOST_BYTES, MOST_GROWTH_BYTES, LateMessages
from support.checkers.clean_up import until
from support.checkers.footprint import most_resident_bytes
from support.checkers.refusals import refused
from support.faults.uploads import WAIT_SECONDS, stalled
from support.generators.garbage import SERVICE
from support.generators.requests import request_of
from support.servers.access import access_file, bearer, entry, new_token
from support.servers.server import ServerProcess, in_process

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1024 * 1024
CHECK = "/grpc.health.v1.Health/Check"
LOAD = f"{SERVICE}LoadRuntimeState"
HEALTH = {path for path in TABLE if path.startswith("/grpc.health.")}
OPEN_TO_ALL = {CHECK, "/grpc.health.v1.Health/Watch"}
NOTHING_LARGER = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]


def _sent(channel: Any, path: str, message: bytes, token: str | None = None) -> Any:
    metadata = bearer(token) if token else None
    return channel.unary_stream(path)(message, metadata=metadata, timeout=WAIT_SECONDS)


@pytest.mark.parametrize(
    ("method", "reasons"),
    [(CHECK, {"INVALID_REQUEST"}), (LOAD, {"INVALID_REQUEST", "OVERLOADED"})],
    ids=["a stranger's, to health", "a reader's"],
)
async def test_the_largest_messages_to_what_needs_small_ones_fill_nothing(
    tmp_path: Path, method: str, reasons: set[str]
) -> None:
    path = access_file(tmp_path / "access.toml", [entry("reader", token := new_token(), access="read")])
    shown: Any = {"metadata": bearer(token) if method == LOAD else None, "timeout": WAIT_SECONDS}
    small, large = request_of("LoadRuntimeState").SerializeToString() if method == LOAD else b"", bytes(120 * MIB)
    with ServerProcess("memory:", access_file=str(path)) as server:
        async with grpc.aio.insecure_channel(server.address, NOTHING_LARGER) as channel:
            call: Any = channel.unary_unary(method)
            await call(small, **shown)
            before = most_resident_bytes(server.pid)
            answers = await asyncio.gather(*(refused(call(large, **shown)) for _ in range(3)))
            grown = most_resident_bytes(server.pid) - before
            assert {one.reason for one in answers} <= reasons
            await call(small, **shown)
    assert grown < 100 * MIB  # with one whole message, and what is made of it, it is 240 MiB and more


async def test_what_is_too_large_for_a_method_is_refused_from_strangers_and_from_principals(tmp_path: Path) -> None:
    file = access_file(tmp_path / "access.toml", [entry("operator", token := new_token(), access="admin")])
    large = bytes(MOST_BYTES + 1)
    async with in_process("memory:", access_file=file) as app, grpc.aio.insecure_channel(app.address) as channel:
        for path in sorted(TABLE):
            of_stranger = await refused(_sent(channel, path, large))
            of_principal = await refused(_sent(channel, path, large, token))
            assert of_stranger.reason == ("INVALID_REQUEST" if path in OPEN_TO_ALL else "UNAUTHENTICATED"), path
            assert of_principal.reason == "INVALID_REQUEST", path
            if path not in WRITES:  # which take documents
                assert of_principal.metadata["limit_bytes"] == str(MOST_BYTES), path


async def test_a_small_message_that_is_late_is_waited_for_while_nothing_grows() -> None:
    async with in_process("memory:") as app, grpc.aio.insecure_channel(app.address) as channel:
        call: Any = stalled(channel, CHECK)
        await until(lambda: app.limiters.others.slots.received == 1)
        await asyncio.sleep(5 * LOOK_SECONDS)
        await call.write(b"")
        assert await asyncio.wait_for(call, WAIT_SECONDS)


async def test_who_is_late_while_the_process_grows_is_given_up_and_nobody_else() -> None:
    more = MOST_GROWTH_BYTES + 1
    sizes = iter([0, more, more, MOST_GROWTH_BYTES, MOST_GROWTH_BYTES, more])
    given_up: list[Any] = []
    before_each_look: list[int] = []

    def resident_bytes() -> int:
        before_each_look.append(len(given_up))
        return next(sizes)

    class Slots:
        def give_up(self, call: Any, error: Exception) -> None:
            given_up.append((call, error))

    slots: Any = Slots()
    late = LateMessages(looks=4, resident_bytes=resident_bytes)
    there, waits = (asyncio.ensure_future(asyncio.sleep(0)) for _ in range(2))
    late.begin(there, slots)
    late.begin(waits, slots)
    late.end(there)
    await until(lambda: bool(given_up))

    # Not at the second and the third, when it might be there and not be seen yet; nor where nothing grew.
    assert before_each_look == [0] * 6
    assert [call for call, _ in given_up] == [waits]
    await asyncio.gather(there, waits)
