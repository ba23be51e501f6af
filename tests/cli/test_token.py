"""`runtimestore token`, and what `health` shows to a server that asks who calls."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from runtimestore import RuntimeState, RuntimeStoreClient, Unauthenticated
from support.servers.access import access_file, ca, entry, new_token, server_files
from support.servers.command import run, serving

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

MEMORY = ("--listen", "127.0.0.1:0", "--database-url", "memory:")
SERVICE = ("--service", "runtimestore.v1.RuntimeStore")


def new(folder: Path, name: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """A new token for a name, in the realm `default`, for writing."""
    given = ("--realm", "default", "--access", "write", "--access-file", "access.toml")
    return run("token", "new", name, *given, *flags, cwd=folder)


def test_a_token_is_in_force_with_the_next_call_and_no_longer_when_its_entry_is_taken_out(tmp_path: Path) -> None:
    first = new(tmp_path, "agents").stdout.strip()
    path = tmp_path / "access.toml"
    alone = path.read_text()
    with serving(*MEMORY, "--access-file", "access.toml", cwd=tmp_path) as server:
        second = new(tmp_path, "agents").stdout.strip()
        for token in (first, second):
            with RuntimeStoreClient(server.address, token=token) as client:
                client.commit_machine_lifecycle("rt:session:x", RuntimeState.IDLE)
        access_file(path, [alone])
        with RuntimeStoreClient(server.address, token=second) as client, pytest.raises(Unauthenticated):
            client.get_server_info()


def test_what_the_file_holds_stays_as_it_is(tmp_path: Path) -> None:
    path = access_file(tmp_path / "access.toml", ["# mine\n" + entry("one", new_token())])
    path.chmod(0o640)
    before = path.read_text()
    link = tmp_path / "link.toml"
    link.symlink_to(path)

    done = new(tmp_path, "two", "--access-file", "link.toml", "--until", "2099-01-31")

    assert done.returncode == 0
    assert link.is_symlink()
    assert path.read_text().startswith(before)
    assert path.stat().st_mode & 0o777 == 0o640
    listed = run("token", "list", "--access-file", "access.toml", cwd=tmp_path).stdout
    assert listed == "one  write  default  1 token\ntwo  write  default  1 token  until 2099-01-31T23:59:59Z\n"


def test_tokens_that_are_made_at_the_same_time_are_all_there(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as threads:
        done = list(threads.map(lambda number: new(tmp_path, f"n{number}"), range(8)))

    assert [one.returncode for one in done] == [0] * 8
    listed = run("token", "list", "--access-file", "access.toml", cwd=tmp_path).stdout
    assert sorted(line.split()[0] for line in listed.splitlines()) == [f"n{number}" for number in range(8)]
    assert [path.name for path in tmp_path.iterdir()] == ["access.toml"]


def test_the_list_names_certificates_and_what_has_ended(tmp_path: Path) -> None:
    over = datetime.now(UTC) - timedelta(days=1)
    entries = [entry("a", certificate_sans=["spiffe://x/a"], realms=["*"], access="admin"), entry("b", "t", until=over)]
    access_file(tmp_path / "access.toml", entries)

    lines = run("token", "list", "--access-file", "access.toml", cwd=tmp_path).stdout.splitlines()

    assert lines[0] == "a  admin  *  spiffe://x/a"
    assert lines[1].endswith("(ended)")


@pytest.mark.parametrize("by", ["flag", "environment", "file"])
def test_health_takes_its_credentials_as_flags_from_the_environment_or_from_the_file(tmp_path: Path, by: str) -> None:
    token = new_token()
    files = server_files(tmp_path)
    files["access_file"] = access_file(tmp_path / "access.toml", [entry("probe", token, access="read")])
    (tmp_path / "ca.pem").write_bytes(ca().cert_pem.bytes())
    (tmp_path / "token").write_text(f"{token}\n")
    given = {"tls_ca": "ca.pem", "token_file": "token", "tls_server_name": "localhost"}
    flags: list[str] = []
    extra: dict[str, str] = {}
    if by == "flag":
        flags = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", value)]
    elif by == "environment":
        extra = {f"RUNTIMESTORE_CLIENT_{name.upper()}": value for name, value in given.items()}
    else:
        lines = [f'{name} = "{value}"' for name, value in given.items()]
        (tmp_path / "settings.toml").write_text("\n".join(['listen = "127.0.0.1:1"', "[client]", *lines]))
        flags = ["--config", "settings.toml"]
    named = [part for name, file in files.items() for part in (f"--{name.replace('_', '-')}", str(file))]
    with serving(*MEMORY, *named, cwd=tmp_path) as server:
        asked = ("health", "--address", server.address, "--timeout-seconds", "10")
        done = run(*asked, *SERVICE, *flags, cwd=tmp_path, extra=extra)
        assert (done.returncode, done.stdout, done.stderr) == (0, "SERVING\n", "")
        assert run(*asked, "--tls-ca", "ca.pem", cwd=tmp_path).returncode == 0
        stranger = run(*asked, *SERVICE, "--tls-ca", "ca.pem", cwd=tmp_path)
        assert stranger.returncode == 1
        assert "--token-file" in stranger.stderr


def test_a_table_of_the_client_that_holds_what_nobody_knows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text('[client]\ntls_cert = "x"\n')

    done = run("health", "--config", "settings.toml", cwd=tmp_path)

    assert done.returncode == 2
    assert "[client] may hold" in done.stderr


@pytest.mark.parametrize("until", ["2020-01-01", "2099-01-31T12:00:00", "2099-01-31T00:30:00+14:00", "soon"])
def test_the_last_day_of_a_token_is_a_day_to_come_and_nothing_that_would_be_read_as_another_one(
    tmp_path: Path, until: str
) -> None:
    done = new(tmp_path, "one", "--until", until)

    assert done.returncode == 2
    assert "--until" in done.stderr
    assert not (tmp_path / "access.toml").exists()
