"""Versions of sessions instead of the newest one alone; receipts tell the revision that they were committed with."""

import sqlalchemy as sa
from alembic import op

from runtimestore_migrations.carrying import FORMER

revision = "0003"
down_revision = "0002"


def _id() -> sa.types.TypeEngine[str]:
    return sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def _uint64() -> sa.types.TypeEngine[str]:
    return sa.String(20).with_variant(sa.String(20, collation="C"), "postgresql")


def upgrade() -> None:
    """Make room for versions. The sessions themselves are carried over between this step and the next one."""
    op.create_table(
        "session_versions",
        sa.Column("realm", _id(), primary_key=True),
        sa.Column("runtime_id", _id(), primary_key=True),
        sa.Column("revision", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("session_id", _id(), nullable=False),
        sa.Column("sha256", sa.LargeBinary, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("previous_revision", sa.BigInteger),
        sa.Column("committed_at_ms", sa.BigInteger),
        sa.Column("run_id", _id()),
        sa.Column("sequence", _uint64()),
        sa.Column("seal", sa.LargeBinary),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_index(
        "session_versions_bases",
        "session_versions",
        ["committed_at_ms"],
        sqlite_where=sa.text("kind = 'base'"),
        postgresql_where=sa.text("kind = 'base'"),
    )
    op.add_column("runtimes", sa.Column("session_revision", sa.BigInteger))
    op.add_column("runtimes", sa.Column("session_sha256", sa.LargeBinary))
    op.add_column("receipts", sa.Column("committed_revision", sa.BigInteger))
    op.rename_table("session_snapshots", FORMER)
