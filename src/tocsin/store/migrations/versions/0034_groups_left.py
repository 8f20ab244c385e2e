"""Subscription groups that mailboxes left."""

import sqlalchemy as sa
from alembic import op

revision = "0034"
down_revision = "0031"


def upgrade() -> None:
    op.create_table(
        "group_left",
        sa.Column("account_id", sa.String(32), primary_key=True),
        sa.Column("address", sa.String(1024), primary_key=True),
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("since", sa.Float(), nullable=False),
        sa.Column("user_id", sa.Integer()),
    )
