"""People who were deleted, until everything about them is gone."""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0022"


def upgrade() -> None:
    op.create_table(
        "leaver",
        sa.Column("account_id", sa.String(32), primary_key=True),
        sa.Column("user_id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("asked_at", sa.Float(), nullable=False),
        sa.Column("erased_at", sa.Float()),
    )
