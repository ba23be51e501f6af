"""How log lines look: one an event, the same for all who log, and none that cannot be written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
from typing import TYPE_CHECKING, Any

import pytest

from runtimestore import InvalidRequest, RetryPolicy, RuntimeStoreClient
from runtimestore_server import log_writer
from runtimestore_server.log_writer import LogWriter
from support.servers.server_process import ServerProcess, environment_with

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ONCE = RetryPolicy(max_attempts=1)
SECONDS = 10.0


def _logged(program: str, *, style: str = "text", code: int = 0) -> list[str]:
    """The lines on standard error of a program, within which `logs` are configured and `log` is a logger."""
    prepared = textwrap.dedent(f"""
        import asyncio, gc, logging, sys, threading, warnings
        import structlog
        from runtimestore_server import logs
        logs.configure(level="info", style="{style}")
        log = structlog.get_logger("here")
    """)
    done = subprocess.run(
        [sys.executable, "-c", f"{prepared}\n{textwrap.dedent(program)}\nlogs.flush()"],
        env=environment_with({}), stderr=subprocess.PIPE, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done.stderr.splitlines()


LIBRARIES = """
    logging.getLogger("grpc._cython.cygrpc").error("gRPC said %s", "this")
    try:
        raise ValueError("of asyncio's")
    except ValueError:
        logging.getLogger("asyncio").exception("asyncio said this")
    logging.getLogger("psycopg").warning("arguments that do not fit %d", "x")
    warnings.warn("take care")

    class Failing:
        def __del__(self):
            raise ValueError("cannot be raised")

    Failing()
    def fail():
        raise ValueError("in a thread")
    thread = threading.Thread(target=fail, name="mine")
    thread.start()
    thread.join()
    raise ValueError("nobody caught it")
