"""A client that nobody here wrote, grpcurl or buf curl, finds and calls everything by reflection."""

from __future__ import annotations

import base64
import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from support.checkers.grpcurl import answers

if TYPE_CHECKING:
    from pathlib import Path

STORE = "runtimestore.v1.RuntimeStore"
ADMIN = "runtimestore.v1.RuntimeStoreAdmin"

RUNTIME = {"runtime_id": "rt:session:5e55104e-0000-4000-8000-00000000000a"}
RUN = "4a400000-0000-4000-8000-00000000000a"
INPUT = "14b07000-0000-4000-8000-00000000000a"
STATE = {"input_id": INPUT, "state_json": json.dumps({"input_id": INPUT, "current_state": "queued"})}
TIME = {"secs_since_epoch": 1767225600, "nanos_since_epoch": 0}
SNAPSHOT = json.dumps(
    {"id": "5e55104e-0000-4000-8000-00000000000a", "messages": [], "created_at": TIME, "updated_at": TIME}
).encode()
DELTA = {"session_delta": {"session_snapshot": base64.b64encode(SNAPSHOT).decode()}}
RECEIPT = {"run_id": RUN, "boundary": "RUN_APPLY_BOUNDARY_RUN_START", "contributing_input_ids": [INPUT]}
OPS = json.dumps({"epoch_id": "e90c0000-0000-4000-8000-00000000000a"})

# In an order in which every load finds what a write before it left: the answer's field that must then be there.
CALLS: list[tuple[str, dict[str, Any], str]] = [
    ("AuthAuthorityKey", {}, "authority_key"),
    ("PersistAuthOAuthFlowSnapshot", {"snapshot_json": "e30="}, "version"),
    ("LoadAuthOAuthFlowSnapshot", {}, "snapshot_json"),
    ("UpdateAuthOAuthFlowSnapshot", {"expected_version": 1, "snapshot_json": "e30="}, "version"),
    ("CommitSessionSnapshot", {**RUNTIME, **DELTA}, "revision"),
    ("AtomicApply", {**RUNTIME, **DELTA, "receipt": RECEIPT, "input_updates": [STATE]}, "revision"),
    ("LoadInputStates", RUNTIME, "input_states"),
    ("LoadBoundaryReceipt", {**RUNTIME, "run_id": RUN, "sequence": 0}, "receipt"),
    ("LoadSessionSnapshot", RUNTIME, "info"),
    ("PersistInputState", {**RUNTIME, "state": STATE}, "revision"),
    ("LoadInputState", {**RUNTIME, "input_id": INPUT}, "state"),
    ("CommitMachineLifecycle", {**RUNTIME, "commit": {"runtime_state": "RUNTIME_STATE_IDLE"}}, "revision"),
    ("LoadRuntimeState", RUNTIME, "state"),
    ("PersistOpsLifecycle", {**RUNTIME, "snapshot": {"snapshot_json": OPS}}, "revision"),
    ("LoadOpsLifecycle", RUNTIME, "snapshot"),
]


def _grpcurl(commands: Path, *arguments: str) -> str:
    done = subprocess.run(
        [str(commands / "grpcurl"), "-plaintext", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_reflection_lists_both_services_and_health(address: str, commands: Path) -> None:
    listed = _grpcurl(commands, address, "list").split()

    assert {STORE, ADMIN, "grpc.health.v1.Health"} <= set(listed)


def test_reflection_lists_the_fifteen_methods_and_those_of_the_admin_service(address: str, commands: Path) -> None:
    methods = _grpcurl(commands, address, "list", STORE).split()

    assert sorted(methods) == sorted(f"{STORE}.{name}" for name, _, _ in CALLS)
    assert len(methods) == 15
    listed = ("AcquireRuntime", "GetServerInfo", "ListSessionVersions", "LoadRuntime")
    assert _grpcurl(commands, address, "list", ADMIN).split() == [f"{ADMIN}.{name}" for name in listed]


def test_every_method_can_be_called_by_reflection_alone(address: str, commands: Path) -> None:
    for method, request, expected in CALLS:
        first, *_ = answers(_grpcurl(commands, "-d", json.dumps(request), address, f"{STORE}/{method}"))

        assert expected in first, method


def test_server_info_tells_engine_schema_and_limits_to_a_client_with_no_stubs(address: str, commands: Path) -> None:
    (info,) = answers(_grpcurl(commands, address, f"{ADMIN}/GetServerInfo"))

    assert info["engine"] == "sqlite"
    assert info["schema_revision"]
    assert int(info["limits"]["max_message_bytes"]) > int(info["limits"]["max_session_snapshot_bytes"])


@pytest.mark.parametrize("service", ["", STORE, ADMIN])
def test_health_answers_serving_for_the_server_and_for_each_service(address: str, commands: Path, service: str) -> None:
    answer = json.loads(
        _grpcurl(commands, "-d", json.dumps({"service": service}), address, "grpc.health.v1.Health/Check")
    )

    assert answer == {"status": "SERVING"}
