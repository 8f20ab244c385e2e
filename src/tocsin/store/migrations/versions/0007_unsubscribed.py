"""Addresses that left, whoever has them."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "unsubscribed",
        sa.Column("account_id", sa.String(32), primary_key=True),
        sa.Column("kind", sa.String(8), primary_key=True),
        sa.Column("address", sa.String(1024), primary_key=True),
        sa.Column("since", sa.Float(), nullable=False),
    )
