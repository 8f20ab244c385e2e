"""Frequency caps: how many messages a user gets, and how fast a channel sends.

A message is reserved in the transaction that claims it, and given back in the one that settles it as not sent. What may
have been sent counts against the cap, also while it waits to be sent again. On two platforms it is one message.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
from sqlalchemy import Connection, delete, func, select, update

from tocsin.outcome import State
from tocsin.policy import Cap
from tocsin.queue import Chunk
from tocsin.store import schema
from tocsin.store.lock import lock_caps
from tocsin.store.rows import among, insert_new, upsert_rows

DAY, MINUTE = 86_400.0, 60.0
LONGEST = 90 * DAY
SLOT = 10  # seconds of one slot of the throttle
SLOTS = 300 // SLOT + 1  # summed: the oldest is only partly within the five minutes, and counts as a whole

table, rate_window = schema.reservation, schema.rate_window


class CapRule(msgspec.Struct, frozen=True, kw_only=True):
    """The caps of one chunk. message: names its run or request. account, campaign: caps, None when not respected.
    throttle: messages in five minutes, None when unlimited."""

    account_id: str
    channel: str
    message: str
    campaign_id: int
    account: Cap | None = None
    campaign: Cap | None = None
    throttle: int | None = None


class Claim(msgspec.Struct, frozen=True):
    """One recipient to be claimed, or claimed at `at`. platform: its code."""

    position: int
    user: int
    platform: int
    at: float = 0.0


class CapDecision(msgspec.Struct, frozen=True):
    """The positions that are not claimed: dropped for good, by state; or held back until a time, in epoch seconds."""

    dropped: Mapping[int, State] = {}
    later: Mapping[int, float] = {}


class _Reserved(NamedTuple):
    """What claims come to: who is left out, by rule; the rows to keep of the others, and how much of the throttle."""

    decisions: list[CapDecision]
    rows: list[dict[str, object]]
    used: int


def reserve(connection: Connection, asked: Sequence[tuple[CapRule, Sequence[Claim]]], now: float) -> list[CapDecision]:
    """Reserve a place for each claim that the caps allow, in this order. Return who is left out, by rule. All rules are
    of one account and channel.

    Waits for other transactions that claim under the account's caps.
    """
    lock_caps(connection, asked[0][0].account_id)
    decisions, rows, used = _decide_all(connection, asked, now)
    if used:
        _use(connection, asked[0][0], used, now)
    if rows:
        upsert_rows(connection, table, rows, keys=[column.name for column in table.primary_key], kept=("at",))
    return decisions


def foresee(connection: Connection, rule: CapRule, claims: Sequence[Claim], now: float) -> CapDecision:
    """Return who would be left out if these claims were made now. Nothing is reserved."""
    return _decide_all(connection, [(rule, claims)], now).decisions[0]


def _decide_all(connection: Connection, asked: Sequence[tuple[CapRule, Sequence[Claim]]], now: float) -> _Reserved:
    before = _read_before(connection, asked, now)
    room, until = _find_room(connection, [rule for rule, _ in asked], now)
    decisions: list[CapDecision] = []
    rows: list[dict[str, object]] = []
    used = 0
    for rule, claims in asked:
        dropped: dict[int, State] = {}
        later: dict[int, float] = {}
        for claim in claims:
            if (state := _decide(rule, before.get(claim.user, ()), now)) is not None:
                dropped[claim.position] = state
                continue
            if rule.throttle is not None:
                if used >= room:
                    later[claim.position] = until
                    continue
                used += 1
            if rule.account is not None or rule.campaign is not None:
                counted = rule.account is not None
                rows.append(_key(rule, claim) | {"campaign_id": rule.campaign_id, "at": now, "counted": int(counted)})
                mine = before.setdefault(claim.user, [])
                if all(one.message != rule.message for one in mine):  # else on another platform
                    mine.append(_Before(now, rule.campaign_id, counted, rule.message))
        decisions.append(CapDecision(dropped, later))
    return _Reserved(decisions, rows, used)


def give_back(connection: Connection, rule: CapRule, claims: Iterable[Claim]) -> None:
    """Free the places of claims that were not sent. A place in the throttle is freed in the slot it was taken in: in a
    later one it would outlive what it makes up for."""
    returned = list(claims)
    if not returned:
        return
    if rule.throttle is not None:
        for at, count in Counter(claim.at for claim in returned).items():
            _use(connection, rule, -count, at)
    if rule.account is not None or rule.campaign is not None:
        free_places(connection, rule.account_id, rule.channel, rule.message, returned)


def free_places(connection: Connection, account_id: str, channel: str, message: str, claims: Iterable[Claim]) -> None:
    """Free the places under the caps that claims of one run or request (`message`) may have."""
    lock_caps(connection, account_id)
    by_platform: dict[int, list[int]] = defaultdict(list)
    for claim in claims:
        by_platform[claim.platform].append(claim.user)
    for platform, users in by_platform.items():
        connection.execute(
            delete(table).where(
                *(table.c.account_id == account_id, table.c.channel == channel),
                *(table.c.message == message, table.c.platform == platform),
                among(connection, table.c.user_id, users),
            )
        )


def name_message(chunk: Chunk) -> str:
    """Return what a chunk's messages are under the caps: its run's, or its request's."""
    return f"s{chunk.id}" if chunk.run_id is None else f"r{chunk.run_id}"


