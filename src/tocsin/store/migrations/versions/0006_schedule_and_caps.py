"""Runs with a wall-clock time, chunks with a cut-off and a variant, frequency caps, and what an account decides."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("run", sa.Column("local", sa.String(16)))
    op.add_column("run", sa.Column("number", sa.Integer(), nullable=False, server_default="1"))
    op.add_column("chunk", sa.Column("cut_off", sa.Float()))
    op.add_column("chunk", sa.Column("variant", sa.String(16), nullable=False, server_default=""))
    op.create_table(
        "policy",
        sa.Column("account_id", sa.String(32), primary_key=True),
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("changed_at", sa.Float(), nullable=False),
    )
    op.create_table(
        "reservation",
        sa.Column("account_id", sa.String(32), primary_key=True),
        sa.Column("channel", sa.String(16), primary_key=True),
        sa.Column("user_id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("message", sa.String(24), primary_key=True),
        sa.Column("platform", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("campaign_id", sa.Integer(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("counted", sa.Integer(), nullable=False),
    )
    op.create_index("ix_reservation_at", "reservation", ["at"])
    op.create_table(
        "pace",
        sa.Column("account_id", sa.String(32), primary_key=True),
        sa.Column("channel", sa.String(16), primary_key=True),
        sa.Column("slot", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("used", sa.Integer(), nullable=False),
    )
    op.create_table(
        "turn",
        sa.Column("account_id", sa.String(32), primary_key=True),
        sa.Column("name", sa.String(16), primary_key=True),
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("until", sa.Float(), nullable=False),
    )
