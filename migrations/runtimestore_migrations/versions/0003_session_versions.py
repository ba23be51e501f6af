"""Versions of sessions instead of the newest one alone; receipts tell the revision that they were committed with."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def _id() -> sa.types.TypeEngine[str]:
    return sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def _uint64() -> sa.types.TypeEngine[str]:
    return sa.String(20).with_variant(sa.String(20, collation="C"), "postgresql")


def upgrade() -> None:
    """Carry each session over as the first version that is known of it, at the revision that its runtime is at.

    A snapshot without a runtime is damage, which `verify` tells of: it keeps its row, at revision 1. Neither the new
    rows nor the runtimes' digests are sealed: the documents' own SHA-256 came over, and is all there is.
    """
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
    op.execute(
        "INSERT INTO session_versions (realm, runtime_id, revision, kind, session_id, sha256, size_bytes, body)"
        " SELECT s.realm, s.runtime_id, coalesce(r.revision, 1), 'base', s.session_id, s.sha256, length(s.body), s.body"
        " FROM session_snapshots s LEFT JOIN runtimes r ON r.realm = s.realm AND r.runtime_id = s.runtime_id"
    )
    op.execute(
        "UPDATE runtimes SET session_revision = revision, session_sha256 = (SELECT s.sha256 FROM session_snapshots s"
        " WHERE s.realm = runtimes.realm AND s.runtime_id = runtimes.runtime_id)"
        " WHERE EXISTS (SELECT 1 FROM session_snapshots s"
        " WHERE s.realm = runtimes.realm AND s.runtime_id = runtimes.runtime_id)"
    )
    op.drop_table("session_snapshots")
