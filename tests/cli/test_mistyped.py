"""A mistyped command line is refused without being repeated: any part of it may be a password."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import pytest

from runtimestore import RuntimeStoreClient
from runtimestore_server.cli import COMMANDS
from runtimestore_server.cli.refusals import sentence
from support.servers.command import run, serving

if TYPE_CHECKING:
    from pathlib import Path

PASSWORD = "correct-horse-7b1"  # noqa: S105  (nobody's)
URL = f"postgresql://app:{PASSWORD}@127.0.0.1:1/store"


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "arguments",
    [
        ("--database_url", URL),
        (f"--database_url={URL}",),
        ("--databse-url", URL),
        ("--database", URL),
        (URL,),
        (f"-d{URL}",),
        (f"--{URL}",),
    ],
    ids=["underscore", "underscore and =", "misspelt", "cut short", "no flag", "short flag", "dashes in front"],
)
def test_what_is_mistyped_is_refused_and_no_password_is_shown(
    tmp_path: Path, command: str, arguments: tuple[str, ...]
) -> None:
    done = run(command, *arguments, cwd=tmp_path)

    assert done.returncode == 2
    assert PASSWORD not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.strip()


@pytest.mark.parametrize("arguments", [(URL,), ("--database-url", URL, "serve"), ("sreve", URL)])
def test_a_command_line_without_a_command_shows_no_password(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = run(*arguments, cwd=tmp_path)

    assert done.returncode == 2
    assert PASSWORD not in done.stdout + done.stderr
    assert "serve" in done.stderr


def test_a_misspelt_flag_is_told_with_the_one_that_was_meant(tmp_path: Path) -> None:
    done = run("serve", "--database_url", URL, cwd=tmp_path)

    assert "--database_url" in done.stderr
    assert "did you mean --database-url?" in done.stderr


@pytest.mark.parametrize("switch", ["--require-fence", "--no-require-fence"])
def test_a_switch_takes_no_value_and_what_comes_after_it_is_read(tmp_path: Path, switch: str) -> None:
    with (
        serving(switch, "--listen", "127.0.0.1:0", "--database-url", "memory:", cwd=tmp_path) as server,
        RuntimeStoreClient(server.address) as client,
    ):
        assert ("fence_required" in client.get_server_info().capabilities) is not switch.startswith("--no")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("serve", "--listen"), "Option '--listen' requires an argument."),
        (("serve", f"--require-fence={PASSWORD}"), "Option '--require-fence' does not take a value."),
        (("serve", f"--no-require-fence={PASSWORD}"), "Option '--no-require-fence' does not take a value."),
        (("serve", "--log-level", PASSWORD), "setting log_level: Input should be 'debug'"),
        (("verify", f"--json={PASSWORD}"), "Option '--json' does not take a value."),
        (("serve", "--listen", "--database-url", URL), "an argument that belongs to no flag"),
        (("serve", "--", URL), "an argument that belongs to no flag"),
        (("serve", "--max-batch-writes", PASSWORD), "setting max_batch_writes: Input should be a valid integer"),
    ],
)
def test_a_flag_that_is_misused_is_named_without_its_value(
    tmp_path: Path, arguments: tuple[str, ...], told: str
) -> None:
    done = run(*arguments, cwd=tmp_path)

    assert done.returncode == 2
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
    assert PASSWORD not in done.stdout + done.stderr


@pytest.mark.parametrize("of_click", [click.INT, click.FloatRange(0, 1), click.Choice(["a", "b"]), click.File()])
def test_a_value_that_a_type_of_click_refuses_is_not_shown_by_a_command_yet_to_come(
    of_click: click.ParamType[object],
) -> None:
    command = click.Command("later", params=[click.Option(["--key"], type=of_click)])

    with pytest.raises(click.UsageError) as refused:
        command.main(["--key", PASSWORD], standalone_mode=False)

    assert PASSWORD in refused.value.message, "click shows it, which is why its messages are not"
    assert sentence(refused.value).startswith("--key: must be ")
    assert PASSWORD not in sentence(refused.value)


@pytest.mark.parametrize("command", ["serve", "migrate"])
@pytest.mark.parametrize(
    "url",
    [
        "postgresql://app:correct@horse-7b1@127.0.0.1:1/store",
        "postgresql://app:p@horse/w0rd@127.0.0.1:1/store",
        "postgresql://app:horse/w0rd@127.0.0.1:1/store",
        "postgresql://app:horse?w0rd@127.0.0.1:1/store",
    ],
)
def test_a_password_that_would_be_cut_is_told_how_to_be_written_and_not_shown(
    tmp_path: Path, command: str, url: str
) -> None:
    done = run(command, cwd=tmp_path, extra={"RUNTIMESTORE_DATABASE_URL": url})

    assert done.returncode == 2
    assert "%40" in done.stderr
    assert "horse" not in done.stderr
