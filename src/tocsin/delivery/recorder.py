"""Outcomes of recipients, and devices found dead, written as rows of facts. Writing them twice is writing them once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row as LedgerRow

from tocsin.account import Account
from tocsin.channels import DEVICE_KINDS, PLATFORM_CODES
from tocsin.ingest import event_row, hash_id
from tocsin.outcome import FINAL, OUTCOME_OF, SUPPRESSED, reason_of
from tocsin.queue import Chunk
from tocsin.store.facts import COLUMNS, Facts, Row

NAMES = {int(state): outcome.value for state, outcome in OUTCOME_OF.items()}


async def record_outcomes(facts: Facts, settled: Sequence[tuple[Account, Chunk]]) -> int:
    """Insert every final recipient of some chunks as one block; the rows' key is the chunk and the position. Return how
    many rows that were."""

    def gather() -> list[list[Any]]:
        columns: list[list[Any]] = [[] for _ in COLUMNS["outcome"]]
        for account, chunk in settled:
            for column, more in zip(columns, _columns(account, chunk), strict=True):
                column.extend(more)
        return columns

    columns = await asyncio.to_thread(gather)  # a block of chunks takes a tenth of a second
    await facts.insert_columns("outcome", columns)
    return len(columns[0])


async def record_uninstalled(facts: Facts, account: Account, devices: Iterable[LedgerRow[Any]]) -> None:
    """Insert an `App Uninstalled` event for each device (rows of the ledger's `device`) that a vendor called dead.
    CleverTap has it when a vendor answers a push with «not registered». Its user is the one who had the device then."""
    await facts.insert("event", [_uninstalled_row(account, device) for device in devices])


def _uninstalled_row(account: Account, device: LedgerRow[Any]) -> Row:
    platform = DEVICE_KINDS[device.kind].label
    props = {"Platform": platform, "Campaign id": device.gone_campaign, "Code": device.gone_code}
    event_id = hash_id(account.id, device.id, device.gone_at)
    return event_row(account, "App Uninstalled", device.gone_user, device.gone_at, event_id, props)


def _columns(account: Account, chunk: Chunk) -> list[Sequence[Any]]:
    """Return the columns of `outcome` for one chunk, in the order of `COLUMNS`."""
    states = chunk.states
    places: Sequence[int] = range(len(states))
    if not chunk.settled:
        places = [place for place in places if states[place] in FINAL]
    count, at = len(places), datetime.fromtimestamp(int(chunk.started_at), UTC)
    ats, days, codes = [at] * count, [at.astimezone(account.zone).date()] * count, [""] * count
    suppressed = [index for index, place in enumerate(places) if states[place] in SUPPRESSED]
    noted = [index for index, place in enumerate(places) if place in chunk.notes] if chunk.notes else []
    for index in noted:
        note = chunk.notes[places[index]]
        codes[index] = note.code
        if note.at:
            ats[index] = settled_at = datetime.fromtimestamp(int(note.at), UTC)
            days[index] = settled_at.astimezone(account.zone).date()
    for index in suppressed:
        codes[index] = reason_of(states[places[index]])
    return [
        *([account.id] * count, [chunk.campaign_id] * count, [chunk.id] * count),
        *(places, [chunk.users[place] for place in places]),
        [PLATFORM_CODES[chunk.platforms[place]] for place in places],
        *([chunk.channel] * count, [NAMES[states[place]] for place in places]),
        *(codes, [chunk.tag_group] * count, [chunk.variant] * count, days, ats),
    ]
