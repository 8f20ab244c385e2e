"""A forecast: what would become of an audience if the run began now, by the functions that deliver it.

The snapshot gathers the audience, and each of its shares goes through what a claim does, with the vendors left out: who
would be handed over counts as sent. Nothing is written. Who waits, for the end of quiet hours or their own clock, is
looked at again at that time.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import tzinfo

import msgspec
from sqlalchemy import Connection, select

from tocsin.account import Account
from tocsin.audience.members import Drawn, count_members, draw_share
from tocsin.campaign.runs import count_taken, read_stored_spec
from tocsin.campaign.spec import Spec
from tocsin.channels import CHANNELS, PLATFORM_CODES
from tocsin.delivery.claim import (
    OpenLane,
    address_window,
    apply_caps,
    drop_late,
    find_claims,
    hold_in_quiet_hours,
    select_window,
)
from tocsin.delivery.frequency_cap import foresee
from tocsin.delivery.plan import DeliveryPlan, Planner
from tocsin.delivery.push_id import Secrets
from tocsin.delivery.recipients import find_zones, load_people
from tocsin.delivery.snapshot import PlannedRun, gather_audience
from tocsin.outcome import OUTCOME_OF, SUPPRESSED, State, reason_of
from tocsin.queue import SIZE, Chunk, Recipients, Share
from tocsin.settings import Settings
from tocsin.store import schema
from tocsin.store.deadline import time_left
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger
from tocsin.store.turns import Turns

SAMPLE = 20_000  # people whom a larger audience is judged by
WHOLE = 10_000  # shares of an audience that a sample is measured in
# Forecasts of a process, of one account, and those of it that may wait: each holds a thread and a line to the facts
# store that campaigns which begin, and the record of what was sent, need as well.
AT_ONCE, EACH, WAITING = 2, 1, 16
NO_SECRETS = Secrets(b"forecast", b"forecast")  # ids made with them are good for nothing
_TURNS = Turns(AT_ONCE, EACH, WAITING)


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """How many recipients would be sent to, fail and be suppressed, as `result.json` counts them, and how many would
    wait before that. sampled: the people this was judged by when they were not all; the numbers are scaled then."""

    audience: int = 0
    sent: int = 0
    failed: int = 0
    suppressed: int = 0
    suppressed_by: dict[str, int] = {}
    waiting: int = 0
    last_at: float = 0.0  # when the last who wait are due; 0 when nobody waits
    sampled: int | None = None


class Fate(msgspec.Struct, frozen=True):
    """What would become of one recipient. state: CLAIMED stands for handed over. at: when."""

    user: int
    platform: str
    state: State
    code: str
    variant: str
    at: float


def find_coming(connection: Connection, account_id: str, campaign_id: int) -> PlannedRun | None:
    """Return the next scheduled run of a campaign; None when none is to come."""
    run = schema.run
    mine = (run.c.account_id == account_id, run.c.campaign_id == campaign_id, run.c.state == "scheduled")
    row = connection.execute(select(run.c.local).where(*mine).order_by(run.c.due_at, run.c.id).limit(1)).first()
    if row is None:
        return None
    taken = count_taken(connection, account_id, campaign_id, read_stored_spec(connection, account_id, campaign_id))
    return PlannedRun(campaign_id, row.local, taken)


async def forecast(
    ledger: Ledger, facts: Facts, account: Account, run: PlannedRun, spec: Spec, now: float, settings: Settings
) -> Forecast:
    """Return what would become of a run that began now; of an audience above SAMPLE people, by a sample of it."""
    people = await count_members(facts, account, spec.where, now)
    limit = spec.limit_run(run.taken)
    people = people if limit is None else min(people, limit)
    share = WHOLE if people <= SAMPLE else max(1, WHOLE * SAMPLE // people)
    drawn = None if share == WHOLE else draw_share(share)
    fates = await foresee_all(ledger, facts, account, run, spec, now, settings, drawn)
    return _sum(fates, now, WHOLE / share, sampled=drawn is not None)


async def foresee_all(
    ledger: Ledger,
    facts: Facts,
    account: Account,
    run: PlannedRun,
    spec: Spec,
    now: float,
    settings: Settings,
    drawn: Drawn | None = None,
) -> list[Fate]:
    """Return what would become of each recipient of a run that began now, or of those drawn, when it is the account's
    turn. Raises Problem 429 when too many of the account wait, and 503 at the request's deadline."""
    async with _TURNS.take_within(account.id, time_left(settings.query_seconds)):
        shares = await asyncio.to_thread(gather_audience, ledger, facts, account, run, spec, now, settings, drawn)
        fates: list[Fate] = []
        for share, recipients in shares.items():
            for chunk in _make_chunks(account, run, spec, share, recipients, now):
                fates += await ledger.read(lambda one, chunk=chunk: _foresee(one, account, chunk, spec, settings, now))  # type: ignore[misc]
        return fates


