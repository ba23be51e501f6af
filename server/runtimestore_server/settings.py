"""The settings of the server: one frozen class, filled from flags, environment and a TOML file, in this order."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from runtimestore_server.arguments import check_flags

if TYPE_CHECKING:
    from collections.abc import Mapping

MIB = 1024 * 1024
PREFIX = "RUNTIMESTORE_"
VALUES_IN_HELP = {"--config": "FILE", "--listen": "HOST:PORT", "--database-url": "URL"}

Positive = Annotated[int, Field(gt=0)]

MOST_MESSAGE_BYTES = 1_000_000_000
"""SQLite takes no larger row, and Postgres no value over 1 GiB, nor all documents of a statement together."""

MOST_DOCUMENT_BYTES = 900_000_000
"""A document is not alone in its row."""

DocumentBytes = Annotated[int, Field(gt=0, le=MOST_DOCUMENT_BYTES)]

_PASSWORD_IN_USERINFO = re.compile(r"(//[^:/@]*):.*@")
_PASSWORD_IN_QUERY = re.compile(r"([?&](?:password|sslpassword|passfile)=)[^&]*")


class BadConfigFile(Exception):
    """The file that `--config` names cannot be read, or a variable is mistyped; the message names it."""


class DatabaseUrl(SecretStr):
    """A database URL; wherever it is shown, its password is not."""

    def _display(self) -> str:
        shown = _PASSWORD_IN_USERINFO.sub(r"\1:***@", self.get_secret_value())
        return _PASSWORD_IN_QUERY.sub(r"\1***", shown)


class Settings(BaseSettings):
    """Everything that can be set, with its unit. A flag wins over the environment, the environment over the file."""

    model_config = SettingsConfigDict(
        frozen=True,
        env_prefix=PREFIX,
        extra="forbid",
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_implicit_flags=True,
        cli_enforce_required=False,
    )

    config: Path | None = Field(
        None, description="A TOML file with any of these settings, by their names with underscores."
    )
    listen: str = Field(
        "127.0.0.1:50051",
        description="Where to serve: HOST:PORT (port 0 lets the system choose one) or unix:PATH.",
    )
    database_url: DatabaseUrl = Field(
        DatabaseUrl("sqlite:///runtimestore.db"),
        description=(
            "Where to store: sqlite:///FILE, postgresql://USER:PASSWORD@HOST/DATABASE, or memory: for an ephemeral "
            "store that forgets everything when it stops."
        ),
    )
    max_message_bytes: Positive = Field(
        128 * MIB, le=MOST_MESSAGE_BYTES, description="The largest gRPC message taken in, in bytes."
    )
    max_session_snapshot_bytes: DocumentBytes = Field(
        120 * MIB, description="The largest session snapshot taken in, in bytes."
    )
    max_document_bytes: DocumentBytes = Field(
        4 * MIB - 64 * 1024,
        description=(
            "The largest input, ops or OAuth document and the largest receipt taken in, in bytes. At the default each "
            "can be read by a client that keeps gRPC's own limit of 4 MiB."
        ),
    )
    max_waiting_writes: Positive = Field(
        1024, description="How many writes may wait for their transaction before more are answered OVERLOADED."
    )
    max_waiting_bytes: Positive = Field(
        256 * MIB,
        description=(
            "How many bytes of documents may wait for their transaction before more are answered OVERLOADED; as many "
            "again may wait to be checked, and as many be on their way to readers."
        ),
    )
    max_receiving_writes: Positive = Field(
        32,
        description=(
            "How many writes' messages are received at the same time, half of them on one connection at most; each may "
            "be as large as max_message_bytes. More wait their turn."
        ),
    )
    max_waiting_reads: Positive = Field(
        1024, description="How many loads may wait for a reader thread before more are answered OVERLOADED."
    )
    max_batch_writes: Positive = Field(64, description="How many writes one transaction takes at most.")
    committer_threads: Positive = Field(
        1,
        description=(
            "How many transactions Postgres commits at a time. One makes the largest batches; more help where the "
            "database is far away. SQLite has one writer whatever this says."
        ),
    )
    reader_threads: Positive = Field(4, description="How many loads run at a time.")
    request_retention_seconds: Positive = Field(
        24 * 3600, le=100 * 366 * 24 * 3600, description="How long a request id is remembered, in seconds."
    )
    require_fence: bool = Field(
        False,
        description="Refuse writes to a runtime that carry no fence: whoever writes must have acquired the runtime.",
    )
    grace_period_seconds: float = Field(
        10.0, ge=0, description="How long calls in flight may take to finish after SIGTERM or SIGINT, in seconds."
    )
    health_interval_seconds: float = Field(
        5.0, gt=0, description="How often the engine and the schema are checked for the health service, in seconds."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least severe log lines to write."
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="Log lines for people (text) or for machines (json, one object a line)."
    )

    _config_file: ClassVar[Path | None] = None

    @field_validator("listen")
    @classmethod
    def _listen_is_an_address(cls, value: str) -> str:
        if value.startswith("unix:"):
            if not value.removeprefix("unix:"):
                raise ValueError("unix: needs a path, such as unix:/run/runtimestore.sock")
            return value
        match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+):(\d{1,5})", value)
        if match is None or int(match[2]) > 65535:  # noqa: PLR2004  (the largest TCP port)
            raise ValueError("must be HOST:PORT such as 127.0.0.1:50051 or [::1]:50051, or unix:PATH")
        return value

    @field_validator("database_url", mode="before")
    @classmethod
    def _any_secret_will_do(cls, value: object) -> object:
        return value.get_secret_value() if isinstance(value, SecretStr) else value

    @field_validator("database_url")
    @classmethod
    def _database_url_is_known(cls, value: DatabaseUrl) -> DatabaseUrl:
        from runtimestore_server.store.engines import parse_url

        if value.get_secret_value() != "memory:":
            parse_url(value.get_secret_value())
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags and arguments first, then the environment, then the file."""
        del dotenv_settings, file_secret_settings
        sources = (init_settings, env_settings)
        if cls._config_file is None:
            return sources
        return (*sources, TomlConfigSettingsSource(settings_cls, cls._config_file))


