"""How fast an account's runs were delivered lately, and how long one would take."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, func, select

from tocsin.campaign.runs import read_stored_spec
from tocsin.campaign.spec import Spec
from tocsin.policy import load_policy
from tocsin.store import schema

LOOK_BACK = 86_400.0  # seconds
RUNS = 5  # looked at, the largest
THROTTLE_MINUTES = 5  # that `throttle` of a cap is for


class Pace(msgspec.Struct, frozen=True):
    """Messages a minute, as they were handed over in a run of this campaign."""

    per_minute: float
    campaign: int


def find_pace(connection: Connection, account_id: str, channel: str, now: float) -> Pace | None:
    """Return the pace of the largest run of the last day on a channel that only the vendors slowed down; None when
    there is none. A run of less than a second counts as one of a second."""
    run, campaign, chunk = schema.run, schema.campaign, schema.chunk
    quiet = load_policy(connection, account_id).dnd is not None
    lately = (run.c.account_id == account_id, run.c.due_at > now - LOOK_BACK, run.c.state == "completed")
    largest = (
        select(run.c.id, run.c.campaign_id)
        .join(campaign, campaign.c.id == run.c.campaign_id)
        .where(*lately, run.c.audience > 0, campaign.c.channel == channel)
        .order_by(run.c.audience.desc(), run.c.id)
        .limit(RUNS)
    )
    for run_id, campaign_id in connection.execute(largest).all():
        if _waits(read_stored_spec(connection, account_id, campaign_id), quiet=quiet):
            continue
        tried = func.sum(chunk.c.sent + chunk.c.unknown + chunk.c.failed)
        ends = (func.min(chunk.c.started_at), func.max(chunk.c.not_before))
        closed = (chunk.c.run_id == run_id, chunk.c.open == 0)
        count, began, ended = connection.execute(select(tried, *ends).where(*closed)).one()
        if count:
            rate = int(count) * 60 / max(ended - began, 1.0)
            return Pace(float(f"{rate:.4g}"), campaign_id)  # never 0, however slow
    return None


def estimate_minutes(
    connection: Connection, account_id: str, spec: Spec, messages: int, pace: Pace | None
) -> float | None:
    """Return how long so many messages of a campaign take at a pace, and under the channel's throttle where it is
    respected; None when neither is known."""
    cap = load_policy(connection, account_id).caps.get(spec.channel)
    minutes = [] if pace is None else [messages / pace.per_minute]
    if spec.respect_throttle and cap is not None and cap.throttle is not None:
        minutes.append(messages // cap.throttle * THROTTLE_MINUTES)
    return round(max(minutes), 2) if minutes else None


def _waits(spec: Spec, *, quiet: bool) -> bool:
    """Return whether a run of this campaign may wait for something other than a vendor. quiet: the account has quiet
    hours."""
    own = spec.when is not None and (spec.when.quiet is not None or spec.when.own_clock)
    return own or spec.respect_throttle or (quiet and spec.respect_frequency_caps)
