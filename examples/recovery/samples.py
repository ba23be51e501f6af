"""The documents of the demo's runtime, grown turn by turn from a sample session of ten turns."""

from __future__ import annotations

import hashlib
import json
import uuid
from pathlib import Path
from typing import Any

Document = dict[str, Any]

SAMPLES = Path(__file__).resolve().parents[2] / "tests/samples"
"""Documents as a real runtime writes them: those that the tests use."""

MESSAGES_BEFORE_FIRST_TURN = 1  # the system prompt
MESSAGES_PER_TURN = 4  # user, assistant with a tool call, the tool's results, assistant


def _sample(name: str) -> str:
    return (SAMPLES / name).read_text(encoding="utf-8")


def _dump(document: Document | list[Document]) -> str:
    """The one textual form in which the runtime serialises: no blanks, keys in the order they have."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False)


class SampleSession:
    """A session that grows by one turn at a time; after the last turn it is the sample itself, byte for byte."""

    def __init__(self) -> None:
        self._whole: Document = json.loads(_sample("session_10_turns.json"))
        self.session_id: str = self._whole["id"]
        self.turns = (len(self._whole["messages"]) - MESSAGES_BEFORE_FIRST_TURN) // MESSAGES_PER_TURN

    def prompt(self, turn: int) -> str:
        """What the user asks in a turn; the first turn is 1."""
        message: Document = self._whole["messages"][self.message_count(turn - 1)]
        text: str = message["content"]
        return text

    def message_count(self, turn: int) -> int:
        """How many messages the session has after a turn."""
        return MESSAGES_BEFORE_FIRST_TURN + MESSAGES_PER_TURN * turn

    def conversation_digest(self, turn: int) -> str:
        """The SHA-256 of the conversation after a turn, in hexadecimal."""
        messages = self._whole["messages"][: self.message_count(turn)]
        return hashlib.sha256(_dump(messages).encode()).hexdigest()

    def snapshot(self, turn: int) -> bytes:
        """The whole document after a turn."""
        updated_at = dict(self._whole["updated_at"])
        updated_at["secs_since_epoch"] -= 5 * (self.turns - turn)
        return _dump(
            {
                **self._whole,
                "messages": self._whole["messages"][: self.message_count(turn)],
                "updated_at": updated_at,
                "usage": {name: count * turn // self.turns for name, count in self._whole["usage"].items()},
            }
        ).encode()


class SampleInput:
    """One prompt on its way: queued, applied at a boundary, consumed."""

    def __init__(self, prompt: str, *, turn: int) -> None:
        self.input_id = str(uuid.uuid4())
        self.turn = turn
        self._document: Document = json.loads(_sample("input_queued_prompt.json"))
        self._document["input_id"] = self.input_id
        self._document["idempotency_key"] = f"demo-{turn}"
        self._document["persisted_input"]["text"] = prompt
        self._document["persisted_input"]["header"]["id"] = self.input_id
        self._document["persisted_input"]["header"]["idempotency_key"] = f"demo-{turn}"

    def queued(self) -> str:
        """The document when the input was accepted."""
        return _dump(self._document)

    def applied(self, run_id: str) -> str:
        """The document when a run has applied the input at its boundary 0."""
        return _dump(self._applied(run_id, "applied_pending_consumption"))

    def consumed(self, run_id: str) -> str:
        """The document when the run is over."""
        return _dump({**self._applied(run_id, "consumed"), "terminal_outcome": {"outcome_type": "consumed"}})

    def _applied(self, run_id: str, phase: str) -> Document:
        staged = {**self._document["history"][-1], "from": "queued", "to": "staged", "reason": "StageForRun"}
        return {
            **self._document,
            "current_state": phase,
            "attempt_count": 1,
            "history": [*self._document["history"], staged],
            "last_run_id": run_id,
            "last_boundary_sequence": 0,
        }


def ops_snapshot(turn: int) -> str | None:
    """The registry of background operations that a tool of this turn leaves, or None if it starts none."""
    names = {1: "empty", 3: "1_completed", 6: "7_mixed", 8: "1_completed"}
    return _sample(f"ops_snapshot_{names[turn]}.json") if turn in names else None
