"""What requests came to: when each was due, beside the stamps of the sink."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import msgspec

from benchmarks.pacer import Paced
from benchmarks.stamps import Stamp


class Trial(msgspec.Struct, frozen=True):
    """offered: requests that were due. accepted: answered 200. delivered: accepted and stamped by the sink. twice:
    stamps beyond the first of a number. strays: stamps of what was not accepted. latencies: seconds from due to the
    sink's answer of what was accepted, sorted; of what is not delivered, until it was last looked for.
    backlog_half, backlog_end: messages due and not answered, half-way through the load and when the last was due.
    accepted_rate: a second, from the first due to the last answer; delivered_rate: the same at the sink.
    answer_p99: seconds from due to the answer of 200. late_p99: seconds from due to sent."""

    offered: int
    accepted: int
    delivered: int
    twice: int
    strays: int
    latencies: list[float]
    backlog_half: int
    backlog_end: int
    accepted_rate: float
    delivered_rate: float
    answer_p99: float
    late_p99: float

    def percentile(self, share: float) -> float:
        """Return a percentile of the latencies in milliseconds; `share` is from 0 to 1."""
        return pick(self.latencies, share) * 1000


def pick(values: Sequence[float], share: float) -> float:
    """Return a percentile of sorted values; 0.0 when there is none."""
    return values[min(len(values) - 1, int(len(values) * share))] if values else 0.0


def judge(paced: Paced, stamps: Sequence[Stamp], now: float, until: float = float("inf")) -> Trial:
    """Compare requests with what the sink saw. now: when it was last looked at. until: what was due later is left out.

    All times are monotonic seconds of one machine.
    """
    count = bisect_right(paced.due, until)
    first, due, accepted = paced.first, paced.due[:count], [one for one in paced.accepted if one < paced.first + count]
    mine = [one for one in stamps if first <= one.number < first + count]
    seen: dict[int, float] = {}
    for one in mine:
        seen.setdefault(one.number, one.answered)
    latencies = sorted(seen.get(one, now) - due[one - first] for one in accepted)
    delivered = [seen[one] for one in accepted if one in seen]
    answers = sorted(paced.answered[one - first] - due[one - first] for one in accepted)
    lates = sorted(sent - at if sent else now - at for sent, at in zip(paced.sent, due, strict=False))
    ends = sorted(seen.values())
    start, end = (due[0], due[-1]) if due else (now, now)
    half = (start + end) / 2
    answered = max((paced.answered[one - first] for one in accepted), default=now)
    return Trial(
        offered=count,
        accepted=len(accepted),
        delivered=len(delivered),
        twice=len(mine) - len(seen),
        strays=len(seen) - len(delivered),
        latencies=latencies,
        backlog_half=bisect_right(due, half) - bisect_right(ends, half),
        backlog_end=count - bisect_right(ends, end),
        accepted_rate=len(accepted) / max(1e-9, answered - start),
        delivered_rate=len(delivered) / max(1e-9, max(delivered, default=now) - start),
        answer_p99=pick(answers, 0.99),
        late_p99=pick(lates, 0.99),
    )
