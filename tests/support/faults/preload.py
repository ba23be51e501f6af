"""Libraries that go under a process by LD_PRELOAD and make its disk a bad one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def compiled(source: str, folder: Path) -> Path:
    """The library of a C file beside this one, in `folder`; skips the test where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler here: install the package gcc")
    library = (folder / source).with_suffix(".so")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", library, HERE / source, "-ldl", "-lpthread"],
        check=True,
        timeout=60,
    )
    return library
