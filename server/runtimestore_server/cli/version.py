"""`runtimestore version`: print the version, as `runtimestore --version` does."""

from __future__ import annotations

import sys

import click


@click.command
def command() -> int:
    """Print the version."""
    from importlib.metadata import version

    sys.stdout.write(f"runtimestore {version('runtimestore')}\n")
    return 0
