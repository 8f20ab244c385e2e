"""Stage 6 of 7, outcome: the vocabulary of results, and the states a recipient goes through."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from enum import Enum, IntEnum


class Outcome(Enum):
    """The result of one attempt to send. The vendor's own code is kept beside it."""

    ACCEPTED = "accepted"  # the vendor took it, which is the last a sender can know
    GONE = "gone"  # the address is dead: forget it, unless it was registered again since
    REFUSED = "refused"  # this message is wrong, the address may be fine
    THROTTLED = "throttled"  # too fast: wait; it counts as no attempt
    UNAVAILABLE = "unavailable"  # vendor or network is down, and the message was certainly not taken
    DENIED = "denied"  # our credentials are wrong: stop the lane before the token list is burnt
    UNKNOWN = "unknown"  # it may or may not have been sent; never sent again unless the campaign asks for it
    EXPIRED = "expired"  # its time or its attempts ran out before a vendor took it
    SUPPRESSED = "suppressed"  # it was not sent, for a reason of ours


class State(IntEnum):
    """The state of one recipient, a byte of a chunk's ledger row. The numbers are stored and never change."""

    WAITING = 0
    CLAIMED = 1  # handed to a vendor, or about to be: after a crash it may have been sent
    ACCEPTED = 2
    GONE = 3
    REFUSED = 4
    EXPIRED = 5
    UNKNOWN = 6
    NO_DEVICE = 16  # from here on: suppressed, and the reason
    UNSUBSCRIBED = 17
    STOPPED = 18
    NOT_FOUND = 19  # no user has this identity
    NO_PROVIDER = 20
    QUIET_HOURS = 21  # of a campaign that discards what falls into them
    CUT_OFF = 22  # the campaign's time of day had ended
    TIME_PASSED = 23  # in the user's time zone, before the run began
    CONTROL_GROUP = 24
    FREQUENCY_CAP = 25  # the account's, for the channel
    DWELL_TIME = 26  # too soon after the user's last message
    CAMPAIGN_CAP = 27  # the campaign's own
    DUPLICATE_ADDRESS = 28  # another recipient of the run has the same mailbox or number


SUPPRESSED = frozenset(state for state in State if state >= State.NO_DEVICE)
FINAL = frozenset(State) - {State.WAITING, State.CLAIMED}

# from → to. `Chunk.move` raises ValueError for any other step.
STATES: Mapping[State, frozenset[State]] = {
    State.WAITING: frozenset((State.CLAIMED, State.REFUSED, State.EXPIRED, *SUPPRESSED)),
    State.CLAIMED: frozenset((State.WAITING, State.ACCEPTED, State.GONE, State.REFUSED, State.EXPIRED, State.UNKNOWN)),
    **{state: frozenset[State]() for state in FINAL},
}

# The outcome that a final state is recorded as, and the number of `result.json` it adds to.
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
FEW = 4  # recipients of a request, whose numbers are remembered: counting takes 6 µs, twice a message
# The same by the word that facts have.
NUMBER_OF_OUTCOME: Mapping[str, str] = {
    OUTCOME_OF[state].value: name for name, states in NUMBERS.items() for state in states
}


def count_numbers(states: bytes) -> dict[str, int]:
    """Return the recipients of a chunk by the names of `result.json`; those that are not final count in none."""
    return dict(_count_few(states)) if len(states) <= FEW else _count(states)


def _count(states: bytes) -> dict[str, int]:
    return {name: sum(states.count(state) for state in members) for name, members in NUMBERS.items()}


_count_few = functools.lru_cache(maxsize=1024)(_count)


def reason_of(state: int) -> str:
    """Return a suppressed state's reason in words: «no device», «frequency cap»."""
    return State(state).name.lower().replace("_", " ")
