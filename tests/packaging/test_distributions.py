"""What is in the wheel and in the sdist."""

from __future__ import annotations

import tarfile
import zipfile
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


def test_the_wheel_holds_three_packages_and_nothing_of_the_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()

    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {
        "runtimestore",
        "runtimestore_server",
        "runtimestore_migrations",
    }


def test_the_wheel_holds_the_stubs_the_type_marker_the_migrations_and_the_licence(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()

    assert {
        "runtimestore/py.typed",
        "runtimestore/v1/runtime_store_pb2.py",
        "runtimestore/v1/runtime_store_pb2.pyi",
        "runtimestore/v1/runtime_store_pb2_grpc.pyi",
        "runtimestore_migrations/env.py",
    } <= set(names)
    assert [name for name in names if name.startswith("runtimestore_migrations/versions/0001_")]
    assert [name for name in names if name.endswith("dist-info/licenses/LICENSE")]


def test_the_sdist_holds_what_a_packager_needs_to_build_and_to_test(distributions: Path) -> None:
    (sdist,) = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}

    assert {
        "LICENSE",
        "Makefile",
        "README.md",
        "examples/README.md",
        "examples/go/go.sum",
        "examples/recovery/__main__.py",
        "examples/typescript/package.json",
        "proto/buf.yaml",
        "proto/runtimestore/v1/runtime_store.proto",
        "scripts/setup",
        "tests/packaging/test_distributions.py",
        "tests/samples/session_10_turns.json",
    } <= names
