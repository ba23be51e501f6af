"""What `--help` tells of each command, and which flags it takes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from runtimestore_server.settings import Settings
from support.servers.command import run

if TYPE_CHECKING:
    from pathlib import Path

PASSWORD = "correct-horse-7b1"  # noqa: S105  (nobody's)


def _letters(text: str) -> str:
    return re.sub(r"\s+", "", text)


SETTINGS_OF = {
    "serve": set(Settings.model_fields),
    "migrate": {"database_url", "config", "log_level", "log_format"},
    "verify": {"database_url", "config"},
}


@pytest.mark.parametrize("command", SETTINGS_OF)
def test_help_lists_every_setting_of_a_command_with_a_sentence_and_never_the_password(
    tmp_path: Path, command: str
) -> None:
    done = run(
        command,
        "--help",
        cwd=tmp_path,
        extra={"RUNTIMESTORE_DATABASE_URL": f"postgresql://app:{PASSWORD}@127.0.0.1:1/store"},
    )

    assert done.returncode == 0
    told = _letters(done.stdout)
    for name in SETTINGS_OF[command]:
        field = Settings.model_fields[name]
        assert f"--{name.replace('_', '-')}" in done.stdout
        assert field.description
        assert field.description.endswith(".")
        assert _letters(field.description) in told, name
    assert PASSWORD not in done.stdout + done.stderr


def test_help_shows_what_each_value_stands_for(tmp_path: Path) -> None:
    told = run("serve", "--help", cwd=tmp_path).stdout

    shown = dict(re.findall(r"^  --(\S+) (\S+)", told, re.MULTILINE))
    switches = {name for name, value in shown.items() if value == "/"}
    assert switches == {"insecure", "log-calls", "require-fence"}
    shown = {name: value for name, value in shown.items() if value != "/"}
    assert set(shown) | switches == {name.replace("_", "-") for name in Settings.model_fields}
    assert (shown["listen"], shown["database-url"], shown["config"]) == ("HOST:PORT", "URL", "FILE")
    assert (shown["max-document-bytes"], shown["grace-period-seconds"]) == ("BYTES", "SECONDS")
    assert shown["log-format"] == "[text|json]"
    # No name of a Python type: those have small letters.
    assert [value for value in shown.values() if value != value.upper() and not value.startswith("[")] == []


@pytest.mark.parametrize("command", ["migrate", "verify"])
def test_a_command_takes_the_flags_of_its_own_settings_and_no_others(tmp_path: Path, command: str) -> None:
    told = run(command, "--help", cwd=tmp_path).stdout
    settings = {f"--{name.replace('_', '-')}": name for name in Settings.model_fields}
    assert {settings[flag] for flag in re.findall(r"^  (--\S+)", told, re.MULTILINE) if flag in settings} == (
        SETTINGS_OF[command]
    )

    done = run(command, "--listen", "127.0.0.1:0", "--database-url", "sqlite:///store.db", cwd=tmp_path)

    assert done.returncode == 2
    assert "unknown flag: --listen" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_migrate_takes_the_file_and_the_environment_of_serve(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text(
        'listen = "127.0.0.1:0"\ndatabase_url = "sqlite:///store.db"\nrequire_fence = true\n'
    )
    extra = {"RUNTIMESTORE_MAX_BATCH_WRITES": "7"}

    done = run("migrate", "--config", "settings.toml", cwd=tmp_path, extra=extra)

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "store.db").exists()


def test_help_names_the_default_of_every_setting_that_is_no_secret(tmp_path: Path) -> None:
    told = _letters(run("serve", "--help", cwd=tmp_path).stdout)

    for name, field in Settings.model_fields.items():
        if name != "database_url":
            assert f"(default:{'none' if field.default is None else field.default})" in told, name
