"""Saved segments, the choice of a device about push, and what `App Uninstalled` says of a device that went."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "segment",
        sa.Column("account_id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=256), nullable=False),
        sa.Column("where_json", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("changed_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "name"),
    )
    op.create_table(
        "device_opt_out",
        sa.Column("account_id", sa.String(length=32), nullable=False),
        sa.Column("object_id", sa.String(length=256), nullable=False),
        sa.Column("since", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "object_id"),
    )
    op.add_column("device", sa.Column("gone_user", sa.Integer(), nullable=True))
    op.add_column("device", sa.Column("gone_campaign", sa.Integer(), nullable=True))
