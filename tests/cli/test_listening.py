"""A server that cannot listen says why, in the system's own reason; one that can, has all of its address."""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import TYPE_CHECKING

import pytest

from runtimestore_server.rpc.listening import in_words
from support.servers.command import run, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

IN_MEMORY = ("--database-url", "memory:")


def _refused(listen: str, cwd: Path) -> str:
    done = run("serve", "--insecure", "--listen", listen, *IN_MEMORY, cwd=cwd)

    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@contextlib.contextmanager
def _taken(family: int, host: str) -> Iterator[int]:
    with socket.socket(family) as other:
        try:
            other.bind((host, 0))
        except OSError:
            pytest.skip(f"this machine has no {host}")
        other.listen()
        yield other.getsockname()[1]


@pytest.mark.parametrize(
    ("listen", "reason"),
    [
        ("unix:no/such/folder/s", "no such directory"),
        (f"unix:{'long/' * 30}s", "too long"),
        ("unix:file/s", "no directory"),
        ("unix:file", "the address is taken"),
        ("192.0.2.1:50051", "not this machine's"),
        ("no-such-host.invalid:50051", "the name is not found"),
    ],
    ids=["no folder", "too long", "below a file", "a file", "another machine's", "no name"],
)
def test_an_address_that_cannot_be_had_is_refused_with_the_systems_own_reason(
    tmp_path: Path, listen: str, reason: str
) -> None:
    (tmp_path / "file").write_text("kept")

    told = _refused(listen, tmp_path)

    assert reason in told
    assert "--listen" in told
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize(
    ("code", "reason"),
    [(errno.EACCES, "no right"), (errno.EADDRINUSE, "taken"), (errno.EROFS, "read-only"), (errno.EMFILE, "open files")],
)
def test_each_reason_of_the_system_has_words(code: int, reason: str) -> None:
    assert reason in in_words(OSError(code, "as the system says"))


@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")], ids=["IPv4", "IPv6"]
)
def test_localhost_is_taken_in_both_families_or_not_at_all(tmp_path: Path, family: int, host: str) -> None:
    found = {str(address[4][0]) for address in socket.getaddrinfo("localhost", None)}
    if host not in found:
        pytest.skip(f"localhost is not {host} on this machine")
    with _taken(family, host) as port:
        assert "the address is taken" in _refused(f"localhost:{port}", tmp_path)


def test_localhost_answers_on_each_of_its_addresses(tmp_path: Path) -> None:
    with serving("--listen", "localhost:0", *IN_MEMORY, cwd=tmp_path) as server:
        host, _, port = server.address.rpartition(":")
        assert host == "localhost"
        for family, _, _, _, address in socket.getaddrinfo("localhost", int(port), type=socket.SOCK_STREAM):
            with socket.socket(family) as client:
                assert client.connect_ex(address) in (0, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT), address
