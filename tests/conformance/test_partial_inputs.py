"""A write with some of its inputs and one with all of them are the same request, whichever of them came first."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any
from uuid import UUID

import grpc
import pytest

from runtimestore.v1 import runtime_store_pb2 as pb
from support.checkers.refusals import is_refusal, refused
from support.generators.documents import input_state, new_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runtimestore.v1 import runtime_store_pb2_grpc

    Wire = runtime_store_pb2_grpc.RuntimeStoreAsyncStub

METHODS = ("AtomicApply", "CommitMachineLifecycle")
FIRST_REVISION = 1


def _input() -> pb.StoredInputState:
    state = input_state()
    return pb.StoredInputState(input_id=state.input_id, state_json=state.state_json)


def _standing_for(states: Sequence[pb.StoredInputState], if_revision: int | None = None) -> pb.PartialInputs:
    framed = (UUID(state.input_id).bytes + sha256(state.state_json.encode()).digest() for state in states)
    return pb.PartialInputs(all_sha256=sha256(b"".join(framed)).digest(), if_revision=if_revision)


def _request(method: str, common: dict[str, Any], states: Sequence[pb.StoredInputState], **form: Any) -> Any:
    if method == "AtomicApply":
        return pb.AtomicApplyRequest(**common, input_updates=states, **form)
    return pb.CommitMachineLifecycleRequest(**common, input_states=states, **form)


def _common(method: str, realm: str, runtime_id: str) -> dict[str, Any]:
    found: dict[str, Any] = {"realm": realm, "runtime_id": runtime_id, "request_id": new_id()}
    if method == "AtomicApply":
        return {**found, "receipt": pb.RunBoundaryReceipt(run_id=new_id(), boundary=pb.RUN_APPLY_BOUNDARY_RUN_START)}
    return {**found, "commit": pb.MachineLifecycleCommit(runtime_state=pb.RUNTIME_STATE_IDLE)}


@pytest.mark.parametrize("short_first", [True, False], ids=["short first", "whole first"])
@pytest.mark.parametrize("own", [None, FIRST_REVISION], ids=["no if_revision", "if_revision"])
@pytest.mark.parametrize("count", [0, 1, 2], ids=["no inputs", "one, unchanged", "two, one of them new"])
@pytest.mark.parametrize("method", METHODS)
async def test_a_repeat_in_the_other_form_is_a_repeat(
    wire: Wire, realm: str, runtime_id: str, method: str, count: int, own: int | None, short_first: bool
) -> None:
    known, new = _input(), _input()
    await wire.PersistInputState(pb.PersistInputStateRequest(realm=realm, runtime_id=runtime_id, state=known))
    common, meant = _common(method, realm, runtime_id), [known, new][:count]
    short = _request(
        method, common, meant[1:], if_revision=FIRST_REVISION, partial_inputs=_standing_for(meant, if_revision=own)
    )
    whole = _request(method, common, meant, if_revision=own)
    write = getattr(wire, method)
    one, other = (short, whole) if short_first else (whole, short)

    first, repeat = await write(one), await write(other)

    assert (first.revision, first.replayed) == (FIRST_REVISION + 1, False)
    assert (repeat.revision, repeat.replayed) == (FIRST_REVISION + 1, True)


@pytest.mark.parametrize("method", METHODS)
async def test_no_inputs_in_the_short_form_are_other_content_than_some(
    wire: Wire, realm: str, runtime_id: str, method: str
) -> None:
    common, write = _common(method, realm, runtime_id), getattr(wire, method)
    await write(_request(method, common, (), if_revision=0, partial_inputs=_standing_for(())))

    for other in (
        _request(method, common, [_input()]),
        _request(method, common, (), if_revision=0),
        _request(method, common, (), if_revision=0, partial_inputs=_standing_for([_input()])),
        _request(method, common, (), if_revision=0, partial_inputs=_standing_for((), if_revision=0)),
    ):
        found = await refused(write(other))
        is_refusal(found, grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED", "write_failed")