"""


def test_lines_of_libraries_and_of_errors_that_nobody_caught_are_json_as_well() -> None:
    lines: list[dict[str, Any]] = [json.loads(line) for line in _logged(LIBRARIES, style="json", code=1)]

    assert all({"event", "level", "timestamp"} <= line.keys() for line in lines)
    told = [line["event"] + " " + line.get("exception", "") for line in lines]
    for position, part in enumerate(
        (
            "gRPC said this",
            "of asyncio's",
            "do not fit",
            "take care",
            "cannot be raised",
            "in a thread",
            "nobody caught",
        )
    ):
        assert part in told[position]
    assert [line["logger"] for line in lines[:3]] == ["grpc._cython.cygrpc", "asyncio", "psycopg"]


def test_each_event_is_one_line_of_text_whatever_is_in_it() -> None:
    lines = _logged(LIBRARIES, code=1)
    assert len(lines) == 7
    assert all(line[:2] == "20" for line in lines)

    (line,) = _logged(r"""log.info("a\nb", path="no \udcff UTF-8", value="c\r\nd\x1b[31m", long="x" * 100_000)""")

    assert "a\\nb" in line
    assert "\\udcff" in line
    assert "c\\r\\nd\\x1b[31m" in line
    assert len(line) < 10_000


def test_a_value_that_cannot_be_shown_takes_no_other_line_along() -> None:
    lines = _logged("""
        class Unshowable:
            def __repr__(self):
                raise ValueError
        log.info("before")
        log.info("it", value=Unshowable())
        log.info("after")
    """)

    assert [line.rpartition(" ")[2] for line in lines] == ["before", "?", "after"]


def test_a_refusals_line_tells_realm_runtime_field_and_peer(tmp_path: Path) -> None:
    del tmp_path
    with ServerProcess("memory:", log_format="json") as server:
        with RuntimeStoreClient(server.address, realm="there", retry=ONCE) as client:
            with pytest.raises(InvalidRequest):
                client.load_boundary_receipt("rt:one", "no uuid", 0)
            with pytest.raises(InvalidRequest):
                client.load_runtime_state("x" * 10_000)
        server.wait_for("LoadRuntimeState")
    one, other = (line for line in map(json.loads, server.lines) if line["event"] == "refused")

    assert one["method"] == "/runtimestore.v1.RuntimeStore/LoadBoundaryReceipt"
    assert (one["realm"], one["runtime"], one["field"]) == ("there", "rt:one", "run_id")
    assert one["peer"].startswith("ipv4:127.0.0.1:")
    assert one["reason"] == "INVALID_REQUEST"
    assert other["field"] == "runtime_id"
    assert len(other["runtime"]) < 1000


@pytest.mark.parametrize("given", ["DEBUG", "Debug"])
def test_a_log_level_is_taken_in_any_case(given: str) -> None:
    with ServerProcess("memory:", log_level=given) as server, RuntimeStoreClient(server.address) as client:
        client.load_runtime_state("rt:one")
        server.wait_for("served")
    with ServerProcess("memory:", arguments=("--log-level", given)) as server:
        assert server.address


def _line(event: Mapping[str, Any]) -> str:
    return str(event["event"])


def _lost(count: int) -> Mapping[str, Any]:
    return {"event": f"lost {count}"}


def test_every_event_is_written_or_counted_as_lost_and_each_loss_is_told_once() -> None:
    reader, writing = os.pipe()
    writer = LogWriter(writing, line=_line, lost=_lost)
    os.close(writing)
    put = 0

    def put_many() -> None:
        for _ in range(5000):
            writer.put({"event": "x" * 99})

    threads = [threading.Thread(target=put_many) for _ in range(4)]
    for thread in threads:
        thread.start()
        put += 5000
    for thread in threads:
        thread.join()  # though nobody reads
    assert not writer.flush(within_seconds=0.05)
    found = bytearray()
    reading = threading.Thread(target=lambda: found.extend(_until_lost_is_told(reader)))
    reading.start()
    assert writer.flush(within_seconds=SECONDS)
    writer.put({"event": "again"})
    reading.join(SECONDS)

    lines = found.decode().splitlines()
    lost = sum(int(line.split()[1]) for line in lines if line.startswith("lost"))
    assert lost > 0  # some may have been told before the pipe was full
    assert lines.count("x" * 99) + lost == put
    assert writer.lost == 0
    os.close(reader)


def _until_lost_is_told(reader: int) -> bytes:
    found = b""
    while not (b"lost" in found and found.endswith(b"again\n")):
        found += os.read(reader, 65536)
    return found


def test_a_line_that_was_cut_by_a_full_disk_is_ended_before_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = os.open(tmp_path / "log", os.O_CREAT | os.O_WRONLY)
    writer = LogWriter(file, line=_line, lost=_lost)
    real, room = os.write, [3, 0]

    def write(descriptor: int, content: bytes) -> int:
        if not room:
            return real(descriptor, content)
        if not (taken := room.pop(0)):
            raise OSError(28, "No space left on device")
        return real(descriptor, content[:taken])

    monkeypatch.setattr(os, "write", write)
    writer.put({"event": "first line"})
    assert writer.flush(within_seconds=SECONDS)
    assert writer.lost == 1
    writer.put({"event": "second line"})
    assert writer.flush(within_seconds=SECONDS)

    assert (tmp_path / "log").read_text() == "fir\nlost 1\nsecond line\n"
    os.close(file)


def test_what_was_lost_is_told_though_nothing_else_is_to_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_writer, "TRY_SECONDS", 0.05)
    full = os.open("/dev/full", os.O_WRONLY)
    writer = LogWriter(full, line=_line, lost=_lost)
    writer.put({"event": "x"})
    assert writer.flush(within_seconds=SECONDS)
    assert writer.lost == 1
    file = os.open(tmp_path / "log", os.O_CREAT | os.O_WRONLY)
    os.dup2(file, writer._descriptor)

    deadline = threading.Event()
    for _ in range(200):
        if not writer.lost:
            break
        deadline.wait(0.05)

    assert (tmp_path / "log").read_text() == "lost 1\n"
    os.close(full)
    os.close(file)


class _Unforeseen(BaseException):
    """Not even an `Exception`."""


@pytest.mark.parametrize("step", ["get", "get_nowait", "line"])
def test_whatever_fails_in_the_writer_the_lines_after_it_are_written_and_those_before_are_counted(step: str) -> None:
    reading, writing = os.pipe()
    failures = [_Unforeseen(), MemoryError(), _Unforeseen()]

    def failing(real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            found = real(*args, **kwargs)
            if failures:
                raise failures.pop()
            return found

        return call

    writer = LogWriter(writing, line=failing(_line) if step == "line" else _line, lost=_lost)

    class Queue:
        """The writer's queue, of which one method fails after it has taken something out."""

        def __init__(self, real: Any) -> None:
            self.real = real

        def __getattr__(self, name: str) -> Any:
            return failing(getattr(self.real, name)) if name == step else getattr(self.real, name)

    writer._queue = Queue(writer._queue)  # type: ignore[assignment]  # as much of it as the writer uses
    writer.put({"event": "which the thread waits for with the queue that it had"})
    for number in range(40):
        writer.put({"event": str(number)})
        writer.flush(within_seconds=SECONDS / 40)
    writer.put({"event": "the last"})

    assert writer.flush(within_seconds=SECONDS)
    written = os.read(reading, 65536).decode()
    os.close(reading)
    os.close(writing)
    assert not failures
    assert "the last" in written
