"""The settings of the server: one frozen class, filled from flags, environment and a TOML file, in this order."""

from __future__ import annotations

import os
import re
from pathlib import Path  # noqa: TC003  (pydantic looks for it when the class is made)
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from runtimestore_server.integers import INT64_MAX, UINT32_MAX
from runtimestore_server.settings_sources import PREFIX, SettingsFile, refuse_mistyped

if TYPE_CHECKING:
    from collections.abc import Mapping

MIB = 1024 * 1024
Positive = Annotated[int, Field(gt=0)]
Told = Annotated[int, Field(gt=0, le=UINT32_MAX)]
"""A count that `GetServerInfo` tells in 32 bits."""

MOST_THREADS = 1000
"""A process is seldom allowed many more, and Postgres as many connections."""

Threads = Annotated[int, Field(gt=0, le=MOST_THREADS)]

MOST_MESSAGE_BYTES = 1_000_000_000
"""SQLite takes no larger row, and Postgres no value over 1 GiB, nor all documents of a statement together."""

MOST_DOCUMENT_BYTES = 900_000_000
"""A document is not alone in its row."""

DocumentBytes = Annotated[int, Field(gt=0, le=MOST_DOCUMENT_BYTES)]

_PASSWORD_IN_USERINFO = re.compile(r"(//[^:/@]*):.*@")
_PASSWORD_IN_QUERY = re.compile(r"([?&](?:password|sslpassword|passfile)=)[^&]*")

_HOST_AND_PORT = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]\s]+):([0-9]{1,5})")


class DatabaseUrl(SecretStr):
    """A database URL; wherever it is shown, its password is not."""

    @property
    def has_password(self) -> bool:
        """Whether it holds a password itself, and not only where one is to be found."""
        url = self.get_secret_value()
        return bool(_PASSWORD_IN_USERINFO.search(url) or re.search(r"[?&](ssl)?password=", url))

    def _display(self) -> str:
        shown = _PASSWORD_IN_USERINFO.sub(r"\1:***@", self.get_secret_value())
        return _PASSWORD_IN_QUERY.sub(r"\1***", shown)


class Settings(BaseSettings):
    """Everything that can be set, with its unit: a line here is a flag, a variable and a key of the file.

    What is given to the class, as the flags are, wins over the environment, and that over the file.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        env_prefix=PREFIX,
        extra="forbid",
        validate_default=False,  # a test does: for the URL it loads the store, and a probe has no time
    )

    config: Path | None = Field(
        None, description="A TOML file with any of these settings, by their names with underscores."
    )
    listen: str = Field(
        "127.0.0.1:50051", description="Where to serve: HOST:PORT (port 0 lets the system choose one) or unix:PATH."
    )
    tls_cert: Path | None = Field(
        None, description="The server's certificate and those up to its CA, in PEM; it is read anew when it changes."
    )
    tls_key: Path | None = Field(None, description="The key of that certificate, in PEM and without a password.")
    tls_client_ca: Path | None = Field(
        None, description="The CA of the clients, in PEM: whoever connects must show a certificate that it signed."
    )
    access_file: Path | None = Field(
        None,
        description=(
            "A TOML file of who may come in, by which token or certificate, to which realms; `runtimestore token new` "
            "writes it, and it is read anew when it changes. Without one whoever connects may do everything."
        ),
    )
    insecure: bool = Field(
        False, description="Serve without TLS or an access file even where a network may reach the address."
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
    max_connections: Positive = Field(
        10_000,
        description=(
            "How many connections callers may have open, each of about 45 KB with TLS; fewer where the process may not "
            "open as many files. What comes beyond is closed at once."
        ),
    )
    max_waiting_writes: Told = Field(
        1024, description="How many writes may wait for their transaction before more are answered OVERLOADED."
    )
    max_waiting_bytes: Positive = Field(
        256 * MIB,
        le=INT64_MAX,
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
    max_waiting_reads: Told = Field(
        1024, description="How many loads may wait for a reader thread before more are answered OVERLOADED."
    )
    max_batch_writes: Positive = Field(64, description="How many writes one transaction takes at most.")
    committer_threads: Threads = Field(
        1,
        description=(
            "How many transactions Postgres commits at a time. One makes the largest batches; more help where the "
            "database is far away. SQLite has one writer whatever this says."
        ),
    )
    reader_threads: Threads = Field(4, description="How many loads run at a time.")
    request_retention_seconds: Positive = Field(
        24 * 3600, le=100 * 366 * 24 * 3600, description="How long a request id is remembered, in seconds."
    )
    session_cache_bytes: int = Field(
        64 * MIB,
        ge=0,
        description=(
            "How many bytes of sessions are held in memory, so that edits find what they are made of; 0: none, and it "
            "is read from the store at each write."
        ),
    )
    session_history_seconds: int = Field(
        24 * 3600,
        ge=0,
        le=100 * 366 * 24 * 3600,
        description=(
            "How long earlier versions of a session can be read, in seconds; 0: only what the current one needs."
        ),
    )
    require_fence: bool = Field(
        False,
        description="Refuse writes to a runtime that carry no fence: whoever writes must have acquired the runtime.",
    )
    grace_period_seconds: float = Field(
        10.0,
        ge=0,
        allow_inf_nan=False,
        description="How long calls in flight may take to finish after SIGTERM or SIGINT, in seconds.",
    )
    health_interval_seconds: float = Field(
        5.0,
        gt=0,
        allow_inf_nan=False,
        description="How often the engine and the schema are checked for the health service, in seconds.",
    )
    metrics_listen: str = Field(
        "127.0.0.1:9464",
        description=(
            "Where /metrics, /healthz and /readyz are answered over HTTP: HOST:PORT, or nothing for nowhere. Where the "
            "default is taken the server warns and goes on without; an address that was given must be free."
        ),
    )
    log_calls: bool = Field(False, description="Write a log line for each call that is served, too.")
    log_refusals_per_second: Positive = Field(
        20,
        description=(
            "How many log lines a second tell of calls refused for one reason; of the others it is told how many "
            "they were."
        ),
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least severe log lines to write."
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="Log lines for people (text) or for machines (json, one object a line)."
    )

    @field_validator("listen")
    @classmethod
    def _listen_is_an_address(cls, value: str) -> str:
        if value.startswith("unix:"):
            if not value.removeprefix("unix:"):
                raise ValueError("unix: needs a path, such as unix:/run/runtimestore.sock")
            return value
        if not _is_host_and_port(value):
            raise ValueError("must be HOST:PORT such as 127.0.0.1:50051 or [::1]:50051, or unix:PATH")
        return value

    @field_validator("metrics_listen")
    @classmethod
    def _metrics_listen_is_an_address(cls, value: str) -> str:
        if value and not _is_host_and_port(value):
            raise ValueError("must be HOST:PORT such as 127.0.0.1:9464 or [::1]:9464, or empty")
        return value

    @field_validator("log_level", mode="before")
    @classmethod
    def _log_level_in_any_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

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
        """Return what is given first, then the environment, then the file."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, SettingsFile(settings_cls)


def _is_host_and_port(value: str) -> bool:
    match = _HOST_AND_PORT.fullmatch(value)
    return match is not None and int(match[2]) <= 65535  # noqa: PLR2004  (the largest TCP port)


def load(flags: Mapping[str, Any]) -> Settings:
    """Return the settings that these flags, the environment and the file that one of them names give.

    Raises:
        pydantic.ValidationError: a value is bad; the error names the setting.
        BadSource: the file cannot be read, or a variable is nearly a setting.
    """
    refuse_mistyped(os.environ, Settings.model_fields)
    return Settings(**flags)
