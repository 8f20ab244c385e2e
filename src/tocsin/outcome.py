"""Stage 6 of 7, outcome: the vocabulary of results, and the states a recipient goes through."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, IntEnum


class Outcome(Enum):
    """What one attempt to send came to. The vendor's own code always travels beside it."""

    ACCEPTED = "accepted"  # the vendor took it; nobody can promise more
    GONE = "gone"  # the address is dead: forget it, unless it was registered again since
    REFUSED = "refused"  # this message is wrong, the address may be fine
    THROTTLED = "throttled"  # too fast: wait, no attempt is spent
    UNAVAILABLE = "unavailable"  # vendor or network is down, and the message was certainly not taken
    DENIED = "denied"  # our credentials are wrong: stop the lane before the token list is burnt
    UNKNOWN = "unknown"  # it may or may not have been sent; never sent again unless the campaign asks for it
    EXPIRED = "expired"  # its time or its tries were over before a vendor took it
    SUPPRESSED = "suppressed"  # we did not try, with a reason


class State(IntEnum):
    """Where one recipient stands: one byte of a chunk's ledger row. The numbers are stored and never change."""

    WAITING = 0
    CLAIMED = 1  # handed to a vendor, or about to be: after a crash nobody can tell
    ACCEPTED = 2
    GONE = 3
    REFUSED = 4
    EXPIRED = 5
    UNKNOWN = 6
    NO_DEVICE = 16  # suppressed, and why
    UNSUBSCRIBED = 17
    STOPPED = 18
    NOT_FOUND = 19  # no user has this identity
    NO_PROVIDER = 20
    QUIET_HOURS = 21  # and the campaign discards what meets them
    CUT_OFF = 22  # the campaign's time of day was over
    TIME_PASSED = 23  # on the user's own clock, before the run began
    CONTROL_GROUP = 24
    FREQUENCY_CAP = 25  # the account's, of the channel
    DWELL_TIME = 26  # too soon after the last one
    CAMPAIGN_CAP = 27  # the campaign's own


SUPPRESSED = frozenset(state for state in State if state >= State.NO_DEVICE)
FINAL = frozenset(State) - {State.WAITING, State.CLAIMED}

# from → to. What is not here never happens: the ledger refuses it.
STATES: Mapping[State, frozenset[State]] = {
    State.WAITING: frozenset((State.CLAIMED, State.REFUSED, State.EXPIRED, *SUPPRESSED)),
    State.CLAIMED: frozenset((State.WAITING, State.ACCEPTED, State.GONE, State.REFUSED, State.EXPIRED, State.UNKNOWN)),
    **{state: frozenset[State]() for state in FINAL},
}

# What a final state is called in facts, and which number of `result.json` it adds to.
OUTCOME_OF: Mapping[State, Outcome] = {
    State.ACCEPTED: Outcome.ACCEPTED,
    State.GONE: Outcome.GONE,
    State.REFUSED: Outcome.REFUSED,
    State.EXPIRED: Outcome.EXPIRED,
    State.UNKNOWN: Outcome.UNKNOWN,
    **dict.fromkeys(SUPPRESSED, Outcome.SUPPRESSED),
}
NUMBERS: Mapping[str, frozenset[State]] = {
    "sent": frozenset((State.ACCEPTED,)),
    "unknown": frozenset((State.UNKNOWN,)),
    "failed": frozenset((State.GONE, State.REFUSED, State.EXPIRED)),
    "suppressed": SUPPRESSED,
}


def count_numbers(states: bytes) -> dict[str, int]:
    """How many recipients of a chunk stand where, by the names of `result.json`; those still under way in none."""
    return {name: sum(states.count(state) for state in members) for name, members in NUMBERS.items()}


def reason_of(state: int) -> str:
    """Why somebody was not tried, in words: «no device», «frequency cap»."""
    return State(state).name.lower().replace("_", " ")
