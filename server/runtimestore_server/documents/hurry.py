"""Has a check on the event loop give up a document that takes long for its size, so that a worker checks it."""

from __future__ import annotations

import contextlib
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_hurried: ContextVar[bool] = ContextVar("hurried", default=False)


class TakesLong(Exception):
    """To check a document takes longer than the event loop may be kept."""


@contextlib.contextmanager
def in_a_hurry() -> Iterator[None]:
    """Raise `TakesLong` inside, instead of checking what takes some hundred times as long as others of its size."""
    token = _hurried.set(True)
    try:
        yield
    finally:
        _hurried.reset(token)


def hurried() -> bool:
    """Tell whether `TakesLong` is to be raised where a check would take long."""
    return _hurried.get()
