"""The samples, and documents made for a test."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

from runtimestore import InputState, RunApplyBoundary, RunBoundaryReceipt

SAMPLES = Path(__file__).resolve().parents[2] / "samples"

SESSION_SAMPLES = tuple(sorted(path.name for path in SAMPLES.glob("session_*.json")))
INPUT_SAMPLES = tuple(sorted(path.name for path in SAMPLES.glob("input_*.json")))
RECEIPT_SAMPLES = tuple(sorted(path.name for path in SAMPLES.glob("receipt_*.json")))
OPS_SAMPLES = tuple(sorted(path.name for path in SAMPLES.glob("ops_*.json")))
OAUTH_SAMPLES = tuple(sorted(path.name for path in SAMPLES.glob("oauth_*.json")))

UINT64_MAX = 2**64 - 1


def sample(name: str) -> bytes:
    """The bytes of a sample."""
    return (SAMPLES / name).read_bytes()


def new_id() -> str:
    """A fresh UUID as the store spells it."""
    return str(uuid.uuid4())


def spellings(canonical: str) -> tuple[str, ...]:
    """A UUID in every textual form that is taken."""
    urn = f"urn:uuid:{canonical}"
    forms = (canonical, canonical.replace("-", ""), f"{{{canonical}}}", urn, f"URN:UUID:{canonical}")
    return (*forms, *(form.upper() for form in forms[:3]), urn.upper())


def session(text: str = "hello", *, session_id: str | None = None, **fields: Any) -> bytes:
    """A session of one message; `fields` replace or add top-level ones, None takes one away."""
    document: dict[str, Any] = {
        "version": 2,
        "id": session_id or new_id(),
        "messages": [{"role": "user", "content": text}],
        "created_at": {"secs_since_epoch": 1779451200, "nanos_since_epoch": 123456},
        "updated_at": {"secs_since_epoch": 1779451203, "nanos_since_epoch": 7_000_000},
        "metadata": {},
        "usage": {"input_tokens": 3, "output_tokens": 4},
        **fields,
    }
    return json.dumps({name: value for name, value in document.items() if value is not None}).encode()


def input_state(text: str = "", *, input_id: str | None = None, phase: str = "queued", **fields: Any) -> InputState:
    """An input with a text of its own."""
    input_id = input_id or new_id()
    return InputState(
        input_id, json.dumps({"input_id": input_id, "current_state": phase, "text": text or new_id(), **fields})
    )


def inputs(count: int, text: str = "") -> list[InputState]:
    """Inputs in the order in which they are read."""
    return sorted((input_state(text) for _ in range(count)), key=lambda state: state.input_id)


def receipt(
    run_id: str | None = None,
    sequence: int = 0,
    *,
    boundary: RunApplyBoundary = RunApplyBoundary.RUN_START,
    contributing: tuple[str, ...] = (),
    message_count: int = 1,
    digest: str | None = None,
) -> RunBoundaryReceipt:
    """A receipt of a run of its own."""
    return RunBoundaryReceipt(run_id or new_id(), boundary, contributing, message_count, sequence, digest)


def sample_receipt(name: str) -> RunBoundaryReceipt:
    """A sample receipt as the value that it is."""
    document = json.loads(sample(name))
    return RunBoundaryReceipt(
        document["run_id"],
        RunApplyBoundary(document["boundary"]),
        tuple(document["contributing_input_ids"]),
        document["message_count"],
        document["sequence"],
        document.get("conversation_digest"),
    )


def ops(text: str = "", *, epoch_id: str | None = None) -> str:
    """An ops document with a text of its own."""
    return json.dumps({"epoch_id": epoch_id or new_id(), "operation_specs": {}, "note": text or new_id()})


def as_id(case: Any) -> str:
    """A document, or what is wrong with one, in the name of a test."""
    return repr(case).replace("/", "|")[:60]
