from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.servers.clean_environment import CleanEnvironment, clean_environment_with, outside_the_checkout

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and with the wheel that was built from that sdist alone."""
    directory = tmp_path_factory.mktemp("dist")
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
    return directory


@pytest.fixture(scope="session")
def wheel(distributions: Path) -> Path:
    (found,) = distributions.glob("*.whl")
    return found


@pytest.fixture(scope="session")
def thin(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> CleanEnvironment:
    """Where `pip install runtimestore` was run."""
    return clean_environment_with(str(wheel), tmp_path_factory.mktemp("environment") / "thin")


@pytest.fixture(scope="session")
def with_server(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> CleanEnvironment:
    """Where `pip install runtimestore[server]` was run."""
    return clean_environment_with(f"{wheel}[server]", tmp_path_factory.mktemp("environment") / "server")
