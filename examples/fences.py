"""Take a runtime over from a process that hangs, so that its late writes do no harm: fences.

python examples/fences.py
"""

from __future__ import annotations

import argparse
import uuid

from runtimestore import Fenced, RuntimeState, RuntimeStoreClient


def main() -> None:
    """Let one worker take a runtime over from another, and the other one wake up too late."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", default="127.0.0.1:50051")
    address = parser.parse_args().address
    runtime_id = f"rt:session:{uuid.uuid4()}"

    # Two clients stand for two processes: a client remembers the fences that it holds.
    with RuntimeStoreClient(address) as first, RuntimeStoreClient(address) as second:
        # Acquire before anything is loaded: what was loaded before may already be of another driver's past.
        first.acquire_runtime(runtime_id, "worker-1")
        first.commit_machine_lifecycle(runtime_id, RuntimeState.RUNNING)  # carries the fence by itself

        # worker-1 is taken for dead: it hangs, or the network between is cut. worker-2 need not know which.
        taken = second.acquire_runtime(runtime_id, "worker-2")
        print(f"worker-2 took over from {taken.previous_owner}")
        second.commit_machine_lifecycle(runtime_id, RuntimeState.IDLE)

        # worker-1 wakes up and does not know that it was replaced. The store does.
        try:
            first.commit_machine_lifecycle(runtime_id, RuntimeState.STOPPED)
        except Fenced as refusal:
            # Stop here. To acquire anew and go on would be to fight worker-2 for the runtime.
            print(f"worker-1 was refused: {refusal.owner} drives the runtime now")

        state = second.load_runtime_state(runtime_id)
        print(f"state {state.value if state else 'absent'}")


if __name__ == "__main__":
    main()
