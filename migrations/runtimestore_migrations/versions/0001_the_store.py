"""The store: runtimes, requests, sessions, inputs, receipts, ops and OAuth snapshots; mints the store id."""

import uuid

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def _id() -> sa.types.TypeEngine[str]:
    return sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def _uint64() -> sa.types.TypeEngine[str]:
    return sa.String(20).with_variant(sa.String(20, collation="C"), "postgresql")


def upgrade() -> None:
    """Create every table and mint the id of this store."""
    store_identity = op.create_table(
        "store_identity",
        sa.Column("singleton", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("store_id", _id(), nullable=False),
    )
    op.bulk_insert(store_identity, [{"singleton": 1, "store_id": str(uuid.uuid4())}])
    op.create_table(
        "runtimes",
        sa.Column("realm", _id(), primary_key=True),
        sa.Column("runtime_id", _id(), primary_key=True),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("runtime_state", sa.Text),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "requests",
        sa.Column("realm", _id(), primary_key=True),
        sa.Column("request_id", _id(), primary_key=True),
        sa.Column("fingerprint", sa.LargeBinary, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("recorded_at_ms", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("requests_recorded_at_ms", "requests", ["recorded_at_ms"])
    op.create_table(
        "session_snapshots",
        sa.Column("realm", _id(), primary_key=True),
        sa.Column("runtime_id", _id(), primary_key=True),
        sa.Column("session_id", _id(), nullable=False),
        sa.Column("sha256", sa.LargeBinary, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "sessions",
        sa.Column("realm", _id(), primary_key=True),
        sa.Column("session_id", _id(), primary_key=True),
        sa.Column("runtime_id", _id(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger, nullable=False),
        sa.Column("updated_at_ms", sa.BigInteger, nullable=False),
        sa.Column("message_count", sa.BigInteger, nullable=False),
        sa.Column("total_tokens", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("sessions_runtime", "sessions", ["realm", "runtime_id"])
    op.create_table(
        "inputs",
        sa.Column("realm", _id(), primary_key=True),
        sa.Column("runtime_id", _id(), primary_key=True),
        sa.Column("input_id", _id(), primary_key=True),
        sa.Column("sha256", sa.LargeBinary, nullable=False),
        sa.Column("state_json", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "receipts",
        sa.Column("realm", _id(), primary_key=True),
        sa.Column("runtime_id", _id(), primary_key=True),
        sa.Column("run_id", _id(), primary_key=True),
        sa.Column("sequence", _uint64(), primary_key=True),
        sa.Column("sha256", sa.LargeBinary, nullable=False),
        sa.Column("receipt", sa.LargeBinary, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "ops_snapshots",
        sa.Column("realm", _id(), primary_key=True),
        sa.Column("runtime_id", _id(), primary_key=True),
        sa.Column("epoch_id", _id(), nullable=False),
        sa.Column("sha256", sa.LargeBinary, nullable=False),
        sa.Column("snapshot_json", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "oauth_flow_snapshots",
        sa.Column("realm", _id(), primary_key=True),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.LargeBinary, nullable=False),
        sa.Column("snapshot_json", sa.LargeBinary, nullable=False),
    )
