"""The compose file and the workflow say what the documentation says of them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    return loaded


def _compose_command() -> list[str] | None:
    for command in (["docker", "compose"], ["docker-compose"]):
        if (
            shutil.which(command[0])
            and not subprocess.run([*command, "version"], capture_output=True, check=False).returncode
        ):
            return command
    return None


def test_docker_compose_itself_parses_the_file() -> None:
    command = _compose_command()
    if command is None:
        pytest.skip("no docker compose here; the file's keys are checked by the other tests of this module")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COMPOSE_")}
    for profile in ([], ["--profile", "sqlite"]):
        done = subprocess.run(
            [*command, *profile, "config", "--quiet"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def test_every_reference_in_the_file_leads_to_something(compose: dict[str, Any]) -> None:
    assert set(compose) <= {"name", "services", "volumes"}
    conditions = {"service_started", "service_healthy", "service_completed_successfully"}
    for service in compose["services"].values():
        assert {"image", "build"} & set(service)
        for name, dependency in service.get("depends_on", {}).items():
            assert name in compose["services"]
            assert dependency["condition"] in conditions
        for volume in service.get("volumes", []):
            assert volume.partition(":")[0] in compose["volumes"]


def test_the_server_starts_after_the_migration_and_the_migration_after_a_healthy_postgres(
    compose: dict[str, Any],
) -> None:
    services = compose["services"]

    assert services["server"]["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}
    assert services["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert services["migrate"]["command"] == ["migrate"]
    assert services["migrate"]["restart"] == "no"
    assert "pg_isready" in services["postgres"]["healthcheck"]["test"]


def test_the_sqlite_profile_is_one_container_that_needs_no_other(compose: dict[str, Any]) -> None:
    alone = {name: service for name, service in compose["services"].items() if "sqlite" in service.get("profiles", [])}

    assert list(alone) == ["sqlite"]
    assert "depends_on" not in alone["sqlite"]
    assert alone["sqlite"]["volumes"] == ["sqlite:/var/lib/runtimestore"]


def test_nothing_is_published_beyond_this_machine(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]

    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_workflow_runs_what_a_developer_runs() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))

    commands = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
    assert ".ci/run" in commands
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13", "3.14"]
