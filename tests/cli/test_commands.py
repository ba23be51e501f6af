"""The other commands: `health`, `migrate`, `version`."""

from __future__ import annotations

import os
import pkgutil
import re
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

from runtimestore_server import cli
from runtimestore_server.store.schema import HEAD
from support.servers.command import run, serving
from support.servers.server_process import COMMAND

if TYPE_CHECKING:
    from support.servers.postgres import Cluster

ROOT = Path(__file__).resolve().parents[2]


def test_health_exits_with_0_where_a_server_serves_and_with_1_where_none_does(tmp_path: Path) -> None:
    with serving("--listen", "127.0.0.1:0", "--database-url", "memory:", cwd=tmp_path) as server:
        address = server.address
        healthy = run("health", "--address", address, cwd=tmp_path)
        by_environment = run("health", cwd=tmp_path, extra={"RUNTIMESTORE_LISTEN": address})
        one_service = run("health", "--address", address, "--service", "runtimestore.v1.RuntimeStore", cwd=tmp_path)
        unknown_service = run("health", "--address", address, "--service", "nobody.Knows", cwd=tmp_path)
        (tmp_path / "settings.toml").write_text(f'listen = "{address}"\n')
        by_file = run("health", "--config", "settings.toml", cwd=tmp_path)
        by_the_servers_file = run("health", cwd=tmp_path, extra={"RUNTIMESTORE_CONFIG": "settings.toml"})
    gone = run("health", "--address", address, "--timeout-seconds", "2", cwd=tmp_path)

    good = (healthy, by_environment, one_service, by_file, by_the_servers_file)
    assert [done.returncode for done in good] == [0] * 5
    assert healthy.stdout == "SERVING\n"
    assert [done.returncode for done in (unknown_service, gone)] == [1, 1]
    assert address in gone.stderr
    assert "--address" in gone.stderr
    assert "--service" in unknown_service.stderr
    assert "Traceback" not in gone.stderr + unknown_service.stderr


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "long"])
def test_a_time_that_is_none_is_refused_by_its_flag(tmp_path: Path, value: str) -> None:
    done = run("health", "--timeout-seconds", value, cwd=tmp_path)

    assert done.returncode == 2
    assert "--timeout-seconds: must be a number of seconds" in done.stderr
    assert done.stdout == ""


def test_health_exits_with_1_where_the_schema_is_no_longer_the_servers(
    postgres_cluster: Cluster, tmp_path: Path
) -> None:
    import psycopg

    url = postgres_cluster.fresh_database()
    extra = {"RUNTIMESTORE_DATABASE_URL": url, "RUNTIMESTORE_HEALTH_INTERVAL_SECONDS": "0.1"}
    with serving("--listen", "127.0.0.1:0", cwd=tmp_path, extra=extra) as server:
        address = server.address
        assert run("health", "--address", address, cwd=tmp_path).returncode == 0
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("UPDATE alembic_version SET version_num = '9999'")
            server.wait_for("not ready")
            done = run("health", "--address", address, cwd=tmp_path)
            assert (done.returncode, done.stdout) == (1, "NOT_SERVING\n")
            connection.execute("UPDATE alembic_version SET version_num = %s", [HEAD])
        server.wait_for("ready again")
        assert run("health", "--address", address, cwd=tmp_path).returncode == 0


def test_migrate_says_what_it_did_and_then_that_there_is_nothing_to_do(tmp_path: Path) -> None:
    arguments = ("migrate", "--database-url", "sqlite:///store.db")

    first, second = run(*arguments, cwd=tmp_path), run(*arguments, cwd=tmp_path)

    assert [first.returncode, second.returncode] == [0, 0]
    assert "schema upgraded" in first.stderr
    assert "schema is current" in second.stderr
    assert HEAD in first.stderr
    assert HEAD in second.stderr


def test_migrate_refuses_what_it_cannot_migrate(tmp_path: Path) -> None:
    memory = run("migrate", "--database-url", "memory:", cwd=tmp_path)
    nowhere = run("migrate", "--database-url", "postgresql://app:secret-9@127.0.0.1:1/store", cwd=tmp_path)

    assert (memory.returncode, nowhere.returncode) == (2, 1)
    assert "secret-9" not in nowhere.stderr
    assert "Traceback" not in nowhere.stderr + memory.stderr


@pytest.mark.parametrize(
    ("typed", "completed"), [("m", "migrate"), ("serve --li", "--listen"), ("verify --js", "--json")]
)
def test_a_shell_completes_commands_and_their_flags(tmp_path: Path, typed: str, completed: str) -> None:
    words = f"runtimestore {typed}"
    asked = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}

    done = run(cwd=tmp_path, extra={"_RUNTIMESTORE_COMPLETE": "bash_complete", **asked})

    assert done.returncode == 0, done.stderr
    assert done.stdout == f"plain,{completed}\n"


@pytest.mark.parametrize("asked", ["version", "--version"])
def test_version_tells_the_version(tmp_path: Path, asked: str) -> None:
    done = run(asked, cwd=tmp_path)

    assert done.returncode == 0
    assert done.stdout == f"runtimestore {version('runtimestore')}\n"
    assert re.search(r"\d+\.\d+", done.stdout)


