"""The plain peer's tables: a row for each thing, replaced when it changes."""

from __future__ import annotations

from sqlalchemy import BigInteger, ForeignKey, LargeBinary, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Table(DeclarativeBase):
    """What all tables share."""


class Runtime(Table):
    """A runtime: its revision, state and registry of background operations."""

    __tablename__ = "runtimes"
    runtime_id: Mapped[str] = mapped_column(Text, primary_key=True)
    revision: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[int | None]
    ops_json: Mapped[str | None] = mapped_column(Text)


class Snapshot(Table):
    """A runtime's session, whole."""

    __tablename__ = "snapshots"
    runtime_id: Mapped[str] = mapped_column(Text, ForeignKey(Runtime.runtime_id), primary_key=True)
    document: Mapped[bytes] = mapped_column(LargeBinary)


class Session(Table):
    """What is listed of a session."""

    __tablename__ = "sessions"
    session_id: Mapped[str] = mapped_column(Text, primary_key=True)
    runtime_id: Mapped[str] = mapped_column(Text)
    updated_at_ms: Mapped[int] = mapped_column(BigInteger)
    message_count: Mapped[int]
    total_tokens: Mapped[int] = mapped_column(BigInteger)


class Input(Table):
    """One input's state."""

    __tablename__ = "inputs"
    runtime_id: Mapped[str] = mapped_column(Text, primary_key=True)
    input_id: Mapped[str] = mapped_column(Text, primary_key=True)
    state_json: Mapped[str] = mapped_column(Text)


class Receipt(Table):
    """The receipt of a boundary."""

    __tablename__ = "receipts"
    runtime_id: Mapped[str] = mapped_column(Text, primary_key=True)
    run_id: Mapped[str] = mapped_column(Text, primary_key=True)
    sequence: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    receipt: Mapped[bytes] = mapped_column(LargeBinary)


class OAuthFlows(Table):
    """The OAuth flow snapshot of a realm."""

    __tablename__ = "oauth_flows"
    realm: Mapped[str] = mapped_column(Text, primary_key=True)
    version: Mapped[int] = mapped_column(BigInteger)
    document: Mapped[bytes] = mapped_column(LargeBinary)
