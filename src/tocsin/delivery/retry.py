"""Retry: when to try again, when to give up, how long a lane pauses. Pure: the clock and the random are given."""

from __future__ import annotations

import math

import msgspec

from tocsin.outcome import Outcome, State
from tocsin.providers.contract import Receipt, Scope

SHORTEST_WAIT = 1.0
LONGEST_WAIT = 3600.0
LANE_PAUSE = 60.0  # FCM: 429 without Retry-After waits 60 s; mended credentials are tried as soon


PAUSING = (Outcome.THROTTLED, Outcome.UNAVAILABLE, Outcome.UNKNOWN)


class RetryPolicy(msgspec.Struct, frozen=True):
    """floor: least seconds before the first retry. retries: attempts after the first one."""

    floor: float
    retries: int


class Decision(msgspec.Struct, frozen=True):
    """The state of a recipient after an attempt. tries: spent so far. not_before: epoch seconds, for WAITING."""

    state: State
    tries: int
    not_before: float = 0.0


def decide(
    receipt: Receipt,
    tries: int,
    now: float,
    expires_at: float,
    policy: RetryPolicy,
    random: float,
    *,
    resend: bool = False,
) -> Decision:
    """Decide whether a recipient is final or waits for a retry.

    Being throttled or denied spends no try; a message never outlives `expires_at`.

    tries: spent before this attempt. random: uniform in [0, 1), for the jitter. resend: an unknown
    result is retried while tries and time last; when they are over it stays unknown.
    """
    match receipt.outcome:
        case Outcome.ACCEPTED:
            return Decision(State.ACCEPTED, tries + 1)
        case Outcome.GONE:
            return Decision(State.GONE, tries + 1)
        case Outcome.UNKNOWN:
            delay = _back_off(receipt, tries, policy, random, expires_at - now)
            if resend and tries < policy.retries and now + delay < expires_at:
                return Decision(State.WAITING, tries + 1, now + delay)
            return Decision(State.UNKNOWN, tries + 1)
        case Outcome.THROTTLED | Outcome.DENIED:
            return _wait(now + _asked_wait(receipt), tries, expires_at)
        case Outcome.UNAVAILABLE if receipt.scope is Scope.LANE:
            # Nobody's message can go: an outage of an hour must not use up everybody's tries.
            return _wait(now + lane_pause(receipt), tries, expires_at)
        case Outcome.UNAVAILABLE:
            if tries >= policy.retries:
                return Decision(State.EXPIRED, tries + 1)
            delay = _back_off(receipt, tries, policy, random, expires_at - now)
            return _wait(now + delay, tries + 1, expires_at)
        case _:
            return Decision(State.REFUSED, tries + 1)


def _back_off(receipt: Receipt, tries: int, policy: RetryPolicy, random: float, left: float) -> float:
    """Return the seconds before a message's retry. What doubles is what the vendor wants: five tries, each five minutes
    after the one before, would be over before a relay has room again."""
    base = max(policy.floor, receipt.retry_after or 0.0)
    return retry_delay(base, tries, base, random, left)


def retry_delay(asked: float | None, tries: int, floor: float, random: float, left: float = math.inf) -> float:
    """Return the seconds before the retry after `tries` tries: `max(floor, asked) + random × floor × 2^tries`.

    Full jitter (AWS, «Exponential backoff and jitter») is any time from 0 to the doubled bound, which keeps a thousand
    messages from coming back in the same second. But FCM wants nothing sooner than 10 s, and a vendor gets the time it
    asks for: that is the least, and the whole width of the jitter lies above it. The jitter ends with the message,
    `left` seconds away: no message expires by bad luck.
    """
    least = max(floor, asked or 0.0)
    if least >= LONGEST_WAIT:
        return LONGEST_WAIT
    return least + random * max(min(floor * 2.0**tries, LONGEST_WAIT - least, left - least), 0.0)


def lane_pause(receipt: Receipt) -> float:
    """Return the seconds the whole credential has to pause after this receipt; 0 for none."""
    whole = receipt.scope is Scope.LANE and receipt.outcome in PAUSING
    return _asked_wait(receipt) if whole or receipt.outcome is Outcome.DENIED else 0.0


def _asked_wait(receipt: Receipt) -> float:
    """Return the wait the vendor asked for, from 1 s to an hour: «Retry-After: 0» must not make a busy loop."""
    wait = receipt.retry_after if receipt.retry_after is not None else LANE_PAUSE
    return min(max(wait, SHORTEST_WAIT), LONGEST_WAIT)


def _wait(until: float, tries: int, expires_at: float) -> Decision:
    return Decision(State.WAITING, tries, until) if until < expires_at else Decision(State.EXPIRED, tries)
