"""Sums of closed chunks by every column of a report. What was closed before is added later, from facts."""

import sqlalchemy as sa
from alembic import op

revision = "0036"
down_revision = "0035"


def upgrade() -> None:
    op.create_table(
        "recipient_sum",
        sa.Column("account_id", sa.String(32), primary_key=True),
        sa.Column("campaign_id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column(
            "run_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=False
        ),
        sa.Column("channel", sa.String(16), primary_key=True),
        sa.Column("variant", sa.String(16), primary_key=True),
        sa.Column("tag_group", sa.String(256), primary_key=True),
        sa.Column("platform", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("state", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("code", sa.Text(), primary_key=True),
        sa.Column("hour", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("day", sa.String(10), nullable=False),
        sa.Column("recipients", sa.BigInteger(), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "unsummed",
        sa.Column("account_id", sa.String(32), primary_key=True),
        sa.Column("campaign_id", sa.Integer(), primary_key=True, autoincrement=False),
    )
    of_runs = "SELECT run.account_id, run.campaign_id FROM run JOIN run_sum ON run_sum.run_id = run.id"
    op.execute(
        f"INSERT INTO unsummed (account_id, campaign_id) {of_runs} UNION SELECT account_id, 0 FROM tag_sum"  # noqa: S608
    )
