"""Apps, and what their SDKs told: when a device named its person, and when a property was last said."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    op.create_table(
        "app",
        sa.Column("account_id", sa.String(32), primary_key=True),
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("sdk_id", sa.String(16), nullable=False),
        sa.Column("token", sa.String(64), nullable=False),
        sa.Column("platforms", sa.String(32), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
    )
    op.create_table(
        "app_device",
        sa.Column("account_id", sa.String(32), primary_key=True),
        sa.Column("object_id", sa.String(256), primary_key=True),
        sa.Column("named_at", sa.Float(), nullable=False),
        sa.Column("people", sa.Integer(), nullable=False),
    )
    op.create_table(
        "app_profile",
        sa.Column("account_id", sa.String(32), primary_key=True),
        sa.Column("user_id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("state", sa.Text(), nullable=False),
    )
