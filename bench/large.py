"""One large commit, sent and measured from a process of its own: what it takes and how much memory it needs.

Run by the benchmark as `python -m bench.large …`; writes one JSON object to standard output.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import uuid
from dataclasses import asdict, dataclass

import grpc

from bench import connecting, usage
from bench.requests import session_document
from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore.v1 import runtime_store_pb2_grpc as pb_grpc


@dataclass(frozen=True)
class LargeCommit:
    """One commit of a large snapshot."""

    snapshot_bytes: int
    seconds: float
    idle_bytes: int
    peak_bytes: int
    began_at: float
    """By `time.monotonic`, which processes of one machine share."""

    @property
    def peak_over_idle(self) -> float:
        """How many times its own size the commit took at its peak."""
        return (self.peak_bytes - self.idle_bytes) / self.snapshot_bytes


def commit(arguments: argparse.Namespace) -> LargeCommit:
    """Commit one boundary with a snapshot of the size that the arguments say."""
    server_pid, snapshot_bytes = arguments.server_pid, arguments.snapshot_bytes
    credentials = connecting.credentials(arguments)
    session_id = str(uuid.uuid4())
    request = pb.AtomicApplyRequest(
        runtime_id=f"rt:bench:{session_id}",
        request_id=str(uuid.uuid4()),
        session_delta=pb.SessionDelta(session_snapshot=session_document(session_id, snapshot_bytes, unlike=True)),
        receipt=pb.RunBoundaryReceipt(
            run_id=str(uuid.uuid4()), boundary=pb.RUN_APPLY_BOUNDARY_RUN_START, message_count=1, sequence=0
        ),
        session_store_key=session_id,
    )
    options = [("grpc.max_send_message_length", -1)]
    address = arguments.address
    opened = (
        grpc.insecure_channel(address, options)
        if credentials is None
        else grpc.secure_channel(address, credentials, options)
    )
    with opened as channel:
        grpc.channel_ready_future(channel).result(timeout=30)
        idle_bytes = usage.resident_bytes(server_pid)
        peak = usage.PeakMemory(server_pid)
        begun = time.monotonic()
        pb_grpc.RuntimeStoreStub(channel).AtomicApply(request, timeout=120, metadata=connecting.metadata())
        return LargeCommit(
            snapshot_bytes=len(request.session_delta.session_snapshot),
            seconds=time.monotonic() - begun,
            idle_bytes=idle_bytes,
            peak_bytes=peak.read_bytes(),
            began_at=begun,
        )


def main() -> int:
    """Measure as the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m bench.large", description=__doc__)
    connecting.add_flags(parser)
    parser.add_argument("--server-pid", type=int, default=os.getpid())
    parser.add_argument("--snapshot-bytes", type=int, default=60_000_000)
    json.dump(asdict(commit(parser.parse_args())), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
