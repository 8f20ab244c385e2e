"""How many users a run had, for campaigns that limit them over all runs."""

import sqlalchemy as sa
from alembic import op

revision = "0035"
down_revision = "0034"


def upgrade() -> None:
    op.add_column("run", sa.Column("users", sa.Integer()))
