"""Strangers of many hosts, who ask for health and do not say what they ask, keep no other host waiting for long."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from runtimestore_server.rpc import admission, upload_slots
from support.checkers.clean_up import until
from support.faults.http2 import call_headers, frame, preface
from support.faults.uploads import WAIT_SECONDS, connections
from support.servers.access import access_file, entry, new_token
from support.servers.server import in_process

if TYPE_CHECKING:
    from pathlib import Path

    import grpc.aio

CHECK = "/grpc.health.v1.Health/Check"
HOSTS = [f"127.0.0.{number}" for number in range(2, 22)]
HEADERS, END_HEADERS = 1, 4


@pytest.mark.parametrize("goes", [True, False], ids=["who has a place goes", "who has a place keeps it"])
async def test_hosts_that_kept_places_without_a_message_have_their_turns_after_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, goes: bool
) -> None:
    for patience in ("PATIENCE", "LONGEST"):
        monkeypatch.setattr(admission, f"OTHERS_{patience}_SECONDS", 0.02)
    path = access_file(tmp_path / "access.toml", [entry("agents", new_token())])
    async with in_process("memory:", access_file=path) as app, contextlib.AsyncExitStack() as stack:
        slots = app.limiters.strangers.slots
        writers = {f"ipv4:{own}": await asking(app.address, own, stack) for own in HOSTS}
        await until(lambda: len(slots._late_until) == len(HOSTS) - admission.STRANGERS)
        slots._patience_seconds = 0.0
        for host in list(slots._held):  # these keep nobody waiting, and are late when they go
            writers.pop(host).close()
        await until(lambda: len(slots._late_until) == len(HOSTS))
        slots._longest_seconds = 1000.0
        slots._patience_seconds = 1000.0 if goes else 0.02
        for writer in writers.values():
            writer.write(frame(HEADERS, END_HEADERS, 3, call_headers(app.address, CHECK.encode())))
        await until(lambda: slots.waiting + slots.received == len(writers))
        async with connections(app.address, 1) as (channel,):
            check: Any = channel.unary_unary(CHECK)
            asked = asyncio.ensure_future(_answered(check(b"", timeout=WAIT_SECONDS)))
            if goes:
                await until(lambda: slots.waiting + slots.received == len(writers) + 1)
                writers[next(iter(slots._held))].close()
            await asked
        assert slots.waiting >= len(writers) - admission.STRANGERS - 1  # who came before waits still


async def asking(address: str, own: str, stack: contextlib.AsyncExitStack) -> asyncio.StreamWriter:
    """A connection from one of this machine's addresses on which a check of health is begun, whose message is not."""
    host, _, port = address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port), local_addr=(own, 0))
    stack.callback(writer.close)
    writer.write(preface() + frame(HEADERS, END_HEADERS, 1, call_headers(address, CHECK.encode())))
    return writer


async def _answered(call: grpc.aio.UnaryUnaryCall[Any, Any]) -> None:
    await call


async def test_no_more_than_so_many_hosts_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload_slots, "MOST_LATE", 3)
    async with in_process("memory:") as app:
        slots = app.limiters.strangers.slots
        for host in ("a", "b", "c", "a", "d"):
            slots._note_late(host)
        assert [slots._was_late(host) for host in "abcd"] == [True, False, True, True]
        slots._late_seconds = 0.0
        slots._note_late("a")
        assert not slots._was_late("a")
