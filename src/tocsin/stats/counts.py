"""Recipients, counted in the ledger: by campaign, by variant, by tag group, by the reason they were suppressed for.

A number is the kept sum of the chunks that are closed and of those that are open. Both are read by one statement:
between two of them a chunk may close, and would be counted twice or not at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, LargeBinary, Select, cast, func, literal, null, select, text, union_all

from tocsin.outcome import NUMBERS, SUPPRESSED, reason_of
from tocsin.queue import table
from tocsin.store import schema

_AUDIENCE = ("audience", *NUMBERS)
_NUMBER_OF = {int(state): name for name, states in NUMBERS.items() for state in states}
# The columns of an open chunk's numbers, and of a kept sum beside them: its recipients are in one state.
_OPEN = (literal(-1), *(func.sum(table.c[name]) for name in ("size", *NUMBERS)))
_ZEROS = (literal(0),) * len(NUMBERS)


def sum_numbers(connection: Connection, campaign_id: int) -> dict[str, int]:
    """Return the recipients of all of a campaign's runs by the names of `result.json` (NUMBERS)."""
    return sum_numbers_of_campaigns(connection, [campaign_id])[campaign_id]


def sum_numbers_of_campaigns(connection: Connection, campaign_ids: Sequence[int]) -> dict[int, dict[str, int]]:
    """Return `sum_numbers` of many campaigns by id, in one query."""
    run = schema.run
    found = _sum_runs(connection, run.c.campaign_id, run.c.campaign_id, campaign_ids)
    return {one: {name: found[one][name] if one in found else 0 for name in NUMBERS} for one in campaign_ids}


def sum_numbers_by_variant(connection: Connection, campaign_id: int) -> dict[str, dict[str, int]]:
    """Return {audience, *NUMBERS} by variant; "" holds recipients without one and the control groups."""
    return _sum_runs(connection, schema.run_sum.c.variant, table.c.variant, [campaign_id])


def sum_numbers_by_tag_group(connection: Connection, account_id: str) -> dict[str, dict[str, int]]:
    """Return {audience, *NUMBERS} of an account's sends by identity, by tag group; "" for those without one. Recipients
    of a request count once a worker has looked them up."""
    kept, group = schema.tag_sum, schema.tag_group
    found = _add_up(
        connection,
        select(kept.c.tag_group, kept.c.state, kept.c.recipients, *_ZEROS).where(kept.c.account_id == account_id),
        select(table.c.tag_group, *_OPEN)
        .where(table.c.account_id == account_id, text(schema.COUNTED_REQUEST))
        .group_by(table.c.tag_group),
    )
    names = connection.scalars(select(group.c.name).where(group.c.account_id == account_id))
    return {name: dict.fromkeys(_AUDIENCE, 0) for name in names} | found


def find_variants(connection: Connection, campaign_id: int) -> dict[int, str]:
    """Return the variant by id of each chunk of a campaign that has one."""
    run = schema.run
    rows = connection.execute(
        select(table.c.id, table.c.variant)
        .join(run, run.c.id == table.c.run_id)
        .where(run.c.campaign_id == campaign_id, table.c.variant != "")
    )
    return {row.id: row.variant for row in rows}


def count_suppressed(connection: Connection, campaign_id: int) -> dict[str, int]:
    """Return the suppressed recipients of a campaign by the reason, in words."""
    kept, run = schema.run_sum, schema.run
    mine = run.c.campaign_id == campaign_id
    closed = select(kept.c.state, kept.c.recipients, cast(null(), LargeBinary)).join(run, run.c.id == kept.c.run_id)
    opened = select(literal(-1), literal(0), table.c.states).join(run, run.c.id == table.c.run_id)
    rows = connection.execute(
        union_all(
            closed.where(mine, kept.c.state.in_(SUPPRESSED)),
            opened.where(mine, table.c.open == 1, table.c.suppressed > 0),
        )
    )
    counts: Counter[int] = Counter()
    for state, recipients, states in rows:
        counts.update({state: int(recipients)} if states is None else bytes(states))
    return {reason_of(state): counts[state] for state in sorted(SUPPRESSED) if counts[state]}


def _sum_runs(
    connection: Connection, kept_by: Any, open_by: Any, campaign_ids: Sequence[int]
) -> dict[Any, dict[str, int]]:
    """Return {audience, *NUMBERS} of campaigns by a column, which kept sums and open chunks have each their own of."""
    kept, run = schema.run_sum, schema.run
    mine = run.c.campaign_id.in_(campaign_ids)
    return _add_up(
        connection,
        select(kept_by, kept.c.state, func.sum(kept.c.recipients), *_ZEROS)
        .join_from(kept, run, run.c.id == kept.c.run_id)
        .where(mine)
        .group_by(kept_by, kept.c.state),
        select(open_by, *_OPEN)
        .join_from(table, run, run.c.id == table.c.run_id)
        .where(mine, table.c.open == 1)
        .group_by(open_by),
    )


def _add_up(connection: Connection, kept: Select[Any], opened: Select[Any]) -> dict[Any, dict[str, int]]:
    """Return {audience, *NUMBERS} by key of rows (key, state or -1, audience, *NUMBERS)."""
    found: dict[Any, dict[str, int]] = {}
    for key, state, *numbers in connection.execute(union_all(kept, opened)):
        total = found.setdefault(key, dict.fromkeys(_AUDIENCE, 0))
        for name, number in zip(_AUDIENCE, numbers, strict=True):
            total[name] += int(number)
        if state >= 0:
            total[_NUMBER_OF[state]] += int(numbers[0])
    return found
