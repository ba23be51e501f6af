"""The store: every write as one shape through one function, every load one statement, over SQLite or Postgres."""

from runtimestore_server.store.store import Store
from runtimestore_server.store.values import Outcome, RuntimeKey
from runtimestore_server.store.writes import Acquisition, OAuthFlowWrite, PartialInputs, Write

__all__ = ["Acquisition", "OAuthFlowWrite", "Outcome", "PartialInputs", "RuntimeKey", "Store", "Write"]
