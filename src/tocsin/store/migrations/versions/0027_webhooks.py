"""Endpoints that an account's outcomes, reports and opt-outs are posted to; room for all rights of a passcode."""

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0024"


def upgrade() -> None:
    op.create_table(
        "webhook",
        sa.Column("account_id", sa.String(32), primary_key=True),
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("url", sa.String(2048), nullable=False),
        sa.Column("events", sa.Text(), nullable=False),
        sa.Column("settings", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("live", sa.Text()),
        sa.Column("replay", sa.Text()),
        sa.Column("failing_since", sa.Float()),
        sa.Column("failures", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("next_at", sa.Float()),
        sa.Column("answer", sa.String(300), nullable=False, server_default=""),
        sa.Column("answered_at", sa.Float()),
        sa.Column("disabled_at", sa.Float()),
        sa.Column("lease_owner", sa.String(64)),
        sa.Column("lease_until", sa.Float()),
    )
    with op.batch_alter_table("passcode") as passcode:
        passcode.alter_column("rights", type_=sa.String(64), existing_type=sa.String(32), existing_nullable=False)
