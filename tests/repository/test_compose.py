"""The compose file and the workflow say what the documentation says of them."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from runtimestore import RuntimeStoreClient, Tls, Unauthenticated
from support.servers.command import run
from support.servers.server_process import ServerProcess

ROOT = Path(__file__).resolve().parents[2]

HEALTH_CHECK = ("health",)
TOGETHER = (("docker-compose.yml",), ("docker-compose.yml", "compose.secure.yml"))
PROFILES = ((), ("sqlite",), ("observe",), ("sqlite", "observe"))


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    return loaded


def _compose_command() -> list[str] | None:
    own = str(ROOT / ".venv/bin/docker-compose")  # of `make check-compose`
    for command in (["docker", "compose"], [os.environ.get("DOCKER_COMPOSE", "docker-compose")], [own]):
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
    for files, profiles in itertools.product(TOGETHER, PROFILES):
        named = [part for file in files for part in ("--file", file)]
        named += [part for profile in profiles for part in ("--profile", profile)]
        done = subprocess.run(
            [*command, *named, "config", "--format", "json"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        services = json.loads(done.stdout)["services"]
        assert ("sqlite" in services) is ("sqlite" in profiles)
        assert ({"prometheus", "grafana"} <= services.keys()) is ("observe" in profiles)
        for name in {"server", "sqlite"} & services.keys():
            insecure = services[name]["environment"]["RUNTIMESTORE_INSECURE"]
            assert insecure == ("false" if "compose.secure.yml" in files else "true")
            assert services[name]["command"] == ["serve"]


def test_every_reference_in_the_file_leads_to_something(compose: dict[str, Any]) -> None:
    assert set(compose) <= {"name", "services", "volumes", "secrets", "x-hardened", "x-limits"}
    for secret in compose["secrets"].values():
        assert secret["file"].startswith("${POSTGRES_PASSWORD_FILE:-./")
        assert (ROOT / secret["file"].partition(":-")[2].rstrip("}")).is_file()
    conditions = {"service_started", "service_healthy", "service_completed_successfully"}
    for service in compose["services"].values():
        assert {"image", "build"} & set(service)
        for name, dependency in service.get("depends_on", {}).items():
            assert name in compose["services"]
            assert dependency["condition"] in conditions
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert (ROOT / source).is_dir() if source.startswith(".") else source in compose["volumes"]


def test_the_server_starts_after_the_migration_and_the_migration_after_a_healthy_postgres(
    compose: dict[str, Any],
) -> None:
    services = compose["services"]

    assert services["server"]["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}
    assert services["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert services["migrate"]["command"] == ["migrate"]
    assert services["migrate"]["restart"] == "no"
    assert "pg_isready" in services["postgres"]["healthcheck"]["test"]


def test_sqlite_is_one_container_that_needs_no_other_and_is_started_only_if_asked_for(compose: dict[str, Any]) -> None:
    service = compose["services"]["sqlite"]

    assert service["profiles"] == ["sqlite"]
    assert not {"depends_on", "secrets", "networks"} & set(service)
    assert service["volumes"] == ["sqlite:/var/lib/runtimestore"]
    assert service["command"] == ["serve"]  # the image's own says --insecure


def test_each_image_is_built_once_so_that_a_first_up_has_no_two_builds_of_one_tag(compose: dict[str, Any]) -> None:
    built = [service["image"] for service in compose["services"].values() if "build" in service]

    assert sorted(built) == ["runtimestore", "runtimestore-sqlite"]


def test_a_password_comes_from_a_file_and_stands_beside_the_url_where_any_character_may_be_in_it(
    compose: dict[str, Any],
) -> None:
    services = compose["services"]

    assert "/run/secrets/postgres_password" in services["postgres"]["environment"].values()
    for service in services.values():
        if "profiles" in service:  # SQLite and who watches need no password
            assert "secrets" not in service
            continue
        assert service["secrets"] == ["postgres_password"]
        assert not {"POSTGRES_PASSWORD", "PGPASSWORD"} & set(service["environment"])
    for name in ("migrate", "server"):
        assert "PASSWORD" not in services[name]["environment"]["RUNTIMESTORE_DATABASE_URL"]
        assert 'PGPASSWORD="$$(cat /run/secrets/postgres_password)" exec' in services[name]["entrypoint"][2]


def test_two_servers_stand_behind_one_name_each_with_a_port_of_its_own(compose: dict[str, Any]) -> None:
    server = compose["services"]["server"]

    assert server["scale"] == 2
    assert server["ports"] == ["127.0.0.1:50051-50052:50051"]


def test_every_container_has_no_more_rights_than_it_needs_and_its_limits(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "cap_add" not in service
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["pids_limit"]
        assert service["mem_limit"]


def test_the_image_asks_for_health_where_its_settings_say_that_it_listens() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")

    assert 'CMD ["runtimestore", "health"]' in dockerfile


def test_nothing_is_published_beyond_this_machine_and_nothing_twice(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    published = [port.removeprefix("127.0.0.1:").partition(":")[0] for port in ports]

    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert sorted(published) == ["3000", "50051-50052", "50053", "9090"]


def test_the_workflow_runs_what_a_developer_runs() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))

    commands = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
    assert ".ci/run" in commands
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13", "3.14"]


def test_who_watches_is_started_only_if_asked_for_and_has_the_rules_and_the_dashboard(compose: dict[str, Any]) -> None:
    services = compose["services"]
    watching = {name: service for name, service in services.items() if "observe" in service.get("profiles", [])}
    datasource, provider = (
        yaml.safe_load((ROOT / "deploy/grafana/provisioning" / file).read_text(encoding="utf-8"))
        for file in ("datasources/prometheus.yaml", "dashboards/runtimestore.yaml")
    )
    scraped = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yaml").read_text(encoding="utf-8"))
    (job,) = scraped["scrape_configs"]
    ports = {services[name]["environment"]["RUNTIMESTORE_METRICS_LISTEN"] for name in ("server", "sqlite")}

    assert {name: service["profiles"] for name, service in watching.items()} == {
        "prometheus": ["observe"],
        "grafana": ["observe"],
    }
    assert datasource["datasources"][0]["url"] == "http://prometheus:9090"
    mounted = f"./deploy/grafana/dashboards:{provider['providers'][0]['options']['path']}:ro"
    assert mounted in watching["grafana"]["volumes"]
    assert scraped["rule_files"] == ["rules.yaml"]
    assert job["dns_sd_configs"][0]["names"] == ["server", "sqlite"]
    assert {f"0.0.0.0:{job['dns_sd_configs'][0]['port']}"} == ports


@pytest.mark.skipif(shutil.which("openssl") is None, reason="the throw-away CA is openssl's")
def test_a_server_as_the_secure_file_sets_it_lets_a_token_in_and_is_healthy_to_the_check_of_the_image(
    tmp_path: Path,
) -> None:
    certificates = tmp_path / "certificates"
    subprocess.run([ROOT / "scripts/throwaway-ca", certificates], check=True, capture_output=True)
    text = (ROOT / "compose.secure.yml").read_text(encoding="utf-8")
    (line,) = re.findall(r"^#   runtimestore (token new .*)$", text, re.MULTILINE)
    made = run(*shlex.split(line), cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    services = yaml.safe_load(text)["services"]
    given = services["server"]["environment"]
    assert services["sqlite"] == services["server"]
    environment = {name: value.replace("/run/certificates", str(certificates)) for name, value in given.items()}

    with ServerProcess("memory:", listen="0.0.0.0:0", environment=environment) as server:
        port = server.address.rpartition(":")[2]
        listening = environment | {"RUNTIMESTORE_LISTEN": f"0.0.0.0:{port}"}
        healthy = run(*HEALTH_CHECK, cwd=tmp_path, extra=listening)
        without_ca = listening | {"RUNTIMESTORE_CLIENT_TLS_CA": ""}
        assert (healthy.returncode, healthy.stdout) == (0, "SERVING\n"), healthy.stderr
        assert run(*HEALTH_CHECK, cwd=tmp_path, extra=without_ca).returncode == 1
        tls = Tls(ca=certificates / "ca.pem")
        with RuntimeStoreClient(f"127.0.0.1:{port}", tls=tls, token=made.stdout.strip()) as client:
            assert client.get_server_info().engine == "memory"
        with RuntimeStoreClient(f"127.0.0.1:{port}", tls=tls) as client, pytest.raises(Unauthenticated):
            client.get_server_info()
