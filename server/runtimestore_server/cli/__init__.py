"""The command line: one module a command.

A command is a module of this package with the command's name; its `command` is what click is to run, and what that
returns is the exit code. To add one, write the module and put its name into `COMMANDS`: help, completion and the tests
of mistyped command lines find it there. A command with commands of its own is a `click.Group` in the same place.
"""

from __future__ import annotations

import gc
import importlib

import click

from runtimestore_server import core_dumps
from runtimestore_server.cli.refusals import INTERRUPTED, MISUSED, Refused, complain, sentence

COMMANDS = ("serve", "migrate", "verify", "backup", "restore", "token", "health", "version")
"""In the order in which help lists them."""


class _Commands(click.Group):
    """Commands that are loaded when they are called: `health` is a probe, and has no time to load what serves."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"{__name__}.{cmd_name}").command
        gc.freeze()  # what is loaded stays to the end: no collection need go through it
        gc.enable()
        return command

    def invoke(self, ctx: click.Context) -> int:
        try:
            code: int = super().invoke(ctx)
        except KeyboardInterrupt:  # here, because click writes an empty line for it
            return INTERRUPTED
        return code


@click.group(
    cls=_Commands,
    no_args_is_help=False,  # a script that forgot the command is to fail
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog="`runtimestore COMMAND --help` tells what a command takes.",
)
@click.version_option(package_name="runtimestore", message="runtimestore %(version)s")
def runtimestore() -> None:
    """Serve and tend a durable gRPC store for AI agent runtimes, on SQLite or Postgres."""


def run(arguments: list[str]) -> int:
    """Run one command; the exit code."""
    core_dumps.write_none()
    try:
        code: int = runtimestore.main(arguments, prog_name="runtimestore", standalone_mode=False)
    except click.UsageError as error:
        complain(sentence(error))
        return MISUSED
    except Refused as refused:
        for told in refused.sentences:
            complain(told)
        return refused.code
    return code
