"""The audience snapshot: a due run asks for its audience once and becomes chunks of the queue."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime, tzinfo

import msgspec
import structlog
from sqlalchemy import Connection

from tocsin import queue
from tocsin.account import Account
from tocsin.audience.members import Drawn, find_duplicates, stream_recipients, stream_recipients_by_zone
from tocsin.campaign.experiment import ControlGroups, pick_variant
from tocsin.campaign.local_time import read_zone
from tocsin.campaign.runs import (
    CampaignRow,
    count_taken,
    find_due,
    insert_next_run,
    move_run,
    postpone_run,
    read_stored_spec,
)
from tocsin.campaign.schedule import cut_off_after, due_for, over_at
from tocsin.campaign.spec import Spec
from tocsin.channels import CHANNELS
from tocsin.delivery.recipients import find_zones
from tocsin.ingest.profile_copy import NOT_COPIED
from tocsin.outcome import State
from tocsin.policy import load_policy
from tocsin.queue import Recipients, Share
from tocsin.settings import Settings
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger
from tocsin.store.lock import lock_campaign

log = structlog.get_logger()

AT_ONCE = 4  # accounts whose runs are begun side by side
RETRY_SECONDS = 30.0  # before a run that could not begin is tried again
Pairs = Iterable[tuple[int, str]]


class Snapshots:
    """Begins the runs that are due, side by side and one of an account at a time: an audience that takes long to ask
    for holds up only its own account.

    The audience is asked for once; its chunks, the run's state and numbers, and the next run of a recurring campaign
    are one transaction. A run that is later than `late_minutes` is missed. on_end: called with whether a run began.
    """

    def __init__(self, ledger: Ledger, facts: Facts, settings: Settings, on_end: Callable[[bool], None]):
        self._ledger, self._facts, self._settings = ledger, facts, settings
        self._on_end = on_end
        self._tasks: dict[str, asyncio.Task[bool]] = {}

    @property
    def busy(self) -> bool:
        """Whether runs are being begun."""
        return bool(self._tasks)

    async def begin_due(self, now: float) -> None:
        """Start with the runs that are due, of accounts of which none is being begun."""
        limit, without = AT_ONCE - len(self._tasks), list(self._tasks)
        if not limit:
            return
        for run in await self._ledger.read(lambda connection: find_due(connection, now, limit, without)):
            task = self._tasks[run.account_id] = asyncio.create_task(self._begin(run, now))
            task.add_done_callback(functools.partial(self._end, run.account_id))

    async def finish(self) -> int:
        """Wait until what was started has ended. Return how many runs began."""
        return sum(await asyncio.gather(*self._tasks.values()))

    async def _begin(self, run: CampaignRow, now: float) -> bool:
        try:
            return await _snapshot(self._ledger, self._facts, run, now, self._settings)
        except Exception:
            log.exception("campaign cannot begin", account=run.account_id, campaign=run.campaign_id)
            await self._ledger.write(functools.partial(postpone_run, run_id=run.id, until=now + RETRY_SECONDS))
            return False

    def _end(self, account_id: str, task: asyncio.Task[bool]) -> None:
        del self._tasks[account_id]
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            log.error("campaign cannot begin, and cannot be put off", account=account_id, exc_info=error)
        self._on_end(error is None and task.result())


async def snapshot_due_runs(ledger: Ledger, facts: Facts, now: float, settings: Settings) -> int:
    """Begin the runs that are due, and wait for them. Return how many began."""
    ended: list[bool] = []
    snapshots, before = Snapshots(ledger, facts, settings, ended.append), -1
    while len(ended) > before:
        before = len(ended)
        await snapshots.begin_due(now)
        await snapshots.finish()
    return sum(ended)


async def _snapshot(ledger: Ledger, facts: Facts, run: CampaignRow, now: float, settings: Settings) -> bool:
    spec = await ledger.read(lambda connection: read_stored_spec(connection, run.account_id, run.campaign_id))
    account = await ledger.read(lambda connection: Account.load(connection, run.account_id))
    late = now > _last_due(run, spec, account) + settings.late_minutes * 60
    taken = await ledger.read(lambda connection: count_taken(connection, run.account_id, run.campaign_id, spec))
    planned = PlannedRun(run.campaign_id, run.local, taken)
    gather = functools.partial(gather_audience, ledger, facts, account, planned, spec, now, settings)
    shares = {} if late else await asyncio.to_thread(gather)
    count = sum(map(len, shares.values()))
    users = None if spec.users_limit is None else len({user for part in shares.values() for user in part.users})

    def write(connection: Connection) -> bool:
        lock_campaign(connection, run.account_id, run.campaign_id)  # another process may be stopping it
        values = {"ended_at": now} if late else {"frozen_at": now, "audience": count, "users": users}
        if not late and count_taken(connection, run.account_id, run.campaign_id, spec) != taken:
            return False  # another run of it began in the meantime: this one is looked at again
        if not move_run(connection, run.id, "missed" if late else "running", **values):
            return False  # stopped, or begun by another process, in the meantime
        if spec.limit_run(taken + (users or 0)) != 0:
            insert_next_run(connection, run, spec, account.zone)
        if late:
            return False
        queue.insert_run_chunks(
            connection,
            account_id=run.account_id,
            run_id=run.id,
            campaign_id=run.campaign_id,
            channel=spec.channel,
            shares=shares,
            resend=spec.on_crash == "resend",
            now=now,
        )
        queue.end_run(connection, run.id, now)
        return True

    begun = await ledger.write(write)
    if begun:
        log.info("campaign begun", account=run.account_id, campaign=run.campaign_id, audience=count)
    elif late:
        log.error("campaign missed: nothing could begin it in time", account=run.account_id, campaign=run.campaign_id)
    return begun


def _last_due(run: CampaignRow, spec: Spec, account: Account) -> float:
    """Return when a run is due, on users' own clocks for the last of them: whose time has passed meanwhile is left out
    one by one."""
    if spec.when is None or run.local is None or not spec.when.own_clock:
        return float(run.due_at)
    return max(float(run.due_at), over_at(datetime.fromisoformat(run.local), spec.when, account.zone))


class PlannedRun(msgspec.Struct, frozen=True):
    """What a snapshot has to know of a run: its campaign, its wall-clock time as `run.local` has it, and how many users
    the campaign's earlier runs had, where that is limited."""

    campaign_id: int
    local: str | None
    taken: int = 0


