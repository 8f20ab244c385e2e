"""Two tables under the names the field gives them."""

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.rename_table("pace", "rate_window")
    op.rename_table("turn", "concurrency_slot")
