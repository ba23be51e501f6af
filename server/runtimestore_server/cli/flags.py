"""Flags that are made from the settings, and other values of flags that several commands take."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import click

from runtimestore_server.cli.refusals import MISUSED, BadValue, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pydantic import ValidationError
    from pydantic.fields import FieldInfo

    from runtimestore_server.settings import Settings

SOURCES = """\
A setting can be given as a flag, in the environment as RUNTIMESTORE_ and its name in capitals with underscores
(RUNTIMESTORE_DATABASE_URL), or in the TOML file that --config names (database_url = "sqlite:///runtimestore.db"). A
flag wins over the environment, the environment over the file.
"""
"""The end of the help of every command that takes settings."""

LONGEST_SECONDS = 1e6

_FILES = ("config", "tls_cert", "tls_key", "tls_client_ca", "access_file")

_PLACEHOLDERS = {
    "listen": "HOST:PORT",
    "metrics_listen": "HOST:PORT",
    "database_url": "URL",
    **dict.fromkeys(_FILES, "FILE"),
}
"""What the help shows as the value of a flag, where neither its unit nor its type tells."""


class Seconds(click.ParamType[float]):
    """A time as the value of a flag."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number of seconds."""
        try:
            found = float(value)
        except ValueError:
            found = math.nan
        if not 0 <= found <= LONGEST_SECONDS:
            raise BadValue(f"must be a number of seconds from 0 to {LONGEST_SECONDS:g}", ctx, param)
        return found


class _OneOf(click.Choice[str]):
    """One of a few words, for help and completion; whether it is one, the settings check like all else."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the word as it was given."""
        del param, ctx
        return str(value)


def takes_settings(*names: str) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Give a command a flag for each of these settings, by default for all of them.

    The command is called with the `Settings` that flags, environment and file give together, and its log is configured
    as they say.
    """
    from runtimestore_server.settings import Settings

    chosen = {name: Settings.model_fields[name] for name in names or Settings.model_fields}

    def decorate(command: Callable[..., int]) -> Callable[..., int]:
        @functools.wraps(command)
        def with_settings(**values: Any) -> int:
            from runtimestore_server import logs

            settings = settings_from({name: values.pop(name) for name in chosen})
            with logs.logging_to_stderr(level=settings.log_level, style=settings.log_format):
                return command(settings, **values)

        flagged: Callable[..., int] = with_settings
        for name, field in reversed(chosen.items()):  # as decorators stand: the last is put on first
            flagged = _flag(name, field)(flagged)
        return flagged

    return decorate


def settings_from(flags: Mapping[str, Any]) -> Settings:
    """Return the settings that these flags, the environment and the file give; a flag that is None was not given.

    Raises:
        Refused: a variable is mistyped, the file cannot be read or a value is bad; each bad setting has its sentence.
    """
    from pydantic import ValidationError

    from runtimestore_server.settings import load
    from runtimestore_server.settings_sources import BadSource

    try:
        return load({name: value for name, value in flags.items() if value is not None})
    except BadSource as error:
        raise Refused(str(error), code=MISUSED) from None
    except ValidationError as error:
        raise Refused(*_sentences(error), code=MISUSED) from None


def _sentences(error: ValidationError) -> list[str]:
    told = []
    for problem in error.errors(include_input=False, include_url=False):
        name = ".".join(str(part) for part in problem["loc"])
        said = "there is no such setting; see `runtimestore serve --help`"
        if problem["type"] != "extra_forbidden":
            said = problem["msg"].removeprefix("Value error, ")
        told.append(f"setting {name}: {said}")
    return told


def _flag(name: str, field: FieldInfo) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Return the flag of one setting; its value is taken as text, and the settings say what is wrong with it."""
    flag = f"--{name.replace('_', '-')}"
    told = f"{field.description} (default: {'none' if field.default is None else field.default})"
    if field.annotation is bool:
        return click.option(f"{flag}/{flag.replace('--', '--no-', 1)}", default=None, help=told)
    if get_origin(field.annotation) is Literal:
        return click.option(flag, type=_OneOf(get_args(field.annotation)), help=told)
    unit = name.rpartition("_")[2]
    placeholder = unit.upper() if unit in ("bytes", "seconds") else "COUNT" if field.annotation is int else "TEXT"
    return click.option(
        flag,
        type=click.Path(readable=False) if name in _FILES else str,
        metavar=_PLACEHOLDERS.get(name, placeholder),
        help=told,
    )
