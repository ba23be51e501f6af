"""Disks that are small or take no writes. What needs rights that the tests do not have is skipped, with the reason."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1024 * 1024


class SmallDisk:
    """A file system of its own, in memory, with a size."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self, *, leave_bytes: int = 0) -> None:
        """Take all room but `leave_bytes`, as somebody else's file would."""
        with self._ballast.open("ab") as file:
            free = os.statvfs(self.folder)
            left = free.f_bavail * free.f_bsize - leave_bytes
            if left > 0:
                os.posix_fallocate(file.fileno(), self._ballast.stat().st_size, left)

    def make_room(self) -> None:
        """Give all that `fill` took."""
        self._ballast.unlink(missing_ok=True)


@contextlib.contextmanager
def small_disk(folder: Path, *, size_bytes: int) -> Iterator[SmallDisk]:
    """A small file system at `folder`."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except FileNotFoundError:
        pytest.skip("no command mount here: install the package mount")
    if done.returncode:
        pytest.skip(f"no small file system may be mounted here (run as root for it): {done.stderr.strip()}")
    try:
        yield SmallDisk(folder)
    finally:
        # Lazily: a process that has used a store there keeps SQLite's index of it open as long as it lives.
        subprocess.run(["umount", "--lazy", str(folder)], check=True, timeout=30)


@contextlib.contextmanager
def coarse_disk(folder: Path) -> Iterator[Path]:
    """A small file system whose times are whole seconds: an ext2 whose inodes have no room for more."""
    image = folder.with_suffix(".image")
    image.write_bytes(bytes(4 * MIB))
    folder.mkdir()
    for command in (["mkfs.ext2", "-q", "-I", "128", str(image)], ["mount", "-o", "loop", str(image), str(folder)]):
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        except FileNotFoundError:
            pytest.skip(f"no command {command[0]} here: install the packages e2fsprogs and mount")
        if done.returncode:
            pytest.skip(f"no file may be mounted here (run as root for it): {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, timeout=30)


@contextlib.contextmanager
def unwritable(file: Path) -> Iterator[None]:
    """Inside, nobody can open this file for writing, not even root."""
    if os.geteuid() == 0:
        with immutable(file):
            yield
        return
    mode = file.stat().st_mode
    file.chmod(0o444)
    try:
        yield
    finally:
        file.chmod(mode)


@contextlib.contextmanager
def immutable(*files: Path) -> Iterator[None]:
    """Inside, nobody can write these files, not even who has them open."""
    if shutil.which("chattr") is None:
        pytest.skip("no command chattr here: install the package e2fsprogs")
    done = subprocess.run(["chattr", "+i", *files], capture_output=True, text=True, check=False, timeout=30)
    try:
        if done.returncode:
            pytest.skip(f"no file may be made immutable here (run as root for it): {done.stderr.strip()}")
        yield
    finally:
        subprocess.run(["chattr", "-i", *files], capture_output=True, check=False, timeout=30)


@contextlib.contextmanager
def limited_file_size(process_id: int, size_bytes: int) -> Iterator[None]:
    """Inside, a process cannot make a file larger than this."""
    before = resource.prlimit(process_id, resource.RLIMIT_FSIZE)
    resource.prlimit(process_id, resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.prlimit(process_id, resource.RLIMIT_FSIZE, before)
