"""What the files for containers let a server take in fits into the memory that they give it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from runtimestore_server.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
IDLE_BYTES = 90_000_000
CALLS_BYTES = 200_000_000
CONNECTION_BYTES = 45_000
UNITS = {"g": 2**30, "m": 2**20, "Gi": 2**30, "Mi": 2**20}


def _compose(file: str, service: str) -> tuple[dict[str, str], str]:
    found = yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))["services"][service]
    return found["environment"], found["mem_limit"]


def _kubernetes(file: str) -> tuple[dict[str, str], str]:
    loaded = yaml.safe_load((ROOT / "deploy" / "kubernetes" / file).read_text(encoding="utf-8"))
    (container,) = loaded["spec"]["template"]["spec"]["containers"]
    named: list[dict[str, Any]] = container["env"]
    return {one["name"]: one.get("value", "") for one in named}, container["resources"]["limits"]["memory"]


FILES = {
    "docker-compose.yml": _compose("docker-compose.yml", "server"),
    "docker-compose.yml, sqlite": _compose("docker-compose.yml", "sqlite"),
    "postgres/deployment.yaml": _kubernetes("postgres/deployment.yaml"),
    "sqlite/statefulset.yaml": _kubernetes("sqlite/statefulset.yaml"),
}


def _default(value: str) -> str:
    """The value of a variable that nobody sets."""
    return re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", value)


@pytest.mark.parametrize("file", FILES)
def test_the_worst_case_of_the_documentation_is_under_the_limit_of_memory(file: str) -> None:
    environment, limit = FILES[file]
    names = (
        "max_message_bytes",
        "max_session_snapshot_bytes",
        "max_receiving_writes",
        "max_waiting_bytes",
        "max_connections",
    )
    given = {name: int(_default(str(environment[f"RUNTIMESTORE_{name.upper()}"]))) for name in names}
    settings = Settings(**given)  # type: ignore[arg-type]  # each is a number; all others have their defaults

    number, unit = re.fullmatch(r"(\d+)(\w+)", _default(limit)).groups()  # type: ignore[union-attr]  # else it fails
    worst_bytes = (
        IDLE_BYTES
        + CALLS_BYTES
        + settings.session_cache_bytes
        + CONNECTION_BYTES * settings.max_connections
        + 3 * settings.max_waiting_bytes
        + 4 * settings.max_receiving_writes * settings.max_message_bytes
    )
    assert worst_bytes < int(number) * UNITS[unit]
    assert settings.max_session_snapshot_bytes < settings.max_message_bytes
