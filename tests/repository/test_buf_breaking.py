"""No change of the protos breaks a caller unnoticed: `scripts/buf-breaking` in a clone of this repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROTO = Path("proto/runtimestore/v1/runtime_store.proto")
NOBODY = {
    f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in (("NAME", "n"), ("EMAIL", "n@n"))
}


class Clone:
    """A repository with a `main` that holds the protos and the script as they are here, and no release."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
            **NOBODY,
            "GIT_CONFIG_GLOBAL": os.devnull,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        }
        self.git("clone", "--quiet", "--no-tags", str(ROOT), ".")
        self.git("checkout", "--quiet", "-B", "main")
        self.git("remote", "remove", "origin")
        for name in ("proto", "scripts"):
            shutil.rmtree(folder / name)
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        self.commit()

    def git(self, *arguments: str) -> None:
        self._run("git", *arguments).check_returncode()

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", "any")

    def change(self, old: str, new: str) -> None:
        file = self._folder / PROTO
        text = file.read_text(encoding="utf-8")
        assert old in text
        file.write_text(text.replace(old, new, 1), encoding="utf-8")

    def renumber_a_field(self) -> None:
        self.change("uint64 revision = 2;", "uint64 revision = 77;")

    def add_a_message(self) -> None:
        file = self._folder / PROTO
        file.write_text(file.read_text(encoding="utf-8") + "\nmessage Added {}\n", encoding="utf-8")

    def breaks(self) -> bool:
        """What the script decides."""
        done = self._run("scripts/buf-breaking")
        assert "no earlier proto files" not in done.stdout
        assert done.returncode == 0 or PROTO.name in done.stdout + done.stderr, done.stdout + done.stderr
        return done.returncode != 0

    def _run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self._folder, env=self._environment, capture_output=True, text=True, timeout=120, check=False
        )


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    return Clone(tmp_path)


def test_a_branch_is_compared_with_where_it_left_main(clone: Clone) -> None:
    clone.git("checkout", "--quiet", "-b", "change")
    clone.add_a_message()
    clone.commit()
    assert not clone.breaks()

    clone.renumber_a_field()
    clone.commit()
    clone.commit()
    assert clone.breaks()


def test_a_branch_is_not_blamed_for_what_main_gained_since(clone: Clone) -> None:
    clone.git("branch", "change")
    clone.add_a_message()
    clone.commit()

    clone.git("checkout", "--quiet", "change")
    clone.change("syntax", "// A comment.\nsyntax")
    clone.commit()

    assert not clone.breaks()


def test_a_commit_on_main_that_breaks_is_found_after_others_too(clone: Clone) -> None:
    clone.add_a_message()
    clone.commit()
    assert not clone.breaks()

    clone.renumber_a_field()
    clone.commit()
    assert clone.breaks()
    clone.commit()
    assert clone.breaks()


def test_what_is_not_committed_is_compared_with_the_last_commit(clone: Clone) -> None:
    clone.add_a_message()
    assert not clone.breaks()

    clone.commit()
    clone.change("\nmessage Added {}\n", "")
    assert clone.breaks()


def test_what_was_never_released_may_change_after_a_release(clone: Clone) -> None:
    clone.git("tag", "v1.0.0")
    clone.add_a_message()
    clone.commit()
    clone.change("\nmessage Added {}\n", "")
    clone.commit()
    assert not clone.breaks()

    clone.renumber_a_field()
    clone.commit()
    assert clone.breaks()
    # The release that breaks is compared with the one before it, not with itself.
    clone.git("tag", "v1.1.0")
    assert clone.breaks()
