"""Let several writers change one runtime at once without a lost update: compare-and-swap by `if_revision`.

    python examples/compare_and_swap.py

Each of four threads adds 1 to a counter ten times; the sum must be 40.
"""

from __future__ import annotations

import argparse
import json
import random
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from runtimestore import RevisionMismatch, RuntimeStoreClient

WRITERS = 4
ROUNDS = 10


def increment(store: RuntimeStoreClient, runtime_id: str) -> int:
    """Add 1 to the counter; how many times another writer came first."""
    conflicts = 0
    while True:
        # Value and revision are those of one moment. Revision 0: nothing was ever written.
        loaded = store.load_ops_lifecycle_with_revision(runtime_id)
        absent: dict[str, Any] = {"epoch_id": str(uuid.uuid4()), "counter": 0}
        document = json.loads(loaded.value) if loaded.value is not None else absent
        document["counter"] += 1
        try:
            # No `request_id` here: the client mints one for each call and keeps it over its retries, so that a lost
            # answer is no second increment. Every round of this loop is a write of its own and gets its own.
            store.persist_ops_lifecycle(runtime_id, json.dumps(document), if_revision=loaded.revision)
        except RevisionMismatch:
            # Nothing was written. Load again: what was computed here is of an older value. The pause, of a random
            # length, lets writers that collided once not collide for ever.
            conflicts += 1
            time.sleep(random.uniform(0, 0.01))  # noqa: S311 - no secret depends on it
        else:
            return conflicts


def main() -> None:
    """Count with all writers and print the sum."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", default="127.0.0.1:50051")
    runtime_id = f"rt:session:{uuid.uuid4()}"
    # One client for all threads.
    with RuntimeStoreClient(parser.parse_args().address, timeout_seconds=20) as store:
        with ThreadPoolExecutor(WRITERS) as writers:
            conflicts = sum(writers.map(partial(increment, store), [runtime_id] * WRITERS * ROUNDS))
        document = json.loads(store.load_ops_lifecycle(runtime_id) or "{}")
    print(f"counter {document['counter']}, {conflicts} conflicts")


if __name__ == "__main__":
    main()
