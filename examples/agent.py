"""Run an agent whose turns survive a crash at any moment: nothing is lost, and nothing is applied twice (asyncio).

    python examples/agent.py RUNTIME_ID PROMPT...

Run it again with the same RUNTIME_ID after whatever happened: it finishes first what was left behind.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
import uuid
from typing import Any

from runtimestore import (
    AsyncRuntimeStoreClient,
    InputState,
    RunApplyBoundary,
    RunBoundaryReceipt,
    RuntimeState,
)

Document = dict[str, Any]


class Agent:
    """One runtime: what it knows is in the store, so that another process can go on where this one ends."""

    def __init__(self, store: AsyncRuntimeStoreClient, runtime_id: str, *, thinking_seconds: float) -> None:
        self._store = store
        self._runtime_id = runtime_id
        self._thinking_seconds = thinking_seconds
        self._session: Document = {}

    async def start(self) -> None:
        """Start cold or recover: load the session, then run every input that was accepted and not consumed."""
        snapshot = await self._store.load_session_snapshot(self._runtime_id)
        self._session = json.loads(snapshot) if snapshot is not None else new_session()
        waiting = [json.loads(state.state_json) for state in await self._store.load_input_states(self._runtime_id)]
        # By the time of their acceptance: the store gives inputs by id, and ids are random.
        for document in sorted(waiting, key=lambda document: float(document["accepted_at"])):
            if document["current_state"] != "consumed":
                print("resumed", document["input_id"], flush=True)
                await self._turn(document)
        await self._store.commit_machine_lifecycle(self._runtime_id, RuntimeState.IDLE)

    async def handle(self, prompt: str, *, input_id: str) -> None:
        """Accept a prompt and run its turn; the same `input_id` again is the same prompt again, and runs once."""
        if await self._store.load_input_state(self._runtime_id, input_id) is not None:
            print("known", input_id, flush=True)
            return
        document = {
            "input_id": input_id,
            "current_state": "queued",
            "accepted_at": time.time(),
            "prompt": prompt,
            "run_id": str(uuid.uuid4()),  # with the input, so that a resumed turn has the id of the first try
        }
        # Persist first, then accept: who was told "accepted" may forget the prompt.
        await self._store.persist_input_state(self._runtime_id, as_input(document))
        print("accepted", input_id, flush=True)
        await self._turn(document)
        await self._store.commit_machine_lifecycle(self._runtime_id, RuntimeState.IDLE)

    async def _turn(self, document: Document) -> None:
        await self._store.commit_machine_lifecycle(self._runtime_id, RuntimeState.RUNNING)
        messages = [*self._session["messages"], {"role": "user", "content": document["prompt"]}]
        messages.append({"role": "assistant", "content": await self._think(messages)})
        session = {**self._session, "messages": messages, "updated_at": now()}
        # One transaction: the answer is in the session if and only if its input is consumed. A process that dies
        # before it runs the turn again; one that dies after it finds the input consumed and leaves it alone.
        await self._store.atomic_apply(
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
        print("answered", document["input_id"], flush=True)

    async def _think(self, messages: list[Document]) -> str:
        """Stand in for the model. What it does outside the store, tools for one, may happen twice after a crash."""
        print("thinking", flush=True)
        await asyncio.sleep(self._thinking_seconds)
        return f"You said: {messages[-1]['content']}"


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


async def main() -> None:
    """Do what the command line says and print the conversation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runtime_id")
    parser.add_argument("prompts", nargs="*")
    parser.add_argument("--address", default="127.0.0.1:50051")
    parser.add_argument("--thinking-seconds", type=float, default=0.5)
    given = parser.parse_args()
    async with AsyncRuntimeStoreClient(given.address, timeout_seconds=20) as store:
        # Whoever starts last drives the runtime: a process that was taken for dead can write nothing any more.
        await store.acquire_runtime(given.runtime_id, f"agent/{uuid.uuid4()}")
        agent = Agent(store, given.runtime_id, thinking_seconds=given.thinking_seconds)
        await agent.start()
        for number, prompt in enumerate(given.prompts):
            # The id comes from who sends the prompt, a message id for one; here place and text stand in for it.
            await agent.handle(prompt, input_id=str(uuid.uuid5(uuid.NAMESPACE_OID, f"{number} {prompt}")))
        snapshot = await store.load_session_snapshot(given.runtime_id)
    for message in json.loads(snapshot or b'{"messages": []}')["messages"]:
        sys.stdout.write(f"{message['role']}: {message['content']}\n")


if __name__ == "__main__":
    asyncio.run(main())
