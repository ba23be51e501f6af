"""More load than a server can take, as a process of its own. Nothing is retried: what is refused is lost.

`python -m support.faults.flood ADDRESS AT_ONCE BYTES PATIENCE` runs until its standard input ends,
and then prints what it was answered as one JSON object.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import uuid
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import grpc
import grpc.aio

from runtimestore.v1 import runtime_store_pb2 as pb
from support.checkers.refusals import WireRefusal, details
from support.generators.documents import input_state, session

if TYPE_CHECKING:
    from types import TracebackType

STOP_SECONDS = 60


class Flood:
    """So many callers at once against a server, from another process, for as long as the context lasts.

    Each sends its next write when it has the answer to the last; after a refusal at once, or, if `patient`, when the
    refusal says.
    """

    def __init__(self, address: str, *, at_once: int, snapshot_bytes: int, patient: bool = False) -> None:
        self._arguments = [address, str(at_once), str(snapshot_bytes), str(int(patient))]
        self._process: subprocess.Popen[str]
        self.answers: Counter[str] = Counter()
        """What was answered, and how often, once the context was left."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.faults.flood", *self._arguments],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            found, _ = self._process.communicate("", STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise
        if kind is None:
            self.answers.update(json.loads(found))


async def _flood(address: str, at_once: int, snapshot_bytes: int, *, patient: bool) -> Counter[str]:
    answers: Counter[str] = Counter()
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        call: Any = channel.unary_unary("/runtimestore.v1.RuntimeStore/AtomicApply")
        body = _body(snapshot_bytes)
        callers = [
            asyncio.create_task(_caller(call, number, body, answers, patient=patient)) for number in range(at_once)
        ]
        await asyncio.to_thread(sys.stdin.read)
        for caller in callers:
            caller.cancel()
        await asyncio.wait(callers)
        for caller in callers:
            with contextlib.suppress(asyncio.CancelledError):
                caller.result()
    return answers


def _body(snapshot_bytes: int) -> bytes:
    state = input_state()
    document = session("x" * snapshot_bytes)
    return pb.AtomicApplyRequest(
        session_delta=pb.SessionDelta(session_snapshot=document),
        input_updates=[pb.StoredInputState(input_id=state.input_id, state_json=state.state_json)],
    ).SerializeToString()


async def _caller(call: Any, number: int, body: bytes, answers: Counter[str], *, patient: bool) -> None:
    runtime_id = f"rt:flood:{uuid.uuid4()}:{number}"
    while True:
        # Messages put behind each other are one message: only what changes is made anew.
        boundary = pb.RunBoundaryReceipt(run_id=str(uuid.uuid4()), boundary=pb.RUN_APPLY_BOUNDARY_RUN_START)
        fresh = pb.AtomicApplyRequest(runtime_id=runtime_id, request_id=str(uuid.uuid4()), receipt=boundary)
        try:
            await call(body + fresh.SerializeToString(), timeout=120)
        except grpc.aio.AioRpcError as error:
            refusal = details(error)
            answers[_told(refusal)] += 1
            if patient:
                await asyncio.sleep(refusal.retry_delay_seconds or 0)
        else:
            answers["OK"] += 1


def _told(refusal: WireRefusal) -> str:
    retry = "retry" if refusal.retry_delay_seconds else "no retry"
    counts = ",".join(sorted(name for name in refusal.metadata if name not in {"request_id", "store_error"}))
    return f"{refusal.code.name} {refusal.reason} {retry} {counts}"


if __name__ == "__main__":
    address, at_once, snapshot_bytes, patient = sys.argv[1], *map(int, sys.argv[2:])
    found = asyncio.run(_flood(address, at_once, snapshot_bytes, patient=bool(patient)))
    print(json.dumps(found))  # noqa: T201  (its answer)
