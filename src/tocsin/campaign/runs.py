"""Campaigns and their runs in the ledger: insert, find, move, stop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, case, func, insert, select, text, update

from tocsin.campaign.schedule import begins_at, next_local
from tocsin.campaign.spec import _STORED, LATEST_ID, Spec
from tocsin.errors import Problem
from tocsin.store import schema

# state of a run → the states it may go to. Ended ones stay.
RUN_STATES: Mapping[str, tuple[str, ...]] = {
    "scheduled": ("running", "stopped", "missed"),
    "running": ("completed", "stopped"),
    "completed": (),
    "stopped": (),
    "missed": (),  # its time passed while nothing ran that could have begun it
}


CampaignRow = Row[*tuple[Any, ...]]


def insert_campaign(connection: Connection, account_id: str, spec: Spec, now: float, zone: tzinfo = UTC) -> int:
    """Writes a campaign and its first run, or its runs at several times, of which `zone` is the account's. Answers its
    id: like an epoch second, unique, within signed 32 bits."""
    table = schema.campaign
    if connection.dialect.name == "postgresql":  # SQLite has one writer anyway
        connection.execute(text("LOCK TABLE campaign IN EXCLUSIVE MODE"))
    last = connection.scalar(select(func.max(table.c.id))) or 0
    campaign_id = max(int(now), last + 1)
    if campaign_id > LATEST_ID:
        raise OverflowError("campaign ids have left 32 bits")
    connection.execute(
        insert(table).values(
            id=campaign_id,
            account_id=account_id,
            name=spec.name,
            channel=spec.channel,
            spec=msgspec.json.encode(spec).decode(),
            created_at=now,
        )
    )
    if spec.when is None or len(spec.when.times) == 1:
        local = None if spec.when is None else spec.when.times[0]
        _insert_run(connection, account_id, campaign_id, spec.due_at, local, 1)
    else:
        for number, local in enumerate(spec.when.times, 1):
            _insert_run(connection, account_id, campaign_id, begins_at(local, spec.when, zone), local, number)
    return campaign_id


def insert_next_run(connection: Connection, run: CampaignRow, spec: Spec, zone: tzinfo) -> None:
    """Writes the run after this one of a recurring campaign, unless it was the last."""
    if spec.when is None or run.local is None:
        return
    local = next_local(spec.when, datetime.fromisoformat(run.local), run.number)
    if local is not None:
        due_at = begins_at(local, spec.when, zone)
        _insert_run(connection, run.account_id, run.campaign_id, due_at, local, run.number + 1)


def _insert_run(
    connection: Connection, account_id: str, campaign_id: int, due_at: float, local: datetime | None, number: int
) -> None:
    connection.execute(
        insert(schema.run).values(
            account_id=account_id,
            campaign_id=campaign_id,
            state="scheduled",
            due_at=due_at,
            audience=0,
            local=None if local is None else local.isoformat(timespec="minutes"),
            number=number,
        )
    )


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A campaign and what its runs come to. state: of the run that says most of it. due_at: when the next run begins,
    or when the last one did. audience: of all runs. frozen_at, ended_at: None until a run has begun, or all are over.
    completed, missed: how many runs are."""

    id: int
    name: str
    channel: str
    created_at: float
    state: str
    due_at: float
    audience: int
    frozen_at: float | None
    ended_at: float | None
    completed: int
    missed: int


def find_campaign(connection: Connection, account_id: str, campaign_id: int) -> Found:
    """One campaign. Raises Problem when this account has none of that id."""
    found = list_campaigns(connection, account_id, campaign_id=campaign_id)
    if not found:
        raise Problem("Invalid campaign id")
    return found[0]


