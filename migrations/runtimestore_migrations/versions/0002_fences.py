"""Fences: who drives a runtime, for those who want older writers held back."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def _id() -> sa.types.TypeEngine[str]:
    return sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Create the table of fences, empty: nobody has acquired anything yet."""
    op.create_table(
        "fences",
        sa.Column("realm", _id(), primary_key=True),
        sa.Column("runtime_id", _id(), primary_key=True),
        sa.Column("fence", sa.BigInteger, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("acquired_at_ms", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
