"""Each file that a command reads, in each shape that it cannot be used in: told in a sentence, and never waited for."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from support.servers.access import entry, new_token, server_files
from support.servers.command import run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HUGE_BYTES = 64 * 1024**3
"""More than any memory here; the file has a hole of that size and takes nothing on the disk."""


def _huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(HUGE_BYTES)


SHAPES: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a folder": lambda path: path.mkdir(),
    "empty": lambda path: path.touch(),
    "binary": lambda path: path.write_bytes(bytes(range(256)) * 16),
    "huge": _huge,
    "nothing": lambda _path: None,
    "below a file": lambda path: path.parent.write_bytes(b""),
}

SERVE = ("serve", "--listen", "127.0.0.1:0", "--metrics-listen", "", "--database-url", "memory:")
HEALTH = ("health", "--address", "127.0.0.1:1", "--timeout-seconds", "1")
NEW = ("token", "new", "agents", "--realm", "default", "--access", "read")

READERS: dict[str, tuple[str, ...]] = {
    "settings of serve": (*SERVE, "--config", "FILE"),
    "settings of health": (*HEALTH, "--config", "FILE"),
    "settings of token": ("token", "list", "--config", "FILE"),
    "access file of serve": (*SERVE, "--access-file", "FILE"),
    "access file of token list": ("token", "list", "--access-file", "FILE"),
    "access file of token new": (*NEW, "--access-file", "FILE"),
    "certificate of serve": (*SERVE, "--tls-cert", "FILE", "--tls-key", "tls_key.pem"),
    "key of serve": (*SERVE, "--tls-cert", "tls_cert.pem", "--tls-key", "FILE"),
    "client CA of serve": (*SERVE, "--tls-cert", "tls_cert.pem", "--tls-key", "tls_key.pem", "--tls-client-ca", "FILE"),
    "token of health": (*HEALTH, "--token-file", "FILE"),
    "CA of health": (*HEALTH, "--tls-ca", "FILE"),
    "certificate of health": (*HEALTH, "--tls-certificate", "FILE", "--tls-key", "tls_key.pem"),
    "key of health": (*HEALTH, "--tls-certificate", "tls_cert.pem", "--tls-key", "FILE"),
    "backup of restore": ("restore", "--database-url", "sqlite:///restored.db", "FILE"),
    "store of backup": ("backup", "--database-url", "sqlite:///FILE", "taken.backup"),
    "store of verify": ("verify", "--database-url", "sqlite:///FILE"),
    "passwords of libpq": ("verify", "--database-url", "postgresql://app@127.0.0.1:1/x?passfile=FILE"),
}

USED = {
    # An access file without a principal lets nobody in, and one that is not there is made.
    ("access file of serve", "empty"),
    ("access file of token list", "empty"),
    ("access file of token new", "empty"),
    ("access file of token new", "nothing"),
    # Without a setting: what is asked goes its way.
    ("settings of serve", "empty"),
    ("settings of health", "empty"),
    ("settings of token", "empty"),
}
"""What is no mistake."""

NAMED_BY = {
    # Not repeated: it may be a URL, or a token, that was meant for something else.
    "backup of restore": "FILE",
    "token of health": "--token-file",
    "passwords of libpq": "passfile",
    "store of backup": "database",
    "store of verify": "database",
}
"""What says which file is meant, where its path does not."""

LIBPQ_IGNORES = {"empty", "binary", "huge", "nothing", "below a file"}
"""What libpq finds no password in; it tells so by itself, and then that nobody answers."""


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("reader", READERS)
def test_a_file_that_cannot_be_used_is_told_in_a_sentence_and_not_waited_for(
    tmp_path: Path, reader: str, shape: str
) -> None:
    if (reader, shape) in USED:
        pytest.skip("this is a file that can be used")
    server_files(tmp_path)
    path = tmp_path / "below" / "given" if shape == "below a file" else tmp_path / "given"
    SHAPES[shape](path)

    done = run(*(part.replace("FILE", str(path)) for part in READERS[reader]), cwd=tmp_path)

    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    if reader == "passwords of libpq" and shape in LIBPQ_IGNORES:
        return
    assert len(done.stderr.splitlines()) == 1
    assert str(path) in done.stderr or NAMED_BY[reader] in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
@pytest.mark.parametrize("reader", READERS)
def test_a_file_that_this_user_may_not_read_is_told_in_a_sentence(tmp_path: Path, reader: str) -> None:
    server_files(tmp_path)
    path = tmp_path / "given"
    path.write_text(entry("agents", new_token()))
    path.chmod(0)

    done = run(*(part.replace("FILE", str(path)) for part in READERS[reader]), cwd=tmp_path)

    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    if reader == "passwords of libpq":  # libpq passes over it, and tells only that nobody answers
        return
    assert str(path) in done.stderr or NAMED_BY[reader] in done.stderr
    assert "Permission denied" in done.stderr or reader.startswith("store ")