def gather_audience(
    ledger: Ledger,
    facts: Facts,
    account: Account,
    run: PlannedRun,
    spec: Spec,
    now: float,
    settings: Settings,
    drawn: Drawn | None = None,
) -> Mapping[Share, Recipients]:
    """Return the audience by what its recipients have in common. drawn: only these of it; the others still count as who
    has an address first. Blocks: call it in a thread."""
    seconds = spec.message_seconds if spec.message_seconds is not None else settings.message_hours * 3600
    shares: dict[Share, Recipients] = {}
    limit = spec.limit_run(run.taken)
    if limit == 0:
        return shares
    share_of = functools.cache(functools.partial(_make_share, spec, run, now, seconds))
    policy = ledger.read_now(lambda connection: load_policy(connection, account.id))
    system = policy.control.percent if spec.system_control_group else 0.0
    control = ControlGroups(account.id, run.campaign_id, system, spec.control_percentage)
    duplicates: Collection[int] = ()
    if CHANNELS[spec.channel].property and not spec.send_to_every_profile:
        whose = (spec.where, CHANNELS[spec.channel], now, limit, drawn, spec.subscription_groups)
        duplicates = find_duplicates(facts, account, *whose)
    divided = bool(control.system or control.campaign or spec.variants or duplicates)
    for zone, pairs in _read_by_zone(ledger, facts, account, spec, now, limit, drawn):
        share = share_of(zone)
        for part, members in _divide(share, pairs, control, spec, duplicates) if divided else ((share, pairs),):
            shares.setdefault(part, Recipients()).extend(members)
    return shares


def _divide(
    share: Share, pairs: Pairs, control: ControlGroups, spec: Spec, duplicates: Collection[int]
) -> Iterable[tuple[Share, Pairs]]:
    """Return the recipients of a share by variant; those in a control group, and those whose address another one has,
    get nothing. A user is in the same part on every platform."""
    variants = [(one.name, one.percentage) for one in spec.variants]
    parts: dict[Share, list[tuple[int, str]]] = {}
    for pair in pairs:
        user = pair[0]
        if share.state is State.WAITING and control.holds_back(user):
            part = msgspec.structs.replace(share, state=State.CONTROL_GROUP, not_before=0.0)
        elif share.state is State.WAITING and user in duplicates:
            part = msgspec.structs.replace(share, state=State.DUPLICATE_ADDRESS, not_before=0.0)
        elif variants:
            name = pick_variant(control.account_id, control.campaign_id, user, variants)
            part = msgspec.structs.replace(share, variant=name)
        else:
            part = share
        parts.setdefault(part, []).append(pair)
    return parts.items()


def _read_by_zone(
    ledger: Ledger, facts: Facts, account: Account, spec: Spec, now: float, limit: int | None, drawn: Drawn | None
) -> Iterable[tuple[tzinfo, Pairs]]:
    """Yield the audience by the time zone that each recipient is sent to in: their own, or the account's for all."""
    asked = (facts, account, spec.where, spec.platforms, now, limit, drawn)
    if spec.when is None or not spec.when.own_clock:
        for everybody in stream_recipients(*asked):
            yield account.zone, everybody
        return
    for block in stream_recipients_by_zone(*asked):
        for name, pairs in block.items():
            if name == NOT_COPIED:
                yield from _look_up_zones(ledger, account, pairs)
            else:
                yield read_zone(name, account.zone), pairs


def _look_up_zones(ledger: Ledger, account: Account, pairs: Pairs) -> Iterable[tuple[tzinfo, Pairs]]:
    users = sorted({user for user, _ in pairs})
    zones = ledger.read_now(lambda connection: find_zones(connection, account, users))
    parts: dict[tzinfo, list[tuple[int, str]]] = {}
    for pair in pairs:
        parts.setdefault(zones.get(pair[0], account.zone), []).append(pair)
    return parts.items()


def _make_share(spec: Spec, run: PlannedRun, now: float, seconds: float, zone: tzinfo) -> Share:
    """Return what the recipients of a time zone have in common: when they are due, and until when."""
    when = spec.when
    if when is None or run.local is None:
        return Share(expires_at=now + seconds)
    due = due_for(datetime.fromisoformat(run.local), when, zone, now) if when.own_clock else now
    if due is None:
        return Share(expires_at=now + seconds, state=State.TIME_PASSED)
    due = max(due, now)
    cut_off = cut_off_after(due, when, zone)
    return Share(not_before=due if due > now else 0.0, expires_at=due + seconds, cut_off=cut_off)
