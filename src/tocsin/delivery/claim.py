"""Claim: who of a chunk may be sent to now, and why the others may not. Pure: stores and clocks are asked elsewhere.

Each function moves recipients along `outcome.STATES`; nothing is sent before the ledger has committed the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import tzinfo

from tocsin.campaign.quiet_hours import Quiet, quiet_until
from tocsin.channels import PLATFORM_CODES
from tocsin.delivery.batch import PendingMessage
from tocsin.delivery.frequency_cap import CapDecision, Claim
from tocsin.delivery.plan import DeliveryPlan
from tocsin.delivery.recipients import Person, find_addresses
from tocsin.outcome import FINAL, State
from tocsin.queue import Chunk, Note

Window = dict[str, list[PendingMessage]]  # messages by platform


def drop_late(chunk: Chunk, now: float) -> None:
    """Give up on recipients whose message expired, or whose campaign's cut-off passed."""
    if now >= chunk.expires_at:
        for position in chunk.waiting(float("inf")):
            finish(chunk, position, State.EXPIRED, "too late", now)
    elif chunk.cut_off is not None and now >= chunk.cut_off:
        chunk.move_all(chunk.waiting(float("inf")), State.CUT_OFF)


def select_window(
    chunk: Chunk,
    size: int,
    paused_until: Mapping[str, float],
    is_refused: Callable[[str], bool],
    now: float,
) -> list[int]:
    """Return the positions of the next window: at most `size` that are due and whose platform has an open lane.

    paused_until: by platform, for those that have a provider. is_refused: whether the chunk's content is stopped on a
    platform. Recipients without a provider or with a refused content become final; those of a paused lane wait for it.
    """
    waiting = chunk.waiting(now)
    present = {code: PLATFORM_CODES[code] for code in set(chunk.platforms)}
    closed = {code for code, name in present.items() if paused_until.get(name, float("inf")) > now or is_refused(name)}
    if not closed:
        return waiting[:size]
    window: list[int] = []
    for position in waiting:
        code = chunk.platforms[position]
        platform = present[code]
        if code not in closed:
            window.append(position)
            if len(window) == size:
                break
        elif platform not in paused_until:
            chunk.move(position, State.NO_PROVIDER)
        elif is_refused(platform):
            finish(chunk, position, State.REFUSED, "not tried: the content is refused", now)
        else:
            chunk.notes.setdefault(position, Note()).not_before = paused_until[platform]
    return window


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
            chunk.move(position, State.QUIET_HOURS)
        else:
            chunk.notes.setdefault(position, Note()).not_before = min(end, chunk.expires_at)
    return rest


def address_window(chunk: Chunk, window: Sequence[int], plan: DeliveryPlan, people: Mapping[int, Person]) -> Window:
    """Return the messages of a window by platform. Recipients without an address, or opted out, become final."""
    messages: Window = {}
    for position in window:
        platform = PLATFORM_CODES[chunk.platforms[position]]
        person = people.get(chunk.users[position])
        addresses = find_addresses(person, platform, every_device=plan.every_device)
        if isinstance(addresses, State):
            chunk.move(position, addresses)
            continue
        profile = person.profile if person is not None and plan.personal else ""
        messages.setdefault(platform, []).extend(
            PendingMessage(position, device_id, address, profile) for device_id, address in addresses
        )
    return messages


def apply_caps(chunk: Chunk, window: Window, decision: CapDecision) -> Window:
    """Return what the caps leave of a window. The others are dropped, or wait for room in the throttle."""
    for position, state in decision.dropped.items():
        chunk.move(position, state)
    for position, until in decision.later.items():
        chunk.notes.setdefault(position, Note()).not_before = min(until, chunk.expires_at)
    out = decision.dropped.keys() | decision.later.keys()
    kept = {name: [one for one in messages if one.position not in out] for name, messages in window.items()}
    return {name: messages for name, messages in kept.items() if messages}


def find_claims(chunk: Chunk, window: Mapping[str, Sequence[PendingMessage]], at: float) -> list[Claim]:
    """Return the recipients of a window as the caps count them: once, however many devices."""
    positions = dict.fromkeys(message.position for messages in window.values() for message in messages)
    return [Claim(position, chunk.users[position], chunk.platforms[position], at) for position in positions]


def finish(chunk: Chunk, position: int, state: State, code: str, now: float, tries: int = 0) -> None:
    """Make a recipient final in a state that has a code, or that came later than the chunk's first try."""
    assert state in FINAL
    chunk.move(position, state)
    at = now if position in chunk.notes or tries == 0 else 0.0
    chunk.notes[position] = Note(tries=tries, code="" if state is State.ACCEPTED else code, at=at)
