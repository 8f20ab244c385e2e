"""Why an address left, and by whose mail."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.add_column("unsubscribed", sa.Column("reason", sa.String(16), nullable=False, server_default=""))
    op.add_column("unsubscribed", sa.Column("user_id", sa.Integer()))
