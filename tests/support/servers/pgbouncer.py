"""A PgBouncer of one's own before a Postgres, which can be killed and started again under the same address."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import psycopg
from sqlalchemy.engine import make_url

from scripts.postgres_installation import Account

if TYPE_CHECKING:
    from scripts.postgres_server import PostgresServer

START_SECONDS = 30
PLACES = ("/usr/sbin", "/usr/bin", "/usr/local/sbin")


class NoPgBouncer(Exception):
    """There is none; the message says how to get it."""


class PgBouncer:
    """A pooler on a port of its own. In a context it runs; afterwards nothing of it is left.

    Few connections for many clients, and each transaction on the next of them: what relied on a session shows at once.
    """

    def __init__(self, server: PostgresServer, *, pool_mode: str = "transaction", pool_size: int = 6) -> None:
        self._server = server
        self._pool_mode = pool_mode
        self._pool_size = pool_size
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: Path
        self.port = 0

    def __enter__(self) -> Self:
        account = Account.found()
        self._folder = Path(tempfile.mkdtemp(prefix="pgbouncer-", dir="/tmp"))
        try:
            _copy_program(self._folder)
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.port = free.getsockname()[1]
            (self._folder / "users").write_text('"postgres" ""\n')
            (self._folder / "pgbouncer.ini").write_text(self._settings())
            account.give(self._folder)
            self._command = account.command(str(self._folder / "pgbouncer"), str(self._folder / "pgbouncer.ini"))
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def url(self, database_url: str, **options: str) -> str:
        """The URL of a database of the server, through the pooler."""
        url = make_url(database_url)
        through = url.set(host="127.0.0.1", port=self.port, query=options)
        return through.render_as_string(hide_password=False)

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        with (self._folder / "output").open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                cwd="/",
                env={**os.environ, "LD_LIBRARY_PATH": str(self._folder)},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                waiting = self._process.poll() is None and time.monotonic() < deadline
                assert waiting, (self._folder / "output").read_text()
                time.sleep(0.02)
            else:
                return

    def kill(self) -> None:
        """End it as a crash would, with every connection through it."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def crash(self) -> None:
        """Kill it and start it again."""
        self.kill()
        self.start()

    def _settings(self) -> str:
        return f"""
[databases]
* = host={self._server.folder} port={self._server.port or 5432}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {self.port}
unix_socket_dir =
auth_type = trust
auth_file = {self._folder}/users
pool_mode = {self._pool_mode}
default_pool_size = {self._pool_size}
max_client_conn = 500
server_round_robin = 1
server_login_retry = 1
query_wait_timeout = 10
"""


def drop_pools(server: PostgresServer, database_url: str) -> None:
    """End every connection to a database, those included that a pooler keeps, so that it can be dropped."""
    name = make_url(database_url).database or ""
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
    time.sleep(0.2)  # until a pooler has heard of it: before, it hands such a connection out


def _copy_program(folder: Path) -> None:
    """Put the program, and what Debian has for it beside the system, into a folder that any account may read."""
    found = shutil.which("pgbouncer", path=os.pathsep.join((os.environ.get("PATH", ""), *PLACES)))
    if found:
        shutil.copy(found, folder / "pgbouncer")
        return
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "runtimestore-pgbouncer"
    if not (cache / "complete").exists():
        _fetch(cache)
    for file in (*cache.glob("usr/sbin/pgbouncer"), *cache.glob("usr/lib/*/lib*.so*")):
        shutil.copy(file, folder / file.name)


def _fetch(cache: Path) -> None:
    """Unpack Debian's packages without installing them: nobody has to be root for that.

    Raises:
        NoPgBouncer: they cannot be had here.
    """
    cache.mkdir(parents=True, exist_ok=True)
    try:
        (program,) = _packages(cache, "pgbouncer")
        needs = subprocess.run(
            ["dpkg-deb", "-f", str(program), "Depends"], check=True, capture_output=True, text=True
        ).stdout
        libraries = _packages(cache, *re.findall(r"\b(libevent-[\w.+-]+|libc-ares\w+)", needs))
        for package in (program, *libraries):
            subprocess.run(["dpkg", "-x", str(package), str(cache)], check=True, capture_output=True)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        raise NoPgBouncer("no PgBouncer here: apt-get install pgbouncer, or put the program on PATH") from error
    (cache / "complete").touch()


def _packages(cache: Path, *names: str) -> list[Path]:
    subprocess.run(["apt-get", "download", *names], cwd=cache, check=True, capture_output=True)
    return [next(cache.glob(f"{name}_*.deb")) for name in names]
