"""Nothing is left of the sessions that a store without versions had: all of them were carried over."""

import sqlalchemy as sa
from alembic import op

from runtimestore_migrations.carrying import FORMER, carry_some

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Carry over what is left: nothing after `runtimestore migrate`, all of it in a file that nobody else sees."""
    connection = op.get_bind()
    while carry_some(connection):
        pass
    if FORMER in sa.inspect(connection).get_table_names():
        op.drop_table(FORMER)