def forget_old_reservations(connection: Connection, now: float) -> None:
    """Delete reservations and slots older than any cap looks back."""
    connection.execute(delete(table).where(table.c.at < now - LONGEST))
    connection.execute(delete(rate_window).where(rate_window.c.slot < int(now) // SLOT - 2 * SLOTS))


class _Before(NamedTuple):
    """A message reserved for a user. counted: for the account's cap."""

    at: float
    campaign_id: int
    counted: bool
    message: str


def _read_before(
    connection: Connection, asked: Sequence[tuple[CapRule, Sequence[Claim]]], now: float
) -> dict[int, list[_Before]]:
    """Return the messages reserved for users, as far back as the caps look."""
    caps = [cap for rule, _ in asked for cap in (rule.account, rule.campaign) if cap is not None]
    if not caps:
        return {}
    spans = [DAY * cap.days for cap in caps if cap.most is not None]
    spans += [MINUTE * (cap.dwell_minutes or 0) for cap in caps]
    users, any_rule = {claim.user for _, claims in asked for claim in claims}, asked[0][0]
    rows = connection.execute(
        select(table.c.user_id, func.max(table.c.at), table.c.campaign_id, func.max(table.c.counted), table.c.message)
        .where(table.c.account_id == any_rule.account_id, table.c.channel == any_rule.channel)
        .where(table.c.at > now - max(spans), among(connection, table.c.user_id, users))
        .group_by(table.c.user_id, table.c.message, table.c.campaign_id)
    )
    found: dict[int, list[_Before]] = defaultdict(list)
    for user, at, campaign_id, counted, message in rows:
        found[user].append(_Before(at, campaign_id, bool(counted), message))
    return found


def _decide(rule: CapRule, before: Sequence[_Before], now: float) -> State | None:
    """Return why a user gets no further message now; None when they may."""
    others = [one for one in before if one.message != rule.message]
    if rule.account is not None:
        times = [one.at for one in others if one.counted]
        if _is_full(rule.account, times, now):
            return State.FREQUENCY_CAP
        if _is_too_soon(rule.account, times, now):
            return State.DWELL_TIME
    if rule.campaign is not None:
        times = [one.at for one in others if one.campaign_id == rule.campaign_id and one.campaign_id]
        if _is_full(rule.campaign, times, now) or _is_too_soon(rule.campaign, times, now):
            return State.CAMPAIGN_CAP
    return None


def _is_full(cap: Cap, times: Iterable[float], now: float) -> bool:
    return cap.most is not None and sum(at > now - cap.days * DAY for at in times) >= cap.most


def _is_too_soon(cap: Cap, times: Iterable[float], now: float) -> bool:
    return cap.dwell_minutes is not None and any(at > now - cap.dwell_minutes * MINUTE for at in times)


def _find_room(connection: Connection, rules: Sequence[CapRule], now: float) -> tuple[int, float]:
    """Return how many more messages the throttle allows now, and when its next slot begins."""
    slot = int(now) // SLOT
    rule = next((one for one in rules if one.throttle is not None), None)
    if rule is None:
        return 0, 0.0
    used = connection.scalar(
        select(func.coalesce(func.sum(rate_window.c.used), 0)).where(
            *(
                rate_window.c.account_id == rule.account_id,
                rate_window.c.channel == rule.channel,
                rate_window.c.slot > slot - SLOTS,
            )
        )
    )
    return max(0, (rule.throttle or 0) - int(used or 0)), float((slot + 1) * SLOT)


def _use(connection: Connection, rule: CapRule, count: int, at: float) -> None:
    """Add to the slot of `at`."""
    if not count:
        return
    same = {"account_id": rule.account_id, "channel": rule.channel, "slot": int(at) // SLOT}
    insert_new(connection, rate_window, same | {"used": 0})
    connection.execute(update(rate_window).filter_by(**same).values(used=rate_window.c.used + count))


def _key(rule: CapRule, claim: Claim) -> dict[str, object]:
    return {
        "account_id": rule.account_id,
        "channel": rule.channel,
        "user_id": claim.user,
        "message": rule.message,
        "platform": claim.platform,
    }