def from_command_line(arguments: list[str], *, command: str, description: str) -> Settings:
    """The settings that the flags, the environment and the file they name give.

    Raises:
        pydantic.ValidationError: a value is bad; the error names the setting.
        BadConfigFile: the file cannot be read.
        SystemExit: `--help` was asked for, or a flag is unknown.
    """
    flags = {
        f"--{name.replace('_', '-')}": field.annotation is not bool for name, field in Settings.model_fields.items()
    }
    _refuse_mistyped(os.environ)
    negations = {flag.replace("--", "--no-", 1): False for flag, takes_value in flags.items() if not takes_value}
    check_flags(arguments, flags | negations, command=command)
    path = _config_path(arguments)

    class FromCommandLine(Settings):
        __doc__ = description
        _config_file: ClassVar[Path | None] = path

    source: CliSettingsSource[Any] = CliSettingsSource(
        FromCommandLine,
        cli_prog_name=f"runtimestore {command}",
        cli_parse_args=arguments,
        add_argument_method=_add_flag,
    )
    return FromCommandLine(_cli_settings_source=source)


def _refuse_mistyped(environment: Mapping[str, str]) -> None:
    """See that no variable is nearly a setting: to serve another store than was meant would be told by nothing.

    Raises:
        BadConfigFile: one is. What is not near to any is let be: others name variables after a service too.
    """
    known = [f"{PREFIX}{name.upper()}" for name in Settings.model_fields]
    others = [name for name in environment if name.upper().startswith(PREFIX) and name.upper() not in known]
    for name in others:
        if close := difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.9):
            raise BadConfigFile(f"the variable {name} is no setting; did you mean {close[0]}? Rename or unset it")


def _add_flag(parser: Any, *flags: str, **options: Any) -> Any:
    """Show a flag's value by what it stands for; left alone, pydantic-settings shows the name of its Python type."""
    unit = flags[0].rpartition("-")[2]
    if flags[0] in VALUES_IN_HELP:
        options["metavar"] = VALUES_IN_HELP[flags[0]]
    elif unit in ("bytes", "seconds"):
        options["metavar"] = unit.upper()
    elif options.get("metavar") == "int":
        options["metavar"] = "COUNT"
    return parser.add_argument(*flags, **options)


def _config_path(arguments: list[str]) -> Path | None:
    """The file that `--config` or RUNTIMESTORE_CONFIG names; known before the other settings are read."""
    import argparse

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", default=os.environ.get("RUNTIMESTORE_CONFIG"))
    known, _ = parser.parse_known_args(arguments)
    if not known.config:
        return None
    path = Path(known.config)
    if not path.is_file():
        raise BadConfigFile(f"--config {path}: {'is no file' if path.exists() else 'no such file'}")
    try:
        tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise BadConfigFile(f"--config {path}: not a TOML file: {error}") from None
    return path
