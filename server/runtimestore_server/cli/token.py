"""`runtimestore token`: make tokens and list who may come in."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from typing import TYPE_CHECKING, Any

import click

from runtimestore_server.cli.flags import SOURCES, takes_settings
from runtimestore_server.cli.output import show
from runtimestore_server.cli.refusals import MISUSED, BadValue, Refused, refusing

if TYPE_CHECKING:
    from pathlib import Path

    from runtimestore_server.settings import Settings


class _Until(click.ParamType[datetime]):
    """A day at whose end something ends, by UTC."""

    name = "day"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Return the last second of the day."""
        try:
            day = date.fromisoformat(value)
        except ValueError:
            raise BadValue("must be a day such as 2027-01-31, without a time", ctx, param) from None
        until = datetime.combine(day, time(23, 59, 59), UTC)
        if until < datetime.now(UTC):
            raise BadValue("must be today or a later day: the token would let nobody in", ctx, param)
        return until


@click.group
def command() -> None:
    """Make tokens and list who may come in, by the file that `serve --access-file` goes by."""


@command.command(epilog=SOURCES)
@click.argument("name", metavar="NAME")
@click.option(
    "--realm",
    "realms",
    multiple=True,
    metavar="REALM",
    required=True,
    help="A realm that it may use, or a prefix with * behind it, or * for all; again for more.",
)
@click.option(
    "--access",
    type=click.Choice(("read", "write", "admin")),
    required=True,
    help="What it may call: loads (read), writes too (write), everything (admin).",
)
@click.option("--until", type=_Until(), metavar="DAY", help="The last day, by UTC, on which it lets anybody in.")
@takes_settings("access_file", "config", "log_level", "log_format")
def new(settings: Settings, name: str, realms: tuple[str, ...], access: str, until: datetime | None) -> int:
    """Add a token for NAME to the access file, and print it: this once, for the file keeps its SHA-256 only.

    A running server lets it in with the next call. To change a token make a second one, take it into use, and then take
    the first one's entry out of the file.
    """
    from runtimestore_server.access.entries import add_token
    from runtimestore_server.access.rules import Unusable

    with refusing(Unusable, code=1):
        add_token(_file_of(settings), name, realms, access, until, show=show)
    return 0


@command.command("list", epilog=SOURCES)
@takes_settings("access_file", "config", "log_level", "log_format")
def list_(settings: Settings) -> int:
    """List who may come in: a line for each entry of the access file, with how many tokens it has, and none of them."""
    from runtimestore_server.access.access_file import AccessFile
    from runtimestore_server.access.rules import Unusable

    with refusing(Unusable, code=1):
        entries = AccessFile(_file_of(settings)).rules().entries
    lines = []
    for principal, tokens, sans in entries:
        shown = [f"{tokens} token{'' if tokens == 1 else 's'}"] if tokens else []
        until = f"until {_by_utc(principal.until)}" if principal.until else ""
        ended = " (ended)" if principal.ended else ""
        words = (principal.name, principal.access.told, ",".join(principal.realms), ",".join([*shown, *sans]), until)
        lines.append("  ".join(word for word in words if word) + ended)
    show(*lines)
    return 0


def _by_utc(until: datetime) -> str:
    """Tell when something ends, by UTC; as it stands there, where UTC would be in no year that there is."""
    try:
        return f"{until.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    except OverflowError:
        return until.isoformat()


def _file_of(settings: Settings) -> Path:
    if settings.access_file is None:
        raise Refused("which file? give --access-file, or RUNTIMESTORE_ACCESS_FILE", code=MISUSED)
    return settings.access_file
