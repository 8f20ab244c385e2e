"""Campaigns and their runs in the ledger: inserted, found, moved from state to state, stopped."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    Float,
    Integer,
    Row,
    Select,
    and_,
    bindparam,
    case,
    func,
    insert,
    or_,
    select,
    text,
    update,
)

from tocsin.campaign.goal import Goal
from tocsin.campaign.schedule import begins_at, next_local
from tocsin.campaign.spec import _STORED, LATEST_ID, Spec
from tocsin.errors import Problem
from tocsin.queue import HOLD_SECONDS
from tocsin.store import schema
from tocsin.store.lock import lock_campaign, lock_chunks
from tocsin.store.notification import notify
from tocsin.store.rows import among

# state of a run → the states it may go to
RUN_STATES: Mapping[str, tuple[str, ...]] = {
    "scheduled": ("running", "stopped", "missed"),
    "running": ("completed", "stopped"),
    "completed": (),
    "stopped": (),
    "missed": (),  # its time passed while no worker was there to start it
}


PAGE = 1000  # campaigns of a list, at most
# The state of a campaign is the first of these that a run of it has.
PRECEDENCE = ("running", "scheduled", "stopped", "completed", "missed")
_GOAL = msgspec.json.Decoder(Goal)  # made before there are threads
CampaignRow = Row[*tuple[Any, ...]]


def insert_campaign(connection: Connection, account_id: str, spec: Spec, now: float, zone: tzinfo = UTC) -> int:
    """Insert a campaign with its first run, or with a run for each of its times in `zone`; return its id. Ids look like
    epoch seconds, are unique over all accounts and fit signed 32 bits, for clients parse them as such."""
    table = schema.campaign
    if connection.dialect.name == "postgresql":  # SQLite has one writer
        # Not EXCLUSIVE: that would wait for whoever has locked a campaign's row.
        connection.execute(text("LOCK TABLE campaign IN SHARE ROW EXCLUSIVE MODE"))
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
            goal=msgspec.json.encode(spec.conversion_goal).decode() if spec.conversion_goal else None,
            created_at=now,
        )
    )
    if spec.labels:
        row = {"account_id": account_id, "campaign_id": campaign_id}
        names = dict.fromkeys(spec.labels)
        connection.execute(insert(schema.campaign_label), [row | {"name": name} for name in names])
    if spec.when is None or len(spec.when.times) == 1:
        local = None if spec.when is None else spec.when.times[0]
        _insert_run(connection, account_id, campaign_id, spec.due_at, local, 1)
    else:
        for number, local in enumerate(spec.when.times, 1):
            due_at = max(now, begins_at(local, spec.when, zone))
            _insert_run(connection, account_id, campaign_id, due_at, local, number)
    return campaign_id


def insert_next_run(connection: Connection, run: CampaignRow, spec: Spec, zone: tzinfo) -> None:
    """Insert the run that follows this one of a recurring campaign, unless it is the last."""
    if spec.when is None or run.local is None:
        return
    local = next_local(spec.when, datetime.fromisoformat(run.local), run.number)
    if local is not None:
        due_at = begins_at(local, spec.when, zone)
        _insert_run(connection, run.account_id, run.campaign_id, due_at, local, run.number + 1)


def count_taken(connection: Connection, account_id: str, campaign_id: int, spec: Spec) -> int:
    """Return how many users the runs of a campaign have had, each run's counted anew; 0 where nothing limits them."""
    if spec.users_limit is None:
        return 0
    run = schema.run
    mine = (run.c.account_id == account_id, run.c.campaign_id == campaign_id, run.c.frozen_at.is_not(None))
    # What a run from before the users were kept had is taken to be its audience: never fewer.
    return connection.scalar(select(func.sum(func.coalesce(run.c.users, run.c.audience))).where(*mine)) or 0


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
    notify(connection)


class CampaignSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A campaign and its runs in sum. state: the first of running, scheduled, stopped, completed, missed that any run
    has. due_at: when the next run begins, or the last one did. audience: of all runs. frozen_at: None until a run has
    begun. ended_at: None until all have ended. completed, missed: the number of such runs. held: whether a restore
    holds any run back."""

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
    held: bool


def find_campaign(connection: Connection, account_id: str, campaign_id: int) -> CampaignSummary:
    """Return one campaign. Raise Problem 400 when this account has none of that id."""
    found = list_campaigns(connection, account_id, campaign_ids=[campaign_id])
    if not found:
        raise Problem("Invalid campaign id")
    return found[0]


def list_campaigns(
    connection: Connection,
    account_id: str,
    *,
    campaign_ids: Sequence[int] | None = None,
    due: tuple[float, float] | None = None,
    limit: int = PAGE,
    offset: int = 0,
) -> Sequence[CampaignSummary]:
    """Return campaigns, newest first: those of the ids, or `limit` of all from `offset` on. due: [from, to) in epoch
    seconds; only runs that are due then are summed up, and campaigns without one are left out."""
    run = schema.run
    if campaign_ids is None:
        page = _select_ids(account_id, due).order_by(schema.campaign.c.id.desc()).limit(limit).offset(offset)
        campaign_ids = connection.scalars(page).all()
    query = _summary_query().where(
        schema.campaign.c.account_id == account_id, among(connection, schema.campaign.c.id, campaign_ids)
    )
    if due is not None:
        query = query.where(run.c.due_at >= due[0], run.c.due_at < due[1])
    return [_summarize(row) for row in connection.execute(query)]


def count_campaigns(connection: Connection, account_id: str, due: tuple[float, float]) -> int:
    """Return how many campaigns have a run that is due then."""
    return connection.scalar(select(func.count()).select_from(_select_ids(account_id, due).subquery())) or 0


def _select_ids(account_id: str, due: tuple[float, float] | None) -> Select[Any]:
    campaign, run = schema.campaign, schema.run
    query = select(campaign.c.id).where(campaign.c.account_id == account_id)
    if due is None:
        return query
    then = select(run.c.campaign_id).where(
        run.c.account_id == account_id, run.c.due_at >= due[0], run.c.due_at < due[1]
    )
    return query.where(campaign.c.id.in_(then))


def run_is_held() -> ColumnElement[bool]:
    """Return the condition that a run waits since a restore until somebody lets it go on."""
    run = schema.run
    return and_(or_(run.c.state == "scheduled", run.c.state == "running"), run.c.retry_at >= HOLD_SECONDS)


def find_labels(connection: Connection, account_id: str, limit: int) -> dict[int, list[str]]:
    """Return the labels of those of the newest `limit` campaigns that have any, by campaign."""
    label, campaign = schema.campaign_label, schema.campaign
    newest = select(campaign.c.id).where(campaign.c.account_id == account_id)
    newest = newest.order_by(campaign.c.id.desc()).limit(limit)
    query = select(label.c.campaign_id, label.c.name).where(
        label.c.account_id == account_id, label.c.campaign_id.in_(newest)
    )
    found: dict[int, list[str]] = {}
    for campaign_id, name in connection.execute(query):
        found.setdefault(campaign_id, []).append(name)
    return found


def find_goals(connection: Connection, account_id: str, campaign_ids: Collection[int]) -> dict[int, Goal]:
    """Return the conversion goals of those campaigns that have one."""
    table = schema.campaign
    mine = (table.c.account_id == account_id, table.c.goal.is_not(None))
    query = select(table.c.id, table.c.goal).where(*mine, among(connection, table.c.id, campaign_ids))
    return {row.id: _GOAL.decode(row.goal) for row in connection.execute(query)}


def find_newest_goals(connection: Connection, account_id: str, limit: int) -> dict[int, Goal]:
    """Return the conversion goals of the newest campaigns that have one."""
    table = schema.campaign
    mine = (table.c.account_id == account_id, table.c.goal.is_not(None))
    query = select(table.c.id, table.c.goal).where(*mine).order_by(table.c.id.desc()).limit(limit)
    return {row.id: _GOAL.decode(row.goal) for row in connection.execute(query)}


def _summary_query() -> Select[Any]:
    campaign, run = schema.campaign, schema.run

    def of(state: str, what: Any = 1) -> Any:
        return case((run.c.state == state, what))

    states = [func.count(of(state)).label(state) for state in RUN_STATES]
    of_campaign = (campaign.c.id, campaign.c.name, campaign.c.channel, campaign.c.created_at)
    return (
        select(
            *of_campaign,
            *states,
            func.min(of("scheduled", run.c.due_at)).label("next_due"),
            func.max(run.c.due_at).label("last_due"),
            func.sum(run.c.audience).label("audience"),
            func.max(run.c.frozen_at).label("frozen_at"),
            func.max(run.c.ended_at).label("ended_at"),
            func.count(case((run.c.ended_at.is_(None), 1))).label("open"),
            func.count(case((run_is_held(), 1))).label("held"),
        )
        .join(run, run.c.campaign_id == campaign.c.id)
        .group_by(*of_campaign)
        .order_by(campaign.c.id.desc())
    )


def _summarize(row: CampaignRow) -> CampaignSummary:
    state = next(name for name in PRECEDENCE if getattr(row, name))
    return CampaignSummary(
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
        held=row.held > 0,
    )


def read_stored_spec(connection: Connection, account_id: str, campaign_id: int) -> Spec:
    """Return the spec of a campaign, which must be in the ledger."""
    table = schema.campaign
    stored = connection.scalar(select(table.c.spec).where(table.c.account_id == account_id, table.c.id == campaign_id))
    return _STORED.decode(stored or "")


class _Grouped(msgspec.Struct, frozen=True):
    """What is read of a spec; the rest of it, which may be large, is skipped."""

    subscription_groups: tuple[str, ...] = ()


_GROUPED = msgspec.json.Decoder(_Grouped)


def find_groups(connection: Connection, account_id: str, campaign_id: int) -> Sequence[str]:
    """Return the subscription groups of a campaign; none of one that is not there, as of `/1/send`."""
    table = schema.campaign
    stored = connection.scalar(select(table.c.spec).where(table.c.account_id == account_id, table.c.id == campaign_id))
    return _GROUPED.decode(stored).subscription_groups if stored else ()


def find_due(
    connection: Connection, now: float, limit: int = 10, without: Collection[str] = ()
) -> Sequence[CampaignRow]:
    """Return scheduled runs whose time has come, of each account its earliest, the earliest first: (id, account_id,
    campaign_id, due_at, local, number). without: accounts that are left out."""
    return connection.execute(_select_due(), {"now": now, "without": list(without), "most": limit}).all()


@functools.cache  # a subquery is a circle of thousands of objects, and campaigns are looked for many times a second
def _select_due() -> Select[Any]:
    run, now = schema.run, bindparam("now", type_=Float)
    turn = func.row_number().over(partition_by=run.c.account_id, order_by=(run.c.due_at, run.c.id)).label("turn")
    due = (
        select(run.c.id, run.c.account_id, run.c.campaign_id, run.c.due_at, run.c.local, run.c.number, turn)
        .where(run.c.state == "scheduled", run.c.due_at <= now, func.coalesce(run.c.retry_at, 0.0) <= now)
        .where(run.c.account_id.not_in(bindparam("without", expanding=True)))
        .subquery()
    )
    columns = [due.c[name] for name in ("id", "account_id", "campaign_id", "due_at", "local", "number")]
    return select(*columns).where(due.c.turn == 1).order_by(due.c.due_at).limit(bindparam("most", type_=Integer))


def find_next_due(connection: Connection, limit: int = 50) -> float | None:
    """Return when the next scheduled run is due, or is tried again; None when none is scheduled. Looks at the first
    `limit`."""
    run = schema.run
    rows = connection.execute(
        select(run.c.due_at, run.c.retry_at).where(run.c.state == "scheduled").order_by(run.c.due_at).limit(limit)
    )
    return min((max(due, retry or 0.0) for due, retry in rows), default=None)


def postpone_run(connection: Connection, run_id: int, until: float) -> None:
    """Hide a run that could not begin from `find_due` until then, so that it does not hold up others."""
    connection.execute(update(schema.run).where(schema.run.c.id == run_id).values(retry_at=until))


def move_run(connection: Connection, run_id: int, to: str, **values: Any) -> bool:
    """Move a run to a state and set `values`. Return False when RUN_STATES does not allow that from where it is."""
    run = schema.run
    sources = [state for state, targets in RUN_STATES.items() if to in targets]
    done = connection.execute(
        update(run).where(run.c.id == run_id, run.c.state.in_(sources)).values(state=to, **values)
    )
    return done.rowcount == 1


def stop_campaign(connection: Connection, account_id: str, campaign_id: int, now: float) -> str:
    """Stop every scheduled or running run of a campaign; return the state the campaign was in. A repeat changes
    nothing. Messages that a worker has claimed are still sent: workers see the state at their next claim."""
    lock_campaign(connection, account_id, campaign_id)  # another process may be beginning a run and adding the next
    found = find_campaign(connection, account_id, campaign_id)
    run, chunk = schema.run, schema.chunk
    runs = select(run.c.id, run.c.state).where(run.c.campaign_id == campaign_id).order_by(run.c.id)
    for row in connection.execute(runs.with_for_update()).all():
        if row.state == "scheduled":
            move_run(connection, row.id, "stopped", ended_at=now)
        elif row.state == "running":
            move_run(connection, row.id, "stopped")
            lock_chunks(connection, row.id)
            # Chunks that wait for a retry or their users' local time are due now, for a worker to settle as stopped.
            waiting = update(chunk).where(chunk.c.run_id == row.id, schema.chunk_is_open)
            connection.execute(waiting.values(not_before=now))
            notify(connection)
    return found.state
