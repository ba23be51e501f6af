from __future__ import annotations

import grpc_testing
import pytest

from runtimestore import RetryPolicy, _retry, sync
from support.faults.fake_wire import FakeClock, Wire
from support.servers.scripted_store import SERVICES


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    time = grpc_testing.strict_fake_time(1000.0)
    clock = FakeClock(time)
    monkeypatch.setattr(sync, "time", clock)
    monkeypatch.setattr(_retry, "time", clock)
    return Wire(grpc_testing.channel(SERVICES, time), clock)


@pytest.fixture
def at_once() -> RetryPolicy:
    """Five attempts without a pause of the client's own."""
    return RetryPolicy(initial_backoff_seconds=0.0, max_backoff_seconds=0.0)