def _make_chunks(
    account: Account, run: PlannedRun, spec: Spec, share: Share, recipients: Recipients, now: float
) -> Iterator[Chunk]:
    """Yield the chunks that a share would become, as the queue makes and leases them."""
    for part in recipients.by_platform():
        for start in range(0, len(part), SIZE):
            columns = part.columns(start, start + SIZE, share.state)
            yield Chunk(
                id=0,
                account_id=account.id,
                run_id=0,
                campaign_id=run.campaign_id,
                channel=spec.channel,
                tag_group="",
                expires_at=share.expires_at,
                started_at=max(now, share.not_before),
                request=None,
                users=part.users[start : start + SIZE],
                platforms=columns["platforms"],
                states=bytearray(columns["states"]),
                notes={},
                cut_off=share.cut_off,
                variant=share.variant,
            )


def _foresee(
    connection: Connection, account: Account, chunk: Chunk, spec: Spec, settings: Settings, now: float
) -> list[Fate]:
    """Return what would become of the recipients of one chunk."""
    planner = Planner(connection, account.id, settings, NO_SECRETS)
    plan = planner.plan_campaign(chunk, spec)
    lanes = dict.fromkeys(planner.list_platforms(), OpenLane())
    at, ended = chunk.started_at, dict[int, float]()
    while State.WAITING in chunk.states:
        _claim(connection, account, chunk, plan, lanes, at)
        ended |= {place: at for place, state in enumerate(chunk.states) if state and place not in ended}
        at = max(at, chunk.next_due() or at)
    return [
        Fate(user, PLATFORM_CODES[platform], State(state), _code_of(chunk, place), chunk.variant, ended.get(place, now))
        for place, (user, platform, state) in enumerate(zip(chunk.users, chunk.platforms, chunk.states, strict=True))
    ]


def _claim(
    connection: Connection,
    account: Account,
    chunk: Chunk,
    plan: DeliveryPlan,
    lanes: Mapping[str, OpenLane],
    now: float,
) -> None:
    """Claim whoever of a chunk is due, with a dispatcher's steps in their order."""
    drop_late(chunk, now)
    positions = select_window(chunk, lanes, lambda _: False, SIZE, now)
    users = sorted({chunk.users[position] for position in positions})
    if plan.quiet is not None:
        zones: Mapping[int, tzinfo] = {}
        if plan.quiet.zone == "user":
            zones = find_zones(connection, account, users)
        positions = hold_in_quiet_hours(chunk, positions, plan.quiet, zones, account.zone, now)
    people = load_people(connection, account.id, users, [CHANNELS[chunk.channel]])
    window = address_window(chunk, positions, plan, people, now)
    if plan.rule is not None:
        # The throttle only slows a run down; how much, whoever asks for the forecast adds.
        rule = msgspec.structs.replace(plan.rule, throttle=None)
        window = apply_caps(chunk, window, foresee(connection, rule, find_claims(chunk, window, now), now), now)
    claimed: Collection[int] = {message.position for messages in window.values() for message in messages}
    chunk.move_all(claimed, State.CLAIMED)


def _code_of(chunk: Chunk, position: int) -> str:
    note = chunk.notes.get(position)
    return "" if note is None else note.code


def _sum(fates: list[Fate], now: float, scale: float, *, sampled: bool) -> Forecast:
    states = Counter(fate.state for fate in fates)
    later = [fate.at for fate in fates if fate.at > now]
    by_reason = {reason_of(state): round(states[state] * scale) for state in sorted(SUPPRESSED) if states[state]}
    sent, failed = (round(states[state] * scale) for state in (State.CLAIMED, State.EXPIRED))
    suppressed = sum(by_reason.values())
    return Forecast(
        audience=sent + failed + suppressed,
        sent=sent,
        failed=failed,
        suppressed=suppressed,
        suppressed_by=by_reason,
        waiting=round(len(later) * scale),
        last_at=max(later, default=0.0),
        sampled=len({fate.user for fate in fates}) if sampled else None,
    )


def list_fates(fates: Sequence[Fate]) -> list[dict[str, object]]:
    """Return the fates of one person as an answer shows them."""
    shown: list[dict[str, object]] = []
    for one in fates:
        state = "sent" if one.state is State.CLAIMED else OUTCOME_OF[one.state].value
        reason = reason_of(one.state) if one.state in SUPPRESSED else one.code
        shown.append({"platform": one.platform, "state": state, "reason": reason, "at": int(one.at)})
    return shown
