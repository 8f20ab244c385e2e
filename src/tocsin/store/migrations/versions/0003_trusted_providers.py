"""A provider whose word about dead addresses is believed without a breaker."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("provider", sa.Column("trusted", sa.Integer(), nullable=False, server_default="0"))
