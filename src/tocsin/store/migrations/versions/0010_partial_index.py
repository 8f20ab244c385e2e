"""What may be leased is found by an index of the open chunks that nobody holds, in their order; what is held by an
index of its own."""

from alembic import op
from sqlalchemy import text

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.drop_index("chunk_due", "chunk")
    free, held = text("open = 1 AND lease_owner IS NULL"), text("lease_owner IS NOT NULL")
    op.create_index("chunk_due", "chunk", ["priority", "not_before", "id"], postgresql_where=free, sqlite_where=free)
    op.create_index("chunk_held", "chunk", ["id"], postgresql_where=held, sqlite_where=held)
