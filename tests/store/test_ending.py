"""A store that ends does not go on trying."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NoReturn

from runtimestore.errors import StoreUnavailable
from runtimestore_server.store import transaction
from runtimestore_server.store.requests import RequestTaken
from runtimestore_server.store.values import Write
from support.store_writes import runtime, snapshot

if TYPE_CHECKING:
    import pytest

    from runtimestore_server.store.engines import Database


def test_what_is_transient_is_not_run_again_once_the_store_ends(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = []

    def taken(*_: object) -> NoReturn:
        attempts.append(1)
        raise RequestTaken

    monkeypatch.setattr(transaction, "_decide", taken)
    closing = threading.Event()
    closing.set()

    (decision,), committed = transaction.commit_batch(database, [Write(runtime(), snapshot=snapshot())], closing)

    assert isinstance(decision, StoreUnavailable)
    assert not committed
    assert len(attempts) == 1
