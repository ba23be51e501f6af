"""The demo: one runtime lives, its server is killed in the middle of a turn, and it recovers."""

from __future__ import annotations

import argparse
import sys

__all__ = ["main", "run_demo"]

DESCRIPTION = """\
Start a server on a SQLite file of its own, run ten turns of one agent runtime on it, kill the server with SIGKILL in
the middle of a turn, start it again, recover, and compare every byte with what had been acknowledged. Exit code 0: all
are equal.
"""


def main(arguments: list[str]) -> int:
    """Play the demo as the arguments say; the exit code."""
    parser = argparse.ArgumentParser(prog="demo", description=DESCRIPTION)
    parser.add_argument(
        "--pace-seconds",
        type=float,
        default=0.25 if sys.stdout.isatty() else 0.0,
        help="a pause after each turn, for people who watch (default: 0.25 in a terminal, else 0)",
    )
    try:
        return run_demo(pace_seconds=parser.parse_args(arguments).pace_seconds)
    except KeyboardInterrupt:
        return 130


def run_demo(*, pace_seconds: float = 0.0) -> int:
    """Play the demo; 0 if every byte that was acknowledged came back, 1 and the difference otherwise."""
    from runtimestore_server.demo.story import play

    return play(pace_seconds=pace_seconds)
