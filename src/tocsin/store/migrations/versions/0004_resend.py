"""What becomes of a message nobody knows about, and an index for the last open chunk of a run."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("chunk", sa.Column("resend", sa.Integer(), nullable=False, server_default="0"))
    op.drop_index("ix_chunk_run_id", "chunk")
    op.create_index("chunk_of_run", "chunk", ["run_id", "open"])
