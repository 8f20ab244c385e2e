"""Recipients, counted in the ledger: by campaign, by variant, by the reason they were suppressed for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sqlalchemy import Connection, func, select

from tocsin.outcome import NUMBERS, SUPPRESSED, reason_of
from tocsin.queue import table
from tocsin.store import schema


def sum_numbers(connection: Connection, campaign_id: int) -> dict[str, int]:
    """Return the recipients of all of a campaign's runs by the names of `result.json` (NUMBERS)."""
    return sum_numbers_of_campaigns(connection, [campaign_id])[campaign_id]


def sum_numbers_of_campaigns(connection: Connection, campaign_ids: Sequence[int]) -> dict[int, dict[str, int]]:
    """Return `sum_numbers` of many campaigns by id, in one query."""
    names, run = tuple(NUMBERS), schema.run
    numbers = {campaign_id: dict.fromkeys(names, 0) for campaign_id in campaign_ids}
    rows = connection.execute(
        select(run.c.campaign_id, *(func.sum(table.c[name]) for name in names))
        .join(run, run.c.id == table.c.run_id)
        .where(run.c.campaign_id.in_(campaign_ids))
        .group_by(run.c.campaign_id)
    )
    for row in rows:
        numbers[row[0]] = dict(zip(names, map(int, row[1:]), strict=True))
    return numbers


def sum_numbers_by_variant(connection: Connection, campaign_id: int) -> dict[str, dict[str, int]]:
    """Return {audience, *NUMBERS} by variant; "" holds recipients without one and the control groups."""
    names, run = ("size", *NUMBERS), schema.run
    rows = connection.execute(
        select(table.c.variant, *(func.sum(table.c[name]) for name in names))
        .join(run, run.c.id == table.c.run_id)
        .where(run.c.campaign_id == campaign_id)
        .group_by(table.c.variant)
    )
    return {row[0]: dict(zip(("audience", *NUMBERS), map(int, row[1:]), strict=True)) for row in rows}


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
    run = schema.run
    held = (
        select(table.c.states)
        .join(run, run.c.id == table.c.run_id)
        .where(run.c.campaign_id == campaign_id, table.c.suppressed > 0)
    )
    counts: Counter[int] = Counter()
    for states in connection.scalars(held):
        counts.update(bytes(states))
    return {reason_of(state): counts[state] for state in sorted(SUPPRESSED) if counts[state]}