def _broken(tmp_path: Path, module: str, error: str) -> dict[str, str]:
    """An environment in which to load this module raises this error."""
    (tmp_path / f"{module}.py").write_text(f"raise {error}\n")
    return {"PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])}


@pytest.mark.parametrize(("command", "module"), [("version", "click"), ("migrate", "structlog"), ("health", "grpc")])
def test_ctrl_c_while_it_still_loads_ends_it_without_a_traceback(tmp_path: Path, command: str, module: str) -> None:
    ended = run(command, cwd=tmp_path, extra=_broken(tmp_path, module, "KeyboardInterrupt"))

    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


@pytest.mark.parametrize(("command", "module"), [("version", "click"), ("migrate", "structlog"), ("serve", "uvloop")])
def test_a_package_that_the_thin_client_does_not_bring_is_told_with_the_extra_that_does(
    tmp_path: Path, command: str, module: str
) -> None:
    # Where other programs live too, some of the server's packages may be there.
    extra = _broken(tmp_path, module, f"ModuleNotFoundError('none', name={module!r})")

    done = run(command, cwd=tmp_path, extra=extra)

    assert done.returncode == 1
    assert f"needs the package {module}" in done.stderr
    assert "runtimestore[server]" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_command_is_a_module_and_every_module_of_a_command_is_one() -> None:
    modules = {found.name for found in pkgutil.iter_modules(cli.__path__)}
    context = click.Context(cli.runtimestore)

    commands = {name for name in modules if cli.runtimestore.get_command(context, name)}

    assert commands == set(cli.COMMANDS)
    assert modules - commands == {
        "connecting",
        "flags",
        "introduction",
        "output",
        "progress",
        "refusals",
        "verify_output",
    }
    listed = run("--help", cwd=ROOT, command=COMMAND).stdout
    for name in cli.COMMANDS:
        told = run(name, "--help", cwd=ROOT, command=COMMAND)
        assert told.returncode == 0
        assert told.stdout.startswith(f"Usage: runtimestore {name} ")
        assert f"\n  {name} " in listed


def test_every_command_looks_for_garbage_once_it_is_loaded() -> None:
    script = """
import gc, sys
from runtimestore_server.__main__ import main
for name in sys.argv[1:]:
    sys.argv = ["runtimestore", name, "--help"]
    main()
    print(name, gc.isenabled(), file=sys.stderr)
"""

    seen = run(*cli.COMMANDS, cwd=ROOT, command=(sys.executable, "-c", script)).stderr

    assert seen.splitlines() == [f"{name} True" for name in cli.COMMANDS]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("version",), 0),
        (("serve", "--insecure", "maybe"), 2),
        (("migrate", "--database-url", "memory:"), 2),
        (("verify", "--database-url", "sqlite:///absent/store.db"), 2),
        (("serve", "--listen", "127.0.0.1:0", "--database-url", "sqlite:///absent/store.db"), 1),
    ],
)
def test_a_command_that_is_forked_says_and_returns_what_one_does_that_is_started(
    tmp_path: Path, arguments: tuple[str, ...], code: int
) -> None:
    forked, started = (run(*arguments, cwd=tmp_path, command=command) for command in (None, COMMAND))

    assert (forked.returncode, forked.stdout, forked.stderr) == (started.returncode, started.stdout, started.stderr)
    assert forked.returncode == code
    assert forked.stdout + forked.stderr


STORE = {"alembic", "runtimestore_server.store", "sqlalchemy", "structlog", "uvloop"}
SETTINGS = {"pydantic", "pydantic_settings"}


@pytest.mark.parametrize(
    ("arguments", "spared"),
    [
        (("health", "--address", "127.0.0.1:1"), STORE | SETTINGS),
        (("version",), STORE | SETTINGS),
        (("--version",), STORE | SETTINGS),
        (("health",), STORE),
    ],
)
def test_a_probe_loads_neither_the_store_nor_what_it_does_not_read(
    tmp_path: Path, arguments: tuple[str, ...], spared: set[str]
) -> None:
    done = run(*arguments, cwd=tmp_path, command=(sys.executable, "-X", "importtime", *COMMAND[1:]))

    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "click" in loaded
    assert not loaded & spared


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("runtimestore ", set(cli.COMMANDS)),
        ("runtimestore migrate --", {"--config", "--database-url", "--help", "--log-format", "--log-level"}),
        ("runtimestore serve --log-level ", {"debug", "error", "info", "warning"}),
    ],
)
def test_the_shell_completes_commands_flags_and_values(tmp_path: Path, words: str, completed: set[str]) -> None:
    *before, _ = typed = words.split(" ")
    extra = {
        "_RUNTIMESTORE_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(typed),
        "COMP_CWORD": str(len(before)),
    }

    done = run(cwd=tmp_path, extra=extra)

    assert {line.removeprefix("plain,") for line in done.stdout.splitlines()} == completed
