"""What is due is found by an index of the open chunks alone, in the order in which they are leased."""

from alembic import op
from sqlalchemy import text

revision = "0010"
down_revision = "0008"


def upgrade() -> None:
    op.drop_index("chunk_due", "chunk")
    is_open = text("open = 1")
    op.create_index(
        "chunk_due", "chunk", ["priority", "not_before", "id"], postgresql_where=is_open, sqlite_where=is_open
    )
