"""Due chunks by account, so that accounts take turns."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    free = sa.text("open = 1 AND lease_owner IS NULL")
    columns = ["priority", "account_id", "not_before", "id"]
    op.create_index("chunk_due_of_account", "chunk", columns, postgresql_where=free, sqlite_where=free)
