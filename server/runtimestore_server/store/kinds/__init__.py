"""The kinds of writes: one file each, and a line in the registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtimestore_server.store.kinds.fence import FenceKind
from runtimestore_server.store.kinds.kind import Kind, Transaction, registered
from runtimestore_server.store.kinds.oauth_flow import OAuthFlowKind
from runtimestore_server.store.kinds.runtime import RuntimeKind
from runtimestore_server.store.writes import Acquisition, OAuthFlowWrite, Write

if TYPE_CHECKING:
    from runtimestore_server.store.kinds.kind import Begin

__all__ = ["KINDS", "Kind", "Transaction"]

KINDS: tuple[Begin, ...] = (
    registered(Write, RuntimeKind),
    registered(OAuthFlowWrite, OAuthFlowKind),
    registered(Acquisition, FenceKind),  # last: nobody holds a fence before it is answered
)
"""Every kind of write, in the order in which a batch locks their rows and decides about them. Fences are locked before
all of them: see `commit`."""
