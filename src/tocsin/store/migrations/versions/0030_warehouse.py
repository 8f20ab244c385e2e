"""How far accounts are that are exported or told of conversions; anonymous people who turned out to be known."""

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0029"


def upgrade() -> None:
    op.create_table(
        "warehouse",
        sa.Column("account_id", sa.String(32), primary_key=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("done_until", sa.BigInteger()),
        sa.Column("writing_until", sa.BigInteger()),
        sa.Column("rows", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("written_at", sa.Float()),
        sa.Column("trouble", sa.String(300), nullable=False, server_default=""),
        sa.Column("lease_owner", sa.String(64)),
        sa.Column("lease_until", sa.Float()),
    )
    op.create_table(
        "conversion_place",
        sa.Column("account_id", sa.String(32), primary_key=True),
        sa.Column("looked_until", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "former_user",
        sa.Column("account_id", sa.String(32), primary_key=True),
        sa.Column("former_id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
    )
    op.create_index("ix_former_user_of_user", "former_user", ["account_id", "user_id"])
