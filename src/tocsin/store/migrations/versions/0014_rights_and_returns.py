"""Rights and an end of passcodes; when users who had left e-mail came back."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.add_column("passcode", sa.Column("rights", sa.String(32), nullable=False, server_default="all"))
    op.add_column("passcode", sa.Column("expires_at", sa.Float()))
    op.create_table(
        "returned",
        sa.Column("account_id", sa.String(32), primary_key=True),
        sa.Column("user_id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("since", sa.Float(), nullable=False),
    )
