"""Stage 6 of 7, outcome: the vocabulary of results, and what each state of a recipient may become."""

from __future__ import annotations

from enum import Enum


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
