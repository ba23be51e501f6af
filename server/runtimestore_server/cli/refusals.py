"""Says why a command cannot go on: on standard error, in sentences that hold no value of the command line.

click's own messages quote what was typed. Any part of that may be a password, so none of them is shown: a sentence is
made anew from the class of click's error.
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

MISUSED = 2
"""The exit code for a command line, a variable or a file of settings that cannot be meant."""

CANNOT = 2
"""That of commands on a whole store which could not do it."""

INTERRUPTED = 130
"""That of a command that was told to end by Ctrl-C, as shells have it."""


class Refused(Exception):
    """What ends a command: sentences for whoever called it, and an exit code."""

    def __init__(self, *sentences: str, code: int) -> None:
        super().__init__(*sentences)
        self.sentences = sentences
        self.code = code


class BadValue(click.BadParameter):
    """The value of a flag is bad; unlike other errors of click's, the message never quotes it and can be shown."""


def complain(told: str) -> None:
    """Write one sentence to standard error, if it takes any: the exit code must say the same either way."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"runtimestore: {told}\n".encode(errors="backslashreplace").decode())
        sys.stderr.flush()


def sentence(error: click.UsageError) -> str:
    """Return what is wrong with a command line, without any of its values."""
    if error.ctx is not None and isinstance(error.ctx.command, click.Group):
        return _about_a_command(error, error.ctx.command.list_commands(error.ctx))
    if isinstance(error, click.NoSuchOption):
        return _unknown_flag(error)
    if isinstance(error, click.BadOptionUsage):
        return error.message  # a value is missing, or one is too many; it names a flag that exists, and nothing else
    if isinstance(error, click.BadParameter) and error.param is not None and error.ctx is not None:
        return f"{error.param.opts[0]}: {_about_a_value(error, error.param.make_metavar(error.ctx))}"
    return "an argument that belongs to no flag (not repeated here: it may hold a password); see --help"


def _about_a_command(error: click.UsageError, commands: list[str]) -> str:
    if isinstance(error, click.NoSuchCommand):
        told = "no such command; there are"
    elif isinstance(error, click.NoSuchOption):
        told = "the command comes first, its flags behind it:"
    else:
        told = "what is to be done?"
    return f"{told} {' | '.join(commands)}"


def _unknown_flag(error: click.NoSuchOption) -> str:
    name = error.option_name
    # Only what looks like a name: behind a lone dash anything may stand.
    shown = name if name.removeprefix("--").replace("-", "").replace("_", "").isalnum() else "a flag"
    cure = f"did you mean {error.possibilities[0]}?" if error.possibilities else "see --help"
    return f"unknown flag: {shown}; {cure}"


def _about_a_value(error: click.BadParameter, expected: str) -> str:
    if isinstance(error, BadValue):
        return error.message
    return "is missing; see --help" if isinstance(error, click.MissingParameter) else f"must be {expected}; see --help"


@contextlib.contextmanager
def refusing(*refusals: type[Exception], code: int, escaped: bool = False) -> Iterator[None]:
    """End the command with one sentence where a database cannot be used, or by one of these refusals.

    `escaped` as `printable` has it: a file, whose name may hold anything, is named in the sentence.

    Raises:
        Refused: one of them happened.
    """
    from sqlalchemy.exc import DBAPIError

    from runtimestore_server.store.engines import CannotOpen, EngineRefusal, in_a_sentence

    try:
        yield
    except DBAPIError as error:
        told = in_a_sentence(error)
    except EngineRefusal as error:
        told = f"{error.sentence()}; see --database-url"
    except CannotOpen as error:
        told = str(error)
    except refusals as error:
        told = str(error)
    else:
        return
    if escaped:
        from runtimestore_server.verify.findings import printable

        told = printable(told)
    raise Refused(told, code=code) from None
