"""A Postgres of one's own, without root, Docker or a fixed port, that can be stopped, killed, frozen and followed."""
# ruff: noqa: INP001 - tests and bench import it from the root of the repository; it is part of neither

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import psutil
import psycopg

from scripts.postgres_installation import Installation, NoPostgres, ProgramFailed
from scripts.postgres_keeper import keeper

if TYPE_CHECKING:
    from collections.abc import Mapping

START_SECONDS = 60
STOP_SECONDS = 60
LOG_CHARACTERS = 3000  # of the log in an error's message
LOOPBACK = "127.0.0.1"
SHORT_PARENT = Path("/tmp")  # noqa: S108 - sockets want a short path that another user reaches: not pytest's own folder

StopMode = Literal["smart", "fast", "immediate", "kill"]

_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT, "kill": signal.SIGKILL}


class PostgresServer:
    """A cluster in a folder of its own and the server on it. In a context it runs; afterwards nothing of it is left.

    It is reached by a socket in `folder`, and with `tcp` also by a port of the loopback interface that the system
    chose, or `port` itself, and that it keeps from one start to the next. `settings` are those of postgresql.conf;
    `environment` is what the server has beside what we have, and its folder is made in `parent`. One that is made with
    `keep_template` keeps the cluster as it was made, and as long as it is there every other one is a copy of that: to
    make a cluster costs a second of CPU.
    """

    _templates: ClassVar[set[Path]] = set()

    def __init__(
        self,
        *,
        tcp: bool = False,
        port: int | None = None,
        settings: Mapping[str, str | int] | None = None,
        environment: Mapping[str, str] | None = None,
        parent: Path = SHORT_PARENT,
        keep_template: bool = False,
    ) -> None:
        self.folder: Path
        self._parent = parent
        self.port = port
        self._tcp = tcp or port is not None
        self._settings = dict(settings or {})
        self._environment = dict(environment or {})
        self._keep_template = keep_template
        self._followed: PostgresServer | None = None
        self._installation: Installation
        self._process: subprocess.Popen[bytes] | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self.folder = Path(tempfile.mkdtemp(prefix="pg-", dir=self._parent))
            stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self._installation = Installation.found(self.folder)
            self._installation.account.give(self.folder)
            stack.enter_context(keeper(self._installation, self.folder))
            self._make_cluster()
            if self._keep_template:
                template = shutil.copytree(self.data, self.folder / "template", symlinks=True)
                self._installation.account.give(template)  # who cleans up behind us is the account
                self._templates.add(template)
                stack.callback(self._templates.discard, template)
            if self._tcp and self.port is None:
                self.port = _free_port()
            stack.callback(self.stop, "immediate")
            self.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it before its context does: nothing of it is left."""
        self._stack.close()

    @property
    def data(self) -> Path:
        """The data folder."""
        return self.folder / "data"

    @property
    def url(self) -> str:
        """The URL of its database `postgres`: by TCP where it was asked for, else by the socket."""
        if self.port is None:
            return f"postgresql://postgres@/postgres?host={self.folder}"
        return f"postgresql://postgres@{LOOPBACK}:{self.port}/postgres"

    @property
    def pid(self) -> int:
        """The process id of the postmaster; another one after each start."""
        assert self._process is not None, "it is stopped"  # noqa: S101 - a mistake of the caller's
        return self._process.pid

    @property
    def log(self) -> str:
        """What it has written, over all starts."""
        file = self.folder / "log"
        return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""

    def start(self, **settings: str | int) -> None:
        """Start it, this once with other settings, and wait until it takes connections: after a crash, has recovered.

        Raises:
            NoPostgres: it did not come up.
        """
        assert self._process is None, "it runs"  # noqa: S101 - a mistake of the caller's
        address = {"listen_addresses": LOOPBACK if self.port else "", "port": self.port or 5432}
        chosen = {**address, **self._settings, **settings}
        options = [part for name, value in chosen.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - a binary that was looked for
                self._installation.command("postgres", "-D", str(self.data), "-k", str(self.folder), *options),
                cwd="/",
                env={**os.environ, "LC_ALL": "C", **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us; we end the server
            )
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Wait until it takes connections.

        Raises:
            NoPostgres: it ended, or takes too long.
        """
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=START_SECONDS).close()
            except psycopg.OperationalError as error:
                ended = self._process is None or self._process.poll() is not None
                if ended or time.monotonic() > deadline:
                    raise NoPostgres(f"postgres did not come up: {error}\n{self.log[-LOG_CHARACTERS:]}") from error
                time.sleep(0.02)
            else:
                return

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop it, if it runs.

        `immediate` is a crash that its processes notice, `kill` is SIGKILL to all of them: nothing is written, and the
        next start recovers.
        """
        if self._process is None:
            return
        try:
            if mode == "kill" and self._process.poll() is None:
                self._kill()
            else:
                self.resume()
                self._process.send_signal(_SIGNALS[mode])
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(STOP_SECONDS)
            raise
        finally:
            self._process = None

    def restart(self, mode: StopMode = "fast", **settings: str | int) -> None:
        """Stop and start it, this once with other settings."""
        self.stop(mode)
        self.start(**settings)

    def crash(self) -> None:
        """Kill the process of one connection: the postmaster ends all others, recovers and goes on as the same."""
        with psycopg.connect(self.url) as victim:
            process = psutil.Process(victim.info.backend_pid)
            process.kill()
            _wait([process])  # until the postmaster knows: before, it would still take connections
            with contextlib.suppress(psycopg.OperationalError):
                victim.execute("SELECT 1")
        self.wait_until_ready()

    def pause(self) -> None:
        """Freeze all its processes: connections stay open, and nothing answers."""
        psutil.Process(self.pid).suspend()  # first the one that would start others
        frozen = [psutil.Process(self.pid), *self._children()]
        for process in frozen:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
        _wait(frozen, psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)  # a signal is sent at once and heard a little later

    def resume(self) -> None:
        """Let them go on."""
        for child in self._children():
            with contextlib.suppress(psutil.NoSuchProcess):
                child.resume()
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(self.pid).resume()

    def execute(self, *statements: str) -> list[Any]:
        """Run statements, each on its own; the rows of the last one."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def run(self, program: str, *arguments: str) -> None:
        """Run one of Postgres' programs, such as pg_checksums, on its data.

        Raises:
            ProgramFailed: its exit status is not 0.
        """
        self._installation.run(program, *arguments, data=self.data)

    def standby(self, *, port: int | None = None) -> PostgresServer:
        """A server that follows it, with the same settings: its context copies this one, which has to run then."""
        found = PostgresServer(tcp=self._tcp, port=port, settings=self._settings, environment=self._environment)
        found._parent = self._parent
        found._followed = self
        return found

    def promote(self) -> None:
        """Make a standby a primary; returns when it is one.

        Raises:
            NoPostgres: it takes too long.
        """
        if self.execute(f"SELECT pg_promote(true, {START_SECONDS})") != [(True,)]:
            raise NoPostgres(f"the standby was not promoted\n{self.log[-LOG_CHARACTERS:]}")

    def _make_cluster(self) -> None:
        if self._followed is not None:
            options = ("--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync")
            self.run("pg_basebackup", f"--pgdata={self.data}", f"--dbname={self._followed.url}", *options)
            return
        if self._templates:
            shutil.copytree(next(iter(self._templates)), self.data, symlinks=True)
            self._installation.account.give(self.data)
            return
        # No sync of the empty cluster; the server itself syncs as it always does.
        options = ("--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-sync")
        try:
            self.run("initdb", *options, "--locale=C.UTF-8")
        except ProgramFailed:  # that locale is not on every machine
            try:
                self.run("initdb", *options, "--locale=C")
            except ProgramFailed as error:
                raise NoPostgres(str(error)) from error

    def _kill(self) -> None:
        self.pause()  # a postmaster that goes on could start a process that is missed
        processes = [*self._children(), psutil.Process(self.pid)]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        # Who outlived the postmaster would keep the next one from starting, and so would its file, should another
        # process have got its id by then.
        _wait(processes, psutil.STATUS_ZOMBIE)
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def _children(self) -> list[psutil.Process]:
        while True:
            try:
                return psutil.Process(self.pid).children(recursive=True)
            except psutil.NoSuchProcess as ended:
                if ended.pid == self.pid:
                    return []  # else it was a child that ended while it was looked at


def _wait(processes: list[psutil.Process], *states: str) -> None:
    """Wait until each is in one of the states, or gone."""
    deadline = time.monotonic() + STOP_SECONDS
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            while process.is_running() and process.status() not in states and time.monotonic() < deadline:
                time.sleep(0.005)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind((LOOPBACK, 0))
        port: int = found.getsockname()[1]
        return port
