"""Who invited, on each ticket."""

import sqlalchemy as sa
from alembic import op

revision = "0031"
down_revision = "0030"


def upgrade() -> None:
    op.add_column("ticket", sa.Column("who", sa.String(254), nullable=False, server_default=""))