def list_campaigns(
    connection: Connection,
    account_id: str,
    *,
    campaign_id: int | None = None,
    due: tuple[float, float] | None = None,
    limit: int = 1000,
) -> Sequence[Found]:
    """Campaigns, newest first; `due` is [from, to) in epoch seconds: those with a run in it, as of those runs."""
    campaign, run = schema.campaign, schema.run

    def of(state: str, what: Any = 1) -> Any:
        return case((run.c.state == state, what))

    states = [func.count(of(state)).label(state) for state in RUN_STATES]
    of_campaign = (campaign.c.id, campaign.c.name, campaign.c.channel, campaign.c.created_at)
    query = (
        select(
            *of_campaign,
            *states,
            func.min(of("scheduled", run.c.due_at)).label("next_due"),
            func.max(run.c.due_at).label("last_due"),
            func.sum(run.c.audience).label("audience"),
            func.max(run.c.frozen_at).label("frozen_at"),
            func.max(run.c.ended_at).label("ended_at"),
            func.count(case((run.c.ended_at.is_(None), 1))).label("open"),
        )
        .join(run, run.c.campaign_id == campaign.c.id)
        .where(campaign.c.account_id == account_id)
        .group_by(*of_campaign)
        .order_by(campaign.c.id.desc())
        .limit(limit)
    )
    if campaign_id is not None:
        query = query.where(campaign.c.id == campaign_id)
    if due is not None:
        query = query.where(run.c.due_at >= due[0], run.c.due_at < due[1])
    return [_found(row) for row in connection.execute(query)]


def _found(row: CampaignRow) -> Found:
    state = next(name for name in ("running", "scheduled", "stopped", "completed", "missed") if getattr(row, name))
    return Found(
        id=row.id,
        name=row.name,
        channel=row.channel,
        created_at=row.created_at,
        state=state,
        due_at=row.last_due if row.next_due is None else row.next_due,
        audience=int(row.audience or 0),
        frozen_at=row.frozen_at,
        ended_at=None if row.open else row.ended_at,
        completed=row.completed,
        missed=row.missed,
    )


def read_stored_spec(connection: Connection, account_id: str, campaign_id: int) -> Spec:
    table = schema.campaign
    stored = connection.scalar(select(table.c.spec).where(table.c.account_id == account_id, table.c.id == campaign_id))
    return _STORED.decode(stored or "")


def find_due(connection: Connection, now: float, limit: int = 10) -> Sequence[CampaignRow]:
    """Runs whose time has come: (id, account_id, campaign_id, due_at, local, number)."""
    run = schema.run
    return connection.execute(
        select(run.c.id, run.c.account_id, run.c.campaign_id, run.c.due_at, run.c.local, run.c.number)
        .where(run.c.state == "scheduled", run.c.due_at <= now, func.coalesce(run.c.retry_at, 0.0) <= now)
        .order_by(run.c.due_at)
        .limit(limit)
    ).all()


def postpone_run(connection: Connection, run_id: int, until: float) -> None:
    """A run that could not begin is tried again later, so that it holds up nobody else's."""
    connection.execute(update(schema.run).where(schema.run.c.id == run_id).values(retry_at=until))


def move_run(connection: Connection, run_id: int, to: str, now: float, **values: Any) -> bool:
    """Moves a run along the table of states; False when it is no longer where that can be done from."""
    run = schema.run
    sources = [state for state, targets in RUN_STATES.items() if to in targets]
    done = connection.execute(
        update(run).where(run.c.id == run_id, run.c.state.in_(sources)).values(state=to, **values)
    )
    return done.rowcount == 1


def stop_campaign(connection: Connection, account_id: str, campaign_id: int, now: float) -> str:
    """Stops every run of a campaign that is scheduled or running; stopping it again changes nothing. What is already
    with a vendor is not called back: workers see the state at their next claim. Answers the state it was in."""
    found = find_campaign(connection, account_id, campaign_id)
    run, chunk = schema.run, schema.chunk
    for row in connection.execute(select(run.c.id, run.c.state).where(run.c.campaign_id == campaign_id)).all():
        if row.state == "scheduled":
            move_run(connection, row.id, "stopped", now, ended_at=now)
        elif row.state == "running":
            move_run(connection, row.id, "stopped", now)
            # those that wait for a retry, or for their users' day, need not wait to be told
            waiting = update(chunk).where(chunk.c.run_id == row.id, chunk.c.open == 1)
            connection.execute(waiting.values(not_before=now))
    return found.state
