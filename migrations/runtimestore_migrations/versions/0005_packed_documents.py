"""Large documents of sessions may be packed: no table changes, but a server of before could not read them."""

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Leave everything as it is: what is stored already is read as before."""
