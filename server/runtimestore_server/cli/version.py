"""`runtimestore version`: print the version, as `runtimestore --version` does."""

from __future__ import annotations

import click

from runtimestore_server.cli.output import show


@click.command
def command() -> int:
    """Print the version."""
    from importlib.metadata import version

    show(f"runtimestore {version('runtimestore')}")
    return 0
