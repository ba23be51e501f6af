"""Command lines that are mistyped: refused without being repeated, for any part may be a password."""

from __future__ import annotations

import argparse
import difflib
import math
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence


LONGEST_SECONDS = 1e6


class Parser(argparse.ArgumentParser):
    """A parser of flags that never quotes what it does not know."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def parse_args(self, args: Sequence[str], namespace: Any = None) -> Any:  # type: ignore[override]  # narrower
        """The values of the flags; ends the process with code 2 if an argument is unknown."""
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.refuse(unknown)
        return parsed

    def refuse(self, unknown: Sequence[str]) -> NoReturn:
        """End the process with code 2 and name the first unknown argument as far as it can hold no value."""
        flags = [flag for action in self._actions for flag in action.option_strings]
        self.error(_described(unknown[0], flags))


def seconds(text: str) -> float:
    """The value of a flag that is a time.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 <= found <= LONGEST_SECONDS:
        raise argparse.ArgumentTypeError(f"must be a number of seconds from 0 to {LONGEST_SECONDS:g}")
    return found


def check_flags(arguments: Sequence[str], known: Mapping[str, bool], *, command: str) -> None:
    """See that a command line consists of known flags, each with its value if it is one that takes a value.

    Raises:
        SystemExit: it does not; the message quotes no value.
    """
    expects_value = False
    for argument in arguments:
        if expects_value:
            expects_value = False
            continue
        name, has_value, _ = argument.partition("=")
        if name in ("-h", "--help"):
            return
        if name not in known:
            parser = argparse.ArgumentParser(
                prog=f"runtimestore {command}", usage=f"runtimestore {command} [--FLAG VALUE]…"
            )
            parser.error(_described(argument, known))
        expects_value = known[name] and not has_value


def _described(argument: str, known: Collection[str]) -> str:
    if not argument.startswith("-"):
        return "an argument that belongs to no flag (not repeated here: it may hold a password); see --help"
    name = argument.partition("=")[0]
    close = difflib.get_close_matches(name.replace("_", "-"), known, n=1)
    # Only what looks like a name: behind a lone dash anything may stand.
    shown = name if name.removeprefix("--").replace("-", "").replace("_", "").isalnum() else "a flag"
    return f"unknown flag: {shown}" + (f"; did you mean {close[0]}?" if close else "; see --help")
