"""Claim: who of a chunk may be sent to now, and why the others may not. Pure: stores and clocks are asked elsewhere.

Each function moves recipients along `outcome.STATES`; nothing is sent before the ledger has committed the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import tzinfo

import msgspec

from tocsin.account import Account
from tocsin.campaign.quiet_hours import Quiet, quiet_until
from tocsin.channels import PLATFORM_CODES
from tocsin.delivery.batch import PendingMessage
from tocsin.delivery.frequency_cap import CapDecision, Claim
from tocsin.delivery.plan import DeliveryPlan
from tocsin.delivery.recipients import Person, find_addresses, read_zones
from tocsin.ingest.profile import allows_tracking
from tocsin.outcome import State
from tocsin.queue import Chunk

Window = dict[str, list[PendingMessage]]  # messages by platform


class OpenLane(msgspec.Struct, frozen=True):
    """What a claim has to know of a lane. paused_until: epoch seconds. room: messages it can take now."""

    paused_until: float = 0.0
    room: int = 1_000_000


def drop_late(chunk: Chunk, now: float) -> None:
    """Give up on recipients whose message expired, or whose campaign's cut-off passed."""
    if now >= chunk.expires_at:
        for position in chunk.waiting(float("inf")):
            chunk.finish(position, State.EXPIRED, now, "too late")
    elif chunk.cut_off is not None and now >= chunk.cut_off:
        chunk.finish_all(chunk.waiting(float("inf")), State.CUT_OFF, now)


def select_window(
    chunk: Chunk, lanes: Mapping[str, OpenLane], is_refused: Callable[[str], bool], size: int, now: float
) -> list[int]:
    """Return the positions of the next window: at most `size` that are due and whose lane has room for them.

    lanes: by platform, for those that have a provider. is_refused: whether the chunk's content is stopped on a
    platform. Recipients without a provider or with a refused content become final; those of a paused lane wait for it,
    and those of a full lane stay due.
    """
    rooms: dict[int, int] = {}
    for code in set(chunk.platforms) if chunk.platform is None else (chunk.platform,):
        lane = lanes.get(PLATFORM_CODES[code])
        closed = lane is None or lane.paused_until > now or is_refused(PLATFORM_CODES[code])
        rooms[code] = -1 if closed or lane is None else lane.room
    if len(rooms) == 1 and min(rooms.values()) >= 0:
        return chunk.waiting(now, min(size, *rooms.values()))
    window: list[int] = []
    for position in chunk.waiting(now):
        code = chunk.platforms[position]
        if rooms[code] < 0:
            _pass_over(chunk, position, lanes, is_refused, now)
        elif rooms[code] and len(window) < size:
            rooms[code] -= 1
            window.append(position)
    return window


def _pass_over(
    chunk: Chunk, position: int, lanes: Mapping[str, OpenLane], is_refused: Callable[[str], bool], now: float
) -> None:
    """Finish or put off a recipient whose lane is closed."""
    platform = PLATFORM_CODES[chunk.platforms[position]]
    if platform not in lanes:
        chunk.finish(position, State.NO_PROVIDER, now)
    elif is_refused(platform):
        chunk.finish(position, State.REFUSED, now, "not tried: the content is refused")
    else:
        chunk.put_off(position, lanes[platform].paused_until)


def hold_in_quiet_hours(
    chunk: Chunk, window: Sequence[int], quiet: Quiet, zones: Mapping[int, tzinfo], zone: tzinfo, now: float
) -> list[int]:
    """Return the positions of a window for whom it is not quiet. The others wait until it no longer is, or get nothing.

    zones: of users; `zone` of those who have none.
    """
    ends: dict[tzinfo, float | None] = {}
    rest: list[int] = []
    for position in window:
        own = zones.get(chunk.users[position], zone)
        if own not in ends:
            ends[own] = quiet_until(quiet, now, own)
        end = ends[own]
        if end is None:
            rest.append(position)
        elif quiet.state == "discard":
            chunk.finish(position, State.QUIET_HOURS, now)
        else:
            chunk.put_off(position, end)
    return rest


def find_window(
    chunk: Chunk,
    positions: Sequence[int],
    plan: DeliveryPlan,
    people: Mapping[int, Person],
    account: Account,
    now: float,
) -> Window:
    """Return the messages of selected positions by platform. Recipients for whom it is quiet wait or get nothing; those
    without an address, or opted out, become final."""
    if plan.quiet is not None:
        zones = dict[int, tzinfo]()
        if plan.quiet.zone == "user":
            zones = read_zones(people, account, {chunk.users[position] for position in positions})
        positions = hold_in_quiet_hours(chunk, positions, plan.quiet, zones, account.zone, now)
    return address_window(chunk, positions, plan, people, now)


def address_window(
    chunk: Chunk, window: Sequence[int], plan: DeliveryPlan, people: Mapping[int, Person], now: float
) -> Window:
    """Return the messages of a window by platform. Recipients without an address, or opted out, become final."""
    messages: Window = {}
    for position in window:
        platform = PLATFORM_CODES[chunk.platforms[position]]
        person = people.get(chunk.users[position])
        addresses = find_addresses(person, platform, every_device=plan.every_device)
        if isinstance(addresses, State):
            chunk.finish(position, addresses, now)
            continue
        if plan.groups and person is not None and not plan.groups.isdisjoint(person.groups_left):
            chunk.finish(position, State.UNSUBSCRIBED, now)
            continue
        profile = person.profile if person is not None and plan.personal else ""
        tracked = person is None or platform != "email" or allows_tracking(person.profile)
        messages.setdefault(platform, []).extend(
            PendingMessage(position, device_id, address, profile, tracked) for device_id, address in addresses
        )
    return messages


def apply_caps(chunk: Chunk, window: Window, decision: CapDecision, now: float) -> Window:
    """Return what the caps leave of a window. The others are dropped, or wait for room in the throttle."""
    for position, state in decision.dropped.items():
        chunk.finish(position, state, now)
    for position, until in decision.later.items():
        chunk.put_off(position, until)
    out = decision.dropped.keys() | decision.later.keys()
    kept = {name: [one for one in messages if one.position not in out] for name, messages in window.items()}
    return {name: messages for name, messages in kept.items() if messages}


def find_claims(chunk: Chunk, window: Mapping[str, Sequence[PendingMessage]], at: float) -> list[Claim]:
    """Return the recipients of a window as the caps count them: once, however many devices."""
    positions = dict.fromkeys(message.position for messages in window.values() for message in messages)
    return [Claim(position, chunk.users[position], chunk.platforms[position], at) for position in positions]
