"""Those who only connect, of whom nobody knows yet who they are, keep the server from nothing but more connections."""

from __future__ import annotations

import contextlib
import resource
import socket
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest

from runtimestore_server.rpc import connections
from runtimestore_server.rpc import server as rpc_server
from runtimestore_server.settings import Settings
from support.checkers.clean_up import until as soon
from support.checkers.refusals import refused
from support.checkers.scraping import checks, get, metrics_address, until, value
from support.faults.http2 import preface
from support.servers.access import access_file, bearer, entry, new_token
from support.servers.command import serving
from support.servers.server import in_process
from support.servers.server_process import SERVE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILES = 256
FEW_FILES = ("sh", "-c", f'ulimit -n {FILES}; exec "$@"', "sh", *SERVE)
WAIT_SECONDS = 20
INFO = "/runtimestore.v1.RuntimeStoreAdmin/GetServerInfo"


@contextlib.contextmanager
def connected(address: str, count: int, *, said: bytes = b"") -> Iterator[list[socket.socket]]:
    """Connections that say this and no more, however many of them are taken."""
    with contextlib.ExitStack() as stack:
        made = []
        host, _, port = address.rpartition(":")
        for _ in range(count):
            made.append(stack.enter_context(socket.create_connection((host, int(port)), timeout=WAIT_SECONDS)))
            if said:
                with contextlib.suppress(OSError):  # it was closed at once
                    made[-1].sendall(said)
        yield made


def is_closed(connection: socket.socket) -> bool:
    """Whether the other end has closed a connection; what it said is read and forgotten."""
    connection.setblocking(False)
    try:
        while connection.recv(4096):
            pass
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


@pytest.mark.parametrize("said", [b"", preface()], ids=["nothing", "the first words of HTTP/2"])
def test_whoever_only_connects_takes_no_file_that_the_server_needs(tmp_path: Path, said: bytes) -> None:
    path = access_file(tmp_path / "access.toml", [entry("agents", token := new_token())])
    arguments = (
        *("--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--access-file", str(path)),
        *("--database-url", f"sqlite:///{tmp_path / 'store.db'}", "--health-interval-seconds", "0.1"),
    )
    with serving(*arguments, cwd=tmp_path, command=FEW_FILES) as server, grpc.insecure_channel(server.address) as known:
        info: Any = known.unary_unary(INFO)
        info(b"", metadata=bearer(token), timeout=WAIT_SECONDS)
        address = metrics_address(server)
        limit = int(value(address, "runtimestore_connections_limit"))
        with connected(server.address, FILES + 50, said=said) as made:
            until(lambda: sum(map(is_closed, made)) >= FILES + 50 - limit)
            assert get(address, "/healthz")[0] == 200
            status, told = checks(address)
            assert (status, told["ready"]) == (200, True), told
            assert value(address, "process_open_fds") < FILES
            access_file(path, [entry("agents", token), entry("new", newer := new_token())])
            info(b"", metadata=bearer(token), timeout=WAIT_SECONDS)  # whoever is connected goes on
            info(b"", metadata=bearer(newer), timeout=WAIT_SECONDS)  # and the file could be read
        with grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) as later:
            asked: Any = later.unary_unary(INFO)
            asked(b"", metadata=bearer(newer), timeout=WAIT_SECONDS, wait_for_ready=True)


async def test_who_connects_and_says_nothing_is_closed_and_who_says_something_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rpc_server, "HANDSHAKE_SECONDS", 0.5)
    async with in_process("memory:") as app:
        with connected(app.address, 3) as silent, connected(app.address, 1, said=preface()) as talking:
            await soon(lambda: all(map(is_closed, silent)))
            assert not is_closed(talking[0])


async def test_no_more_connections_are_taken_than_are_allowed_on_all_addresses_together() -> None:
    async with in_process("memory:", listen="localhost:0", max_connections=6) as app:
        port = app.address.rpartition(":")[2]
        hosts = app.server._hosts
        with contextlib.ExitStack() as stack:
            made = [stack.enter_context(connected(f"{host.strip('[]')}:{port}", 10, said=preface())) for host in hosts]
            every: list[Any] = [one for of_a_host in made for one in of_a_host]
            await soon(lambda: sum(map(is_closed, every)) == len(every) - 6)
        async with grpc.aio.insecure_channel(app.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            unknown: Any = channel.unary_unary("/nobody/Knows")
            assert (await refused(unknown(b"", timeout=WAIT_SECONDS, wait_for_ready=True))).code.name == "UNIMPLEMENTED"


@pytest.mark.parametrize(
    ("files", "most", "connections_taken"),
    [
        (resource.RLIM_INFINITY, 10_000, 10_000),
        (1_048_576, 10_000, 10_000),
        (1024, 10_000, 1024 - 128 - 4 * 9),
        (1024, 100, 100),
        (200, 10_000, 100),
    ],
)
def test_files_are_left_for_the_server_itself(
    monkeypatch: pytest.MonkeyPatch, files: int, most: int, connections_taken: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    assert connections.most_connections(Settings(max_connections=most)) == connections_taken


@pytest.mark.parametrize(("soft", "hard", "then"), [(64, 128, 128), (64, 4096, 264), (1024, 4096, 1024)])
def test_the_limit_of_files_is_raised_to_what_connections_take_and_never_lowered(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, then: int
) -> None:
    limits = [(soft, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, given: limits.append(given))
    connections.allow_files(Settings(max_connections=100))
    assert limits[-1] == (then, hard)
