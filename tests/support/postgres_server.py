"""A Postgres of a test's own, which it may stop, kill, crash, give settings and have a standby of."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psutil
import psycopg

from scripts.postgres_server import _account, _installed_binaries, _reachable

if TYPE_CHECKING:
    from collections.abc import Iterator

START_SECONDS = 60
STOP_SECONDS = 60
LOG_CHARACTERS = 3000

Mode = Literal["fast", "immediate", "kill"]

_SIGNALS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT, "kill": signal.SIGKILL}

# A pipe from the tests is its standard input: when they end, be it by SIGKILL, the pipe ends too, and what is left of
# the servers and their folders goes.
_GUARDIAN = """
cat >/dev/null
for file in "$1"/*/data/postmaster.pid; do
    [ -f "$file" ] && kill -QUIT "$(head -n 1 "$file")" 2>/dev/null
done
sleep 0.2
rm -rf "$1"
"""


# Not Popen's `user`: with it Python forks, and a fork of a process in which gRPC runs may crash before its exec.
_AS_ACCOUNT = "import os, sys; os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[1])); "
_AS_ACCOUNT += "os.execv(sys.argv[3], sys.argv[3:])"


class PostgresServer:
    """One server on 127.0.0.1, at a port that it keeps over restarts. Made by `postgres_server`."""

    def __init__(self, folder: Path, binaries: Path, account: dict[str, Any]) -> None:
        self._folder = folder
        self._binaries = binaries
        self._account = account
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()

    def url(self, database: str = "postgres") -> str:
        """The URL of one of its databases."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    @property
    def log(self) -> str:
        """The last of what it wrote."""
        return (self._folder / "log").read_text(encoding="utf-8", errors="replace")[-LOG_CHARACTERS:]

    def start(self, **settings: str) -> None:
        """Start it, with settings in place of those of its file; returns when it takes connections."""
        chosen = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "50",
            "shared_buffers": "16MB",
            "wal_receiver_status_interval": "1",
            "wal_retrieve_retry_interval": "100ms",
            **settings,
        }
        arguments = [part for name, value in chosen.items() for part in ("-c", f"{name}={value}")]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command("postgres", "-D", str(self._data), *arguments),
                cwd="/",
                env={**os.environ, "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Wait until it takes connections, as after a start or a crash."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                psycopg.connect(self.url(), connect_timeout=5).close()
            except psycopg.OperationalError as error:
                running = self._process is not None and self._process.poll() is None
                if not running or time.monotonic() > deadline:
                    raise AssertionError(f"it did not come up: {error}\n{self.log}") from error
                time.sleep(0.02)
            else:
                return

    def stop(self, mode: Mode) -> None:
        """End it: `fast` in order, `immediate` as in a crash that its processes notice, `kill` by SIGKILL to all."""
        if self._process is None:
            return
        children = _children(self._process.pid)
        self._process.send_signal(_SIGNALS[mode])
        if mode == "kill":
            for child in children:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
        self._process.wait(STOP_SECONDS)
        deadline = time.monotonic() + STOP_SECONDS
        while any(_alive(child) for child in children) and time.monotonic() < deadline:
            time.sleep(0.005)
        self._process = None
        (self._data / "postmaster.pid").unlink(missing_ok=True)

    def restart(self, mode: Mode, **settings: str) -> None:
        """Stop it and start it again."""
        self.stop(mode)
        self.start(**settings)

    def crash(self) -> None:
        """Kill one of its processes: it ends all others, recovers and goes on, under the same start time."""
        with psycopg.connect(self.url()) as victim:
            os.kill(victim.info.backend_pid, signal.SIGKILL)
            with contextlib.suppress(psycopg.OperationalError):
                victim.execute("SELECT pg_sleep(60)")
        self.wait_until_ready()

    def execute(self, *statements: str) -> list[Any]:
        """Run statements, each on its own; the rows of the last one."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def run(self, program: str, *arguments: str) -> None:
        """Run one of Postgres' programs, such as pg_checksums, on its data."""
        done = subprocess.run(
            self._command(program, *arguments),
            cwd="/",
            env={**os.environ, "LC_ALL": "C", "PGDATA": str(self._data)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"

    def standby(self) -> PostgresServer:
        """A copy of it that follows it, once it is started."""
        folder = Path(tempfile.mkdtemp(prefix="s-", dir=self._folder.parent))
        if self._account:
            os.chown(folder, self._account["user"], self._account["group"])
        found = PostgresServer(folder, self._binaries, self._account)
        source = f"host=127.0.0.1 port={self.port} user=postgres"
        options = ("--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync")
        self.run("pg_basebackup", f"--pgdata={found._data}", f"--dbname={source}", *options)
        return found

    def promote(self) -> None:
        """Make a standby a primary; returns when it is one."""
        assert self.execute(f"SELECT pg_promote(true, {START_SECONDS})") == [(True,)], self.log

    def remove(self) -> None:
        """Stop it and delete its data."""
        self.stop("kill")
        shutil.rmtree(self._folder)

    def _command(self, program: str, *arguments: str) -> list[str]:
        command = [str(self._binaries / program), *arguments]
        if not self._account:
            return command
        ids = (str(self._account["user"]), str(self._account["group"]))
        return [sys.executable, "-I", "-S", "-c", _AS_ACCOUNT, *ids, *command]

    @property
    def _data(self) -> Path:
        return self._folder / "data"


@contextlib.contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A server that is not started yet; it and its standbys are gone afterwards."""
    binaries, account = _installed_binaries(), _account()
    # Another user has to reach it: not within pytest's own folder.
    folder = Path(tempfile.mkdtemp(prefix="pg-own-", dir="/tmp"))
    guardian = subprocess.Popen(
        ["/bin/sh", "-c", _GUARDIAN, "postgres-for-a-test", str(folder)],
        cwd="/",
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    servers: list[PostgresServer] = []
    try:
        own = folder / "first"
        own.mkdir()
        if account:
            if not binaries.is_relative_to("/usr"):
                binaries = _reachable(binaries, folder, account)
            for path in (folder, *folder.rglob("*")):
                os.chown(path, account["user"], account["group"], follow_symlinks=False)
        server = PostgresServer(own, binaries, account)
        server.run("initdb", "--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
        servers.append(server)
        yield server
    finally:
        for server in servers:
            server.stop("kill")
        assert guardian.stdin is not None
        guardian.stdin.close()
        guardian.wait(STOP_SECONDS)


def _children(process: int) -> list[psutil.Process]:
    while True:
        with contextlib.suppress(psutil.NoSuchProcess):  # one that ended while it was looked at
            return psutil.Process(process).children()


def _alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
