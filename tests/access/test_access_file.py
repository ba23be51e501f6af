"""The access file on the disk: written in place, swapped, cut off, too large, or no file at all."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog.testing

from runtimestore_server.access import access_file as module
from runtimestore_server.access.access_file import EMPTY_SECONDS, MOST_BYTES, AccessFile
from runtimestore_server.access.certificate_files import CertificateFiles
from runtimestore_server.access.entries import add_token
from runtimestore_server.access.rules import Unusable, parsed
from runtimestore_server.access.tokens import digest_of
from support.faults.disk import coarse_disk
from support.servers.access import access_file, entry, new_token, server_files
from support.servers.command import run, serving

if TYPE_CHECKING:
    from runtimestore_server.access.rules import Rules


def lets_in(rules: Rules, token: str) -> bool:
    """Whether a token is somebody's."""
    return rules.by_token(digest_of(token)) is not None


def open_files() -> int:
    """How many descriptors this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("how", ["in place", "renamed", "a link that is swapped"])
def test_each_change_is_taken_up_at_once_however_soon_it_follows_and_however_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    # File systems of older kernels tick a hundred times a second.
    monkeypatch.setattr(module, "_of", lambda status: (status.st_ctime_ns // 10**7, status.st_size, status.st_ino))
    tokens = [new_token(), new_token()]
    path = tmp_path / "access.toml"
    targets = [access_file(tmp_path / f"{number}.toml", [entry("a", token)]) for number, token in enumerate(tokens)]
    path.symlink_to(targets[1]) if how.startswith("a link") else path.write_text(targets[1].read_text())
    file = AccessFile(path)
    for turn in range(200):
        now = turn % 2
        if how == "in place":
            path.write_text(targets[now].read_text())  # as long as the one before
        elif how == "renamed":
            access_file(path, [targets[now].read_text()])
        else:
            (tmp_path / "new").symlink_to(targets[now])
            (tmp_path / "new").replace(path)
        rules = file.rules()
        assert [lets_in(rules, token) for token in tokens] == [now == 0, now == 1], turn


def test_each_change_is_taken_up_where_the_times_of_files_are_whole_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TICK_NS", 0)  # nothing but what the file system shows keeps it from being settled
    monkeypatch.setattr(module, "COARSE_TICK_NS", 10**13)  # however long a busy machine takes for a turn
    tokens = [new_token(), new_token()]
    with coarse_disk(tmp_path / "disk") as disk:
        path = disk / "access.toml"
        texts = [entry("a", token) for token in tokens]
        path.write_text(texts[1])
        file = AccessFile(path)
        for turn in range(100):
            path.write_text(texts[turn % 2])  # in place, and as long as the one before
            rules = file.rules()
            assert [lets_in(rules, token) for token in tokens] == [turn % 2 == 0, turn % 2 == 1], turn
            assert not CertificateFiles(path, path, None).settled()


def test_a_file_that_is_being_written_in_place_locks_nobody_out_and_one_that_stays_empty_does(tmp_path: Path) -> None:
    now = 0.0
    path = access_file(tmp_path / "access.toml", [entry("a", token := new_token())])
    file = AccessFile(path, clock=lambda: now)
    path.write_text("")  # the moment between truncating and writing
    assert lets_in(file.rules(), token)
    path.write_text(entry("b", other := new_token()))
    assert lets_in(file.rules(), other)
    assert file.unusable is None

    path.write_text("\n")
    assert lets_in(file.rules(), other)
    now += EMPTY_SECONDS
    assert not lets_in(file.rules(), other)  # whoever empties it wants nobody in
    path.write_text(entry("b", other))
    assert lets_in(file.rules(), other)
    path.write_text("")
    assert lets_in(file.rules(), other)
    path.write_text(entry("b", other))  # as it was
    assert lets_in(file.rules(), other)
    now += EMPTY_SECONDS
    path.write_text("")
    assert lets_in(file.rules(), other)  # a moment is a moment again
    path.write_text("# nobody\n")
    assert not lets_in(file.rules(), other)


def test_a_file_with_a_comment_alone_lets_nobody_in_at_once(tmp_path: Path) -> None:
    path = access_file(tmp_path / "access.toml", [entry("a", token := new_token())])
    file = AccessFile(path)
    path.write_text("# nobody\n")
    assert not lets_in(file.rules(), token)


def test_a_file_cut_off_anywhere_lets_in_nobody_who_is_not_in_it_whole(tmp_path: Path) -> None:
    tokens = [new_token() for _ in range(3)]
    whole = "\n".join(entry(f"p{number}", token) for number, token in enumerate(tokens))
    usable = 0
    for end in range(1, len(whole)):
        try:
            rules = parsed(whole[:end])
        except Unusable:
            continue
        usable += 1
        known = [lets_in(rules, token) for token in tokens]
        assert known == sorted(known, reverse=True)
        # A prefix has the principals as they are, or not at all: never with more realms or another access.
        assert all(principal.realms == ("default",) for principal, _, _ in rules.entries)
        assert all(principal.access.told == "write" for principal, _, _ in rules.entries)
    assert 0 < usable < len(whole) / 2
    del tmp_path


@pytest.mark.parametrize("what", ["a pipe", "a device without an end", "a folder", "too large", "a link to nowhere"])
def test_what_is_no_file_of_bearable_size_leaves_the_rules_in_force_and_is_not_waited_for(
    tmp_path: Path, what: str
) -> None:
    path = access_file(tmp_path / "access.toml", [entry("a", token := new_token())])
    file = AccessFile(path)
    path.unlink()
    if what == "a pipe":
        os.mkfifo(path)
    elif what == "a folder":
        path.mkdir()
    elif what == "too large":
        path.write_bytes(b"#" * (MOST_BYTES + 1))
    else:
        path.symlink_to("/dev/zero" if what.startswith("a device") else "nowhere")
    descriptors = open_files()
    with structlog.testing.capture_logs() as logged:
        for _ in range(3):
            assert lets_in(file.rules(), token)
    assert open_files() == descriptors
    assert file.unusable is not None
    assert [line["log_level"] for line in logged] == ["error"]
    with pytest.raises(Unusable, match="--access-file"):
        AccessFile(path)


@pytest.mark.parametrize("text", ["x = " + "[" * 100_000, "until = " + "9" * 6_000], ids=["deep", "a long number"])
def test_what_no_parser_gets_through_leaves_the_rules_in_force(tmp_path: Path, text: str) -> None:
    path = access_file(tmp_path / "access.toml", [entry("a", token := new_token())])
    file = AccessFile(path)
    path.write_text(text)
    assert lets_in(file.rules(), token)
    assert file.unusable is not None
    with pytest.raises(Unusable, match="no TOML that can be read"):
        AccessFile(path)


@pytest.mark.parametrize("what", ["a pipe", "a folder"])
def test_an_entry_is_added_to_what_is_a_file_alone(tmp_path: Path, what: str) -> None:
    path = tmp_path / "access.toml"
    os.mkfifo(path) if what == "a pipe" else path.mkdir()
    kind = stat.S_IFMT(path.stat().st_mode)
    shown: list[str] = []
    with pytest.raises(Unusable, match="it is no regular file"):
        add_token(path, "a", ["default"], "read", None, show=shown.append)
    assert stat.S_IFMT(path.stat().st_mode) == kind
    assert shown == []


def test_a_key_that_is_a_pipe_keeps_no_start_waiting(tmp_path: Path) -> None:
    files = server_files(tmp_path)
    files["tls_key"].unlink()
    os.mkfifo(files["tls_key"])
    flags = [part for name, file in files.items() for part in (f"--{name.replace('_', '-')}", str(file))]
    done = run("serve", "--listen", "127.0.0.1:0", "--database-url", "memory:", *flags, cwd=tmp_path)
    assert done.returncode == 1
    assert "tls_key.pem: it is no regular file" in done.stderr


def test_a_file_that_changes_within_a_tick_is_parsed_once_for_each_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsings = []

    def counted(text: str) -> Rules:
        parsings.append(text)
        return parsed(text)

    monkeypatch.setattr(module, "parsed", counted)
    path = access_file(tmp_path / "access.toml", [entry("a", new_token())])
    file = AccessFile(path)
    for _ in range(100):
        file.rules()
    assert len(parsings) == 1
    time.sleep(0.15)
    file.rules()
    before = file._stamp
    file.rules()
    assert file._stamp is before is not None  # one system call from here on


def test_an_access_file_that_everybody_may_write_is_warned_of_and_one_that_they_read_is_not(tmp_path: Path) -> None:
    path = access_file(tmp_path / "access.toml", [entry("a", new_token())])
    listening = ("--listen", "127.0.0.1:0", "--database-url", "memory:", "--access-file", str(path))
    path.chmod(0o644)
    with serving(*listening, cwd=tmp_path) as server:
        assert "can write the access file" not in server.log
    path.chmod(0o646)
    with serving(*listening, cwd=tmp_path) as server:
        server.wait_for("can write the access file")
