"""The events that a question is about, as SQL: those of its base event, of the people whom the rest of it means."""

from __future__ import annotations

from collections.abc import Sequence

from tocsin.account import Account
from tocsin.audience.compile import BITMAP, Sql, Writer, select_people
from tocsin.audience.node import AllOf, Did, Query


def compile_events(base: Did, rest: Sequence[Query], account: Account, now: float) -> Sql:
    """Return the condition on a row of `event`; what is said of the first and the latest event is of all time."""
    writer = Writer(account, now)
    name = writer.write_name(base)
    meets = [name, writer.write_days(base), *writer.write_event(base)]
    for wanted, edge in ((base.session.first, "min"), (base.session.last, "max")):
        if wanted is not None:
            edges = f"SELECT user, {edge}((at, id)) FROM event WHERE {name} GROUP BY user"
            meets.append(f"(user, (at, id)) {'' if wanted else 'NOT '}IN ({edges})")
    parts = [*rest, *([base] if base.times is not None else [])]
    if parts:
        people = select_people(("reach",), writer.write(AllOf(tuple(parts))))
        meets.append(f"bitmapContains((SELECT {BITMAP}(user) FROM ({people})), user)")
    return Sql(" AND ".join(meets), writer.parameters)
