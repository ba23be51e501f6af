"""Closed by default: where `serve` listens without protection, and where it refuses to start."""

from __future__ import annotations

import asyncio
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from runtimestore import RuntimeStoreClient, Tls
from runtimestore_server.access.exposure import is_local
from support.checkers.scraping import get
from support.servers.access import access_file, ca, entry, new_token, server_files
from support.servers.command import run, serving
from support.servers.server import in_process

if TYPE_CHECKING:
    from pathlib import Path

MEMORY = ("--database-url", "memory:")


def flags(files: dict[str, Path]) -> list[str]:
    """The files as flags."""
    return [part for name, path in files.items() for part in (f"--{name.replace('_', '-')}", str(path))]


@pytest.mark.parametrize("given", ["nothing", "tls", "access"])
@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "somewhere:0"])
def test_serve_refuses_to_start_where_a_network_reaches_it_without_tls_and_an_access_file(
    tmp_path: Path, listen: str, given: str
) -> None:
    files = {
        "nothing": {},
        "tls": server_files(tmp_path),
        "access": {"access_file": access_file(tmp_path / "access.toml", [entry("x", new_token())])},
    }[given]

    done = run("serve", "--listen", listen, *MEMORY, *flags(files), cwd=tmp_path)

    assert done.returncode == 1
    for way in ("--tls-cert", "--tls-key", "--access-file", "127.0.0.1", "unix:PATH", "--insecure"):
        assert way in done.stderr
    assert done.stderr.count("\n") == 1


def test_serve_starts_on_every_address_where_it_is_told_that_this_is_meant_and_says_so(tmp_path: Path) -> None:
    with serving("--listen", "0.0.0.0:0", "--insecure", *MEMORY, cwd=tmp_path) as server:
        server.wait_for("insecure")
        with RuntimeStoreClient(server.address.replace("0.0.0.0", "127.0.0.1")) as client:  # noqa: S104  (told to)
            assert client.get_server_info().engine == "memory"


def test_serve_starts_on_every_address_with_tls_and_an_access_file(tmp_path: Path) -> None:
    token = new_token()
    files = server_files(tmp_path) | {"access_file": access_file(tmp_path / "access.toml", [entry("x", token)])}
    with serving("--listen", "0.0.0.0:0", *MEMORY, *flags(files), cwd=tmp_path) as server:
        address = server.address.replace("0.0.0.0", "127.0.0.1")  # noqa: S104  (told to)
        with RuntimeStoreClient(address, tls=Tls(ca=ca().cert_pem.bytes()), token=token) as client:
            assert client.get_server_info().engine == "memory"
        assert "insecure" not in server.log


@pytest.mark.parametrize(("listen", "warned"), [("0.0.0.0:0", True), ("127.0.0.1:0", False), ("", False)])
async def test_metrics_on_a_network_are_warned_of_and_no_reason_not_to_start(
    capsys: pytest.CaptureFixture[str], listen: str, warned: bool
) -> None:
    async with in_process("memory:", metrics_listen=listen) as app:
        told = [line for line in capsys.readouterr().out.splitlines() if "metrics on a network" in line]
        if listen:
            address = app.telemetry.address.replace("0.0.0.0", "127.0.0.1")  # noqa: S104  (told to)
            assert (await asyncio.to_thread(get, address, "/healthz"))[0] == 200

    assert len(told) == warned
    assert all("warning" in line and listen in line for line in told)


@pytest.mark.parametrize(
    ("listen", "local"),
    [
        ("127.0.0.1:1", True),
        ("127.8.8.8:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("unix:/run/x", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.7:1", False),
        ("localhost.example:1", False),
        ("127.0.0.1.example:1", False),
    ],
)
def test_only_loopback_and_unix_sockets_are_this_machines_own(listen: str, local: bool) -> None:
    assert is_local(listen) is local


@pytest.mark.parametrize(
    ("missing", "named"),
    [("tls_cert", "--tls-cert"), ("tls_key", "--tls-key"), ("tls_client_ca", "--tls-client-ca")],
)
@pytest.mark.parametrize("fault", ["absent", "empty", "left out"])
def test_a_file_of_tls_that_is_missing_or_none_is_refused_by_its_name(
    tmp_path: Path, missing: str, named: str, fault: str
) -> None:
    files = server_files(tmp_path, client_ca=True)
    if fault == "absent":
        files[missing].unlink()
    elif fault == "empty":
        files[missing].write_text("")
    else:
        files = {missing: files[missing]}

    done = run("serve", "--listen", "127.0.0.1:0", *MEMORY, *flags(files), cwd=tmp_path)

    assert done.returncode == 1
    assert named in done.stderr
    assert "Traceback" not in done.stderr


def test_what_reads_certificates_is_not_loaded_without_tls() -> None:
    program = "import runtimestore_server.app, sys; print('cryptography' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"


def test_a_key_that_everybody_may_read_is_warned_of(tmp_path: Path) -> None:
    files = server_files(tmp_path)
    with serving("--listen", "127.0.0.1:0", *MEMORY, *flags(files), cwd=tmp_path) as server:
        assert "can read the key" not in server.log
    files["tls_key"].chmod(0o600 | stat.S_IROTH)
    with serving("--listen", "127.0.0.1:0", *MEMORY, *flags(files), cwd=tmp_path) as server:
        server.wait_for("can read the key")


BAD_ACCESS = {
    "no TOML": "[[principal]\nsecret",
    "a table twice": "[secret]\n[secret]",
    "another table": "[principals]\nname = 'x'",
    "an unknown key": entry("x", new_token(), untill="2027-01-01"),
    "no realms": entry("x", new_token(), realms=[]),
    "a bad realm": entry("x", new_token(), realms=["A b"]),
    "a star in the middle": entry("x", new_token(), realms=["a*b"]),
    "a bad access": entry("x", new_token(), access="root"),
    "no credential": entry("x"),
    "a token instead of its digest": entry("x", token_sha256=["rst_secretsecretsecretsecretsecretsecretsecretsec"]),
    "the same token twice": entry("x", "rst_same") + entry("y", "rst_same"),
    "the same certificate twice": entry("x", certificate_sans=["a"]) + entry("y", certificate_sans=["a"]),
    "an end without its offset": entry("x", new_token(), until="2027-01-01"),
}


@pytest.mark.parametrize("what", BAD_ACCESS)
def test_an_access_file_that_cannot_be_meant_is_refused_and_nothing_of_it_is_quoted(tmp_path: Path, what: str) -> None:
    (tmp_path / "access.toml").write_text(BAD_ACCESS[what])

    done = run("serve", *MEMORY, "--listen", "127.0.0.1:0", "--access-file", "access.toml", cwd=tmp_path)

    assert done.returncode == 1
    assert "--access-file access.toml: " in done.stderr
    assert "secret" not in done.stderr
    assert done.stderr.count("\n") == 1
