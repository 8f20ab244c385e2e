"""When to try again, when to give up, when to stop the line. Pure: the clock and the dice are given."""

from __future__ import annotations

import msgspec

from tocsin.outcome import Outcome, State
from tocsin.providers.contract import Receipt, Scope

LONGEST_WAIT = 3600.0
LANE_PAUSE = 60.0  # FCM: 429 without Retry-After waits 60 s
DENIED_PAUSE = 60.0  # how soon mended credentials are tried, with one message


class Policy(msgspec.Struct, frozen=True):
    """floor: seconds before the first retry at least. retries: after the first attempt."""

    floor: float
    retries: int


class Step(msgspec.Struct, frozen=True):
    """What becomes of a recipient after an attempt. `tries` are those spent; `not_before` is for WAITING."""

    state: State
    tries: int
    not_before: float = 0.0


def next_step(receipt: Receipt, tries: int, now: float, expires_at: float, policy: Policy, dice: float) -> Step:
    """Final, or waiting for a time. Being throttled or denied spends no try; a message never outlives `expires_at`.

    tries: spent before this attempt. dice: uniform in [0, 1), for the jitter.
    """
    match receipt.outcome:
        case Outcome.ACCEPTED:
            return Step(State.ACCEPTED, tries + 1)
        case Outcome.GONE:
            return Step(State.GONE, tries + 1)
        case Outcome.UNKNOWN:
            return Step(State.UNKNOWN, tries + 1)
        case Outcome.THROTTLED | Outcome.DENIED:
            wait = receipt.retry_after if receipt.retry_after is not None else LANE_PAUSE
            return _wait(now + min(wait, LONGEST_WAIT), tries, expires_at)
        case Outcome.UNAVAILABLE if receipt.scope is Scope.LANE:
            # Nobody's message can go: an outage of an hour must not use up everybody's tries.
            return _wait(now + lane_pause(receipt), tries, expires_at)
        case Outcome.UNAVAILABLE:
            if tries >= policy.retries:
                return Step(State.EXPIRED, tries + 1)
            return _wait(now + retry_delay(receipt.retry_after, tries, policy.floor, dice), tries + 1, expires_at)
        case _:
            return Step(State.REFUSED, tries + 1)


def retry_delay(asked: float | None, tries: int, floor: float, dice: float) -> float:
    """Seconds before the retry after `tries` tries: what the vendor asked for, or `floor` doubled each time; plus as
    much again by chance (jitter), so that a thousand messages do not come back in the same second."""
    least = max(floor * 2.0**tries, asked or 0.0)
    return float(min(least * (1 + dice), LONGEST_WAIT))


def lane_pause(receipt: Receipt) -> float:
    """Seconds the whole credential has to pause after this answer; 0 for none."""
    if receipt.outcome is Outcome.DENIED:
        return DENIED_PAUSE if receipt.retry_after is None else receipt.retry_after
    if receipt.outcome in (Outcome.THROTTLED, Outcome.UNAVAILABLE) and receipt.scope is Scope.LANE:
        return min(receipt.retry_after if receipt.retry_after is not None else LANE_PAUSE, LONGEST_WAIT)
    return 0.0


def _wait(until: float, tries: int, expires_at: float) -> Step:
    return Step(State.WAITING, tries, until) if until < expires_at else Step(State.EXPIRED, tries)
