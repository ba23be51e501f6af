"""Run several agents at once, a thread for each, whose turns survive a crash at any moment.

    python examples/agent_threads.py PROMPT --runtimes RUNTIME_ID...

Run it again with the same runtimes after whatever happened: each finishes first what was left behind. `agent.py` is
the same for asyncio, with one agent.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from runtimestore import InputState, RunApplyBoundary, RunBoundaryReceipt, RuntimeState, RuntimeStoreClient

Document = dict[str, Any]


class Agent:
    """One runtime, driven by one thread; the client is shared by all threads."""

    def __init__(self, store: RuntimeStoreClient, runtime_id: str, *, thinking_seconds: float) -> None:
        self._store = store
        self._runtime_id = runtime_id
        self._thinking_seconds = thinking_seconds
        self._session: Document = {}

    def start(self) -> None:
        """Become the one who drives the runtime, load its session, and run what was accepted and not consumed."""
        # Before anything is loaded: a process that was taken for dead can write nothing from here on.
        self._store.acquire_runtime(self._runtime_id, f"agent/{uuid.uuid4()}")
        snapshot = self._store.load_session_snapshot(self._runtime_id)
        self._session = json.loads(snapshot) if snapshot is not None else new_session()
        waiting = [json.loads(state.state_json) for state in self._store.load_input_states(self._runtime_id)]
        # By the time of their acceptance: the store gives inputs by id, and ids are random.
        for document in sorted(waiting, key=lambda document: float(document["accepted_at"])):
            if document["current_state"] != "consumed":
                self._say(f"resumed {document['input_id']}")
                self._turn(document)
        self._store.commit_machine_lifecycle(self._runtime_id, RuntimeState.IDLE)

    def handle(self, prompt: str, *, input_id: str) -> None:
        """Accept a prompt and run its turn; the same `input_id` again is the same prompt again, and runs once."""
        if self._store.load_input_state(self._runtime_id, input_id) is not None:
            self._say(f"known {input_id}")
            return
        document = {
            "input_id": input_id,
            "current_state": "queued",
            "accepted_at": time.time(),
            "prompt": prompt,
            "run_id": str(uuid.uuid4()),  # with the input, so that a resumed turn has the id of the first try
        }
        # Persist first, then accept: who was told "accepted" may forget the prompt.
        self._store.persist_input_state(self._runtime_id, as_input(document))
        self._say(f"accepted {input_id}")
        self._turn(document)
        self._store.commit_machine_lifecycle(self._runtime_id, RuntimeState.IDLE)

    def _turn(self, document: Document) -> None:
        self._store.commit_machine_lifecycle(self._runtime_id, RuntimeState.RUNNING)
        messages = [*self._session["messages"], {"role": "user", "content": document["prompt"]}]
        messages.append({"role": "assistant", "content": self._think(messages)})
        session = {**self._session, "messages": messages, "updated_at": now()}
        # One transaction: the answer is in the session if and only if its input is consumed. A process that dies
        # before it runs the turn again; one that dies after it finds the input consumed and leaves it alone.
        self._store.atomic_apply(
            self._runtime_id,
            json.dumps(session).encode(),
            RunBoundaryReceipt(
                run_id=document["run_id"],
                boundary=RunApplyBoundary.RUN_START,
                contributing_input_ids=(document["input_id"],),
                message_count=len(messages),
                sequence=0,
            ),
            [as_input({**document, "current_state": "consumed"})],
        )
        self._session = session
        self._say(f"answered {document['input_id']}")

    def _think(self, messages: list[Document]) -> str:
        """Stand in for the model. What it does outside the store, tools for one, may happen twice after a crash."""
        self._say("thinking")
        time.sleep(self._thinking_seconds)
        return f"You said: {messages[-1]['content']}"

    def _say(self, what: str) -> None:
        # One write a line, so that the lines of several threads do not mix.
        sys.stdout.write(f"{what} {self._runtime_id}\n")
        sys.stdout.flush()


def as_input(document: Document) -> InputState:
    """The document of an input as the store takes it."""
    return InputState.from_json(json.dumps(document))


def new_session() -> Document:
    """A session without messages; these four fields are all that the store asks of one."""
    return {"id": str(uuid.uuid4()), "messages": [], "created_at": now(), "updated_at": now()}


def now() -> dict[str, int]:
    """The time in the form that a session has it in."""
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return {"secs_since_epoch": seconds, "nanos_since_epoch": nanoseconds}


def main() -> None:
    """Give the prompt to all agents at once and wait for their answers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt")
    parser.add_argument("--runtimes", nargs="+", required=True, metavar="RUNTIME_ID")
    parser.add_argument("--address", default="127.0.0.1:50051")
    parser.add_argument("--thinking-seconds", type=float, default=0.5)
    given = parser.parse_args()
    # The id comes from who sends the prompt, a message id for one; here its text stands in for it.
    input_id = str(uuid.uuid5(uuid.NAMESPACE_OID, given.prompt))

    def run(runtime_id: str) -> None:
        agent = Agent(store, runtime_id, thinking_seconds=given.thinking_seconds)
        agent.start()
        agent.handle(given.prompt, input_id=input_id)

    with (
        RuntimeStoreClient(given.address, timeout_seconds=20) as store,
        ThreadPoolExecutor(len(given.runtimes)) as threads,
    ):
        list(threads.map(run, given.runtimes))  # the list raises what a thread raised


if __name__ == "__main__":
    main()
