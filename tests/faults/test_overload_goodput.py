"""Under many times the load that it can take, a server refuses the rest in words and goes on with what it took in."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore_server.rpc.server import WINDOW_BYTES
from support.checkers.clean_up import until
from support.checkers.footprint import PeakMemory, pid_of
from support.checkers.refusals import details, is_refusal, refused
from support.faults.flood import Flood
from support.generators.calls import Store, input_of
from support.generators.documents import session
from support.generators.garbage import SERVICE
from support.generators.requests import WRITES, request_of
from support.servers.database import held_commits
from support.servers.engines import DURABLE
from support.servers.server_process import ServerProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from runtimestore_server.app import Application
    from support.checkers.torture import Trial

MIB = 1024 * 1024
WAITING_WRITES = 32
CAN_TAKE = 24
"""So many callers at once, who wait for their answers, keep a server busy and never meet its bound."""
TEN_TIMES = 320
SNAPSHOT_BYTES = 4_000
WINDOW_SECONDS = 1.0
"""How long is measured, where a ratio is promised of it."""
GOODPUT = 0.8
"""What part of the peak is still written under ten times the load, if callers come back when they are told."""
TRY_LATER = "RESOURCE_EXHAUSTED OVERLOADED retry"
OVERLOADED = f"{TRY_LATER} waiting_writes"


class Window(NamedTuple):
    """What a server did under one load."""

    writes_per_second: float
    written: int
    answers: dict[str, int]
    most_bytes: int


async def _window(server: ServerProcess, store: Store, *, at_once: int, patient: bool, seconds: float) -> Window:
    pid = pid_of(server)
    first = (await store.get_server_info()).commits.writes
    with (
        PeakMemory(pid) as memory,
        Flood(server.address, at_once=at_once, snapshot_bytes=SNAPSHOT_BYTES, patient=patient) as flood,
    ):
        await _written(store, 2 * WAITING_WRITES)
        await asyncio.sleep(seconds / 3)
        began, before = time.monotonic(), (await store.get_server_info()).commits.writes
        await asyncio.sleep(seconds)
        await _is_serving(server.address)
        after, ended = (await store.get_server_info()).commits.writes, time.monotonic()
    last = (await store.get_server_info()).commits.writes
    return Window((after - before) / (ended - began), last - first, dict(flood.answers), memory.peak_bytes)


async def _written(store: Store, count: int) -> None:
    """Wait until so many more writes are there."""
    first = (await store.get_server_info()).commits.writes
    while (await store.get_server_info()).commits.writes < first + count:  # noqa: ASYNC110  (another process writes)
        await asyncio.sleep(0.02)


async def _is_serving(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "runtimestore.v1.RuntimeStore"):
            found = await health.Check(health_pb2.HealthCheckRequest(service=service), timeout=60)
            assert found.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.slow
@pytest.mark.needs(DURABLE)
async def test_ten_times_the_load_is_refused_in_words_in_bounded_memory_and_the_rest_is_written(
    fresh_url: str, trial: Trial
) -> None:
    with ServerProcess(fresh_url, max_waiting_writes=WAITING_WRITES) as server:
        async with Store(server.address) as store:
            assert (await store.get_server_info()).limits.max_waiting_writes == WAITING_WRITES
            seconds = WINDOW_SECONDS if trial.long else WINDOW_SECONDS / 5
            for patient in (True, False) if trial.long else (False,):
                peaks: list[Window] = []
                overloads: list[Window] = []
                for _ in range(trial.rounds(short=1, long=3)):
                    for found, at_once in ((peaks, CAN_TAKE), (overloads, TEN_TIMES)):
                        found.append(await _window(server, store, at_once=at_once, patient=patient, seconds=seconds))
                _record(trial, "patient" if patient else "impatient", peaks, overloads)
                _judge(peaks, overloads)
                if patient:
                    assert _ratio(peaks, overloads) >= GOODPUT


def _judge(peaks: list[Window], overloads: list[Window]) -> None:
    for found in peaks:
        assert set(found.answers) == {"OK"}
    for found in overloads:
        assert set(found.answers) == {"OK", OVERLOADED}
        # Each answer was true; what was taken in when its caller left is written all the same.
        assert found.answers["OK"] <= found.written <= found.answers["OK"] + TEN_TIMES
        assert found.most_bytes <= peaks[0].most_bytes + 64 * MIB + TEN_TIMES * 8 * SNAPSHOT_BYTES


def _ratio(peaks: list[Window], overloads: list[Window]) -> float:
    """Medians of windows that took turns: callers and server share their cores with whatever else runs there."""
    peak = statistics.median(found.writes_per_second for found in peaks)
    return statistics.median(found.writes_per_second for found in overloads) / peak


def _record(trial: Trial, name: str, peaks: list[Window], overloads: list[Window]) -> None:
    """The figures. Callers who come back at once, whatever they are told, use the server up: no ratio is promised."""
    peak = statistics.median(found.writes_per_second for found in peaks)
    goodput = statistics.median(found.writes_per_second for found in overloads)
    trial.record(
        **{
            f"{name}: peak, writes a second": round(peak),
            f"{name}: under ten times the load": round(goodput),
            f"{name}: ratio": round(_ratio(peaks, overloads), 2),
            f"{name}: refusals": sum(found.answers[OVERLOADED] for found in overloads),
            f"{name}: most MiB": max(found.most_bytes for found in overloads) // MIB,
        }
    )


@pytest.mark.slow
@pytest.mark.needs(DURABLE)
async def test_documents_of_64_mib_that_find_no_room_are_refused_in_bounded_memory(
    fresh_url: str, trial: Trial
) -> None:
    at_once = trial.rounds(short=2, long=8)
    document_bytes = 64 * MIB
    with ServerProcess(fresh_url, max_waiting_bytes=document_bytes) as server:
        async with Store(server.address, timeout_seconds=120) as store:
            limits = (await store.get_server_info()).limits
            with (
                PeakMemory(pid_of(server)) as memory,
                Flood(server.address, at_once=at_once, snapshot_bytes=document_bytes, patient=True) as flood,
            ):
                await _written(store, trial.rounds(short=1, long=8))
                await _is_serving(server.address)
    refusals = flood.answers - Counter(OK=flood.answers["OK"])
    trial.record(written=flood.answers["OK"], refused=refusals.total())
    trial.record(idle_mib=memory.first_bytes // MIB, most_mib=memory.peak_bytes // MIB)
    assert set(refusals) <= {f"{TRY_LATER} waiting_bytes"}
    # A call that is being received or parsed holds its document several times, and so does what is written. What was
    # refused stays nowhere, however long it goes on.
    in_flight_bytes = at_once * document_bytes + limits.max_waiting_bytes
    assert memory.peak_bytes <= memory.first_bytes + 5 * in_flight_bytes


@pytest.mark.slow
@pytest.mark.needs(DURABLE)
async def test_many_large_documents_that_come_at_once_are_received_a_few_at_a_time(
    fresh_url: str, trial: Trial
) -> None:
    at_once, document_bytes = trial.rounds(short=80, long=400), 5 * MIB
    delta = pb.SessionDelta(session_snapshot=session("x" * (document_bytes - 1000)))
    with ServerProcess(
        fresh_url,
        environment={"MALLOC_ARENA_MAX": "2"},
        max_receiving_writes=4,
        max_waiting_bytes=2 * document_bytes,
    ) as server:
        connections: list[Any] = [
            grpc.aio.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) for _ in range(4)
        ]
        try:
            with PeakMemory(pid_of(server)) as memory:
                calls = [
                    connections[number % len(connections)].unary_unary(f"{SERVICE}CommitSessionSnapshot")(
                        request_of(
                            "CommitSessionSnapshot", runtime_id=str(number), session_delta=delta
                        ).SerializeToString(),
                        timeout=120,
                    )
                    for number in range(at_once)
                ]
                answers = Counter([await _answer(call) for call in calls])
        finally:
            for connection in connections:
                await connection.close()
    trial.record(at_once=at_once, written=answers["OK"], refused=answers.total() - answers["OK"])
    trial.record(sent_mib=at_once * document_bytes // MIB, idle_mib=memory.first_bytes // MIB)
    trial.record(most_mib=memory.peak_bytes // MIB)
    assert set(answers) <= {"OK", "OVERLOADED"}
    # Being received, waiting to be checked, waiting for its transaction; each of them there several times for a moment,
    # and once more in an allocator that keeps what it had.
    held_bytes = (4 + 2 * 2) * document_bytes
    assert memory.peak_bytes <= memory.first_bytes + 7 * held_bytes + at_once * WINDOW_BYTES


async def _answer(call: Any) -> str:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return details(error).reason
    return "OK"


async def test_a_write_that_finds_no_room_is_refused_before_its_message_is_received(
    serve: Callable[..., AbstractAsyncContextManager[Application]], runtime_id: str
) -> None:
    over = asyncio.Event()

    async def never() -> AsyncIterator[bytes]:
        await over.wait()
        if not over.is_set():
            yield b""

    async with (
        serve(max_waiting_writes=1) as app,
        Store(app.address) as store,
        grpc.aio.insecure_channel(app.address) as opened,
    ):
        channel: Any = opened  # typed for messages; these calls send none
        with held_commits(app) as go_on:
            waiting = asyncio.create_task(store.persist_input_state(runtime_id, input_of("a")))
            await until(lambda: app.store._committer.waiting_writes == 1)

            for method in WRITES:
                found = await refused(channel.stream_unary(f"{SERVICE}{method}")(never(), timeout=60))
                is_refusal(found, grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", "internal")
                assert found.metadata["waiting_writes"] == "1"
                assert found.retry_delay_seconds
            over.set()
            go_on.set()
            assert (await waiting).revision == 1
