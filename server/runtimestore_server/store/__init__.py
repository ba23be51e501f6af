"""The store: every write as one shape through one function, every load one statement, over SQLite or Postgres."""

from runtimestore_server.store.store import Store
from runtimestore_server.store.values import Acquisition, OAuthFlowWrite, Outcome, PartialInputs, RuntimeKey, Write

__all__ = ["Acquisition", "OAuthFlowWrite", "Outcome", "PartialInputs", "RuntimeKey", "Store", "Write"]
