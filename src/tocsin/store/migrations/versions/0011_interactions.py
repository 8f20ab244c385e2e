"""When a view or click of a message was first reported."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.create_table(
        "interaction",
        sa.Column("chunk_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True),
        sa.Column("position", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("kind", sa.String(16), primary_key=True),
        sa.Column("account_id", sa.String(32), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
    )
