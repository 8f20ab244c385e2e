"""The conversion goal of a campaign, whole: what its event must meet, and what it is worth."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0016"


def upgrade() -> None:
    op.add_column("campaign", sa.Column("goal", sa.Text()))
    campaign = sa.table("campaign", *map(sa.column, ("goal_event", "goal_seconds", "goal")))
    connection = op.get_bind()
    goals = sa.select(campaign.c.goal_event, campaign.c.goal_seconds).where(campaign.c.goal_event.is_not(None))
    for event, seconds in connection.execute(goals.distinct()).all():
        same = (campaign.c.goal_event == event, campaign.c.goal_seconds == seconds)
        goal = json.dumps({"event_name": event, "seconds": seconds})
        connection.execute(sa.update(campaign).where(*same).values(goal=goal))
    op.drop_column("campaign", "goal_event")
    op.drop_column("campaign", "goal_seconds")
