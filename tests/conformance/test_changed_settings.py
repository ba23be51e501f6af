"""A server that was started again with other settings recognises what it took in before; what is new it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest

from runtimestore.v1 import runtime_store_pb2_grpc
from support.checkers.refusals import refused
from support.generators.documents import new_id
from support.generators.requests import RUNTIME_WRITES, WRITES, request_of
from support.servers.engines import DURABLE
from support.servers.server import in_process

if TYPE_CHECKING:
    from collections.abc import Callable

STRICTER: dict[tuple[str, str], dict[str, Any]] = {
    **{(method, "fence"): {"require_fence": True} for method in RUNTIME_WRITES},
    **{
        (method, "limits"): {"max_document_bytes": 1, "max_session_snapshot_bytes": 1, "max_message_bytes": 1_000_000}
        for method in WRITES
    },
}

pytestmark = pytest.mark.needs(DURABLE)


def _revision(answer: Any) -> int:
    return int(answer.version if "version" in answer.DESCRIPTOR.fields_by_name else answer.revision)


def _writing(channel: grpc.aio.Channel, method: str) -> Callable[[Any], Any]:
    call: Callable[[Any], Any] = getattr(runtime_store_pb2_grpc.RuntimeStoreStub(channel), method)
    return call


@pytest.mark.parametrize(("method", "what"), STRICTER, ids=["-".join(case) for case in STRICTER])
async def test_what_landed_before_is_answered_as_the_first_time_where_the_settings_forbid_it_now(
    fresh_url: str, method: str, what: str
) -> None:
    landed = request_of(method, request_id=new_id())
    async with in_process(fresh_url) as app, grpc.aio.insecure_channel(app.address) as channel:
        first = await _writing(channel, method)(landed)
        assert (_revision(first), first.replayed) == (1, False)

    async with (
        in_process(fresh_url, **STRICTER[method, what]) as app,
        grpc.aio.insecure_channel(app.address) as channel,
    ):
        write = _writing(channel, method)
        again = await write(landed)
        assert (_revision(again), again.replayed) == (1, True)

        for new in (request_of(method, request_id=new_id()), request_of(method)):
            found = await refused(write(new))
            assert (found.code, found.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
            assert found.violations
            # Refused, it is not remembered: the next one is refused for the same, not taken for a repeat.
            assert (await refused(write(new))).violations == found.violations
        other = request_of(method, request_id=landed.request_id)
        if other != landed:
            assert (await refused(write(other))).reason == "REQUEST_ID_REUSED"
    async with in_process(fresh_url) as app, grpc.aio.insecure_channel(app.address) as channel:
        assert _revision(await _writing(channel, method)(request_of(method, **_expecting(method)))) == 2


def _expecting(method: str) -> dict[str, Any]:
    return {"expected_version": 1} if method == "UpdateAuthOAuthFlowSnapshot" else {}
