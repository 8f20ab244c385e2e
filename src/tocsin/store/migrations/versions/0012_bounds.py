"""What is bounded is found without reading what holds it: labels, goals, names, bytes of kept answers, old reports."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"

SPECS = 50  # read at once: one may have megabytes
LABEL_BYTES = 120


def upgrade() -> None:
    op.create_table(
        "known_name",
        sa.Column("account_id", sa.String(32), primary_key=True),
        sa.Column("name", sa.Text(), primary_key=True),
        sa.Column("kind", sa.String(32), primary_key=True),
    )
    op.create_table(
        "campaign_label",
        sa.Column("account_id", sa.String(32), primary_key=True),
        sa.Column("campaign_id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("name", sa.String(LABEL_BYTES), primary_key=True),
    )
    op.add_column("campaign", sa.Column("goal_event", sa.Text()))
    op.add_column("campaign", sa.Column("goal_seconds", sa.Integer()))
    _copy_labels_and_goals()
    op.create_index("run_of_account", "run", ["account_id", "due_at"])
    op.create_index("ix_interaction_at", "interaction", ["at"])
    op.add_column("idempotency", sa.Column("answer_bytes", sa.Integer(), nullable=False, server_default="0"))
    where = sa.text("answer_bytes > 0")
    op.create_index(
        "idempotency_answers",
        "idempotency",
        ["account_id", "answer_bytes"],
        sqlite_where=where,
        postgresql_where=where,
    )


def _copy_labels_and_goals() -> None:
    connection, last = op.get_bind(), 0
    campaign = sa.table("campaign", *map(sa.column, ("id", "account_id", "spec", "goal_event", "goal_seconds")))
    label = sa.table("campaign_label", *map(sa.column, ("account_id", "campaign_id", "name")))
    columns = (campaign.c.id, campaign.c.account_id, campaign.c.spec)
    while True:
        page = sa.select(*columns).where(campaign.c.id > last).order_by(campaign.c.id).limit(SPECS)
        rows = connection.execute(page).all()
        if not rows:
            return
        for campaign_id, account_id, text in rows:
            last, spec = campaign_id, json.loads(text)
            # A label of before there was a longest one is cut.
            names = {one.encode()[:LABEL_BYTES].decode(errors="ignore") for one in spec.get("labels") or ()}
            if names:
                row = {"account_id": account_id, "campaign_id": campaign_id}
                connection.execute(sa.insert(label), [row | {"name": name} for name in sorted(names)])
            if goal := spec.get("conversion_goal"):
                values = {"goal_event": goal["event_name"], "goal_seconds": goal["seconds"]}
                connection.execute(sa.update(campaign).where(campaign.c.id == campaign_id).values(values))
