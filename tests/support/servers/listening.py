"""Listens to what SQLAlchemy does, on the threads that do it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from sqlalchemy import event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy.engine import Engine


@contextlib.contextmanager
def listening(engine: Engine, **listeners: Callable[..., object]) -> Iterator[None]:
    """Inside, each listener is told of the event that it is named after; afterwards of nothing.

    They stay with their engine: SQLAlchemy goes over its listeners without a lock, and to take one away while another
    thread is at it ends that thread's transaction with "deque mutated during iteration".
    """
    listens = True

    def only_inside(listener: Callable[..., object]) -> Callable[..., object]:
        def told(*arguments: Any, **options: Any) -> object:
            return listener(*arguments, **options) if listens else None

        return told

    for name, listener in listeners.items():
        event.listen(engine, name, only_inside(listener))
    try:
        yield
    finally:
        listens = False
