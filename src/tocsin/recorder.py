"""What became of a chunk's recipients, as rows of facts. Writing them twice is writing them once."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import select

from tocsin import chunk as chunks
from tocsin.account import Account
from tocsin.chunk import Chunk
from tocsin.outcome import FINAL, OUTCOME_OF, SUPPRESSED, State
from tocsin.store import schema
from tocsin.store.facts import Facts, Row
from tocsin.store.ledger import Ledger


async def record_outcomes(facts: Facts, account: Account, chunk: Chunk) -> None:
    """Stores every final recipient of a chunk; the rows' key is the chunk and the position."""
    await facts.insert("outcome", _rows(account, chunk))


def _rows(account: Account, chunk: Chunk) -> list[Row]:
    rows: list[Row] = []
    zone = account.zone
    first = datetime.fromtimestamp(int(chunk.started_at), UTC)
    first_day = first.astimezone(zone).date()
    for position, byte in enumerate(chunk.states):
        state = State(byte)
        if state not in FINAL:
            continue
        note = chunk.notes.get(position)
        at, day = first, first_day
        if note is not None and note.at:
            at = datetime.fromtimestamp(int(note.at), UTC)
            day = at.astimezone(zone).date()
        code = note.code if note is not None else ""
        rows.append(
            (
                *(account.id, chunk.campaign_id, chunk.id, position, chunk.users[position]),
                chunks.PLATFORM_CODES[chunk.platforms[position]],
                *(chunk.channel, OUTCOME_OF[state].value),
                state.name.lower().replace("_", " ") if state in SUPPRESSED else code,
                *(chunk.tag_group, day, at),
            )
        )
    return rows


async def record_again(ledger: Ledger, facts: Facts, account: Account, page: int = 50) -> int:
    """Writes the outcomes of every chunk of an account anew, from the ledger, which is their truth. Answers how many
    recipients."""
    table, last, total = schema.chunk, 0, 0
    while True:
        after = last
        ids = await ledger.read(
            lambda connection, after=after: connection.scalars(  # type: ignore[misc]
                select(table.c.id)
                .where(table.c.account_id == account.id, table.c.id > after)
                .order_by(table.c.id)
                .limit(page)
            ).all()
        )
        if not ids:
            return total
        for chunk_id in ids:
            found = await ledger.read(lambda connection, one=chunk_id: chunks.load(connection, one))  # type: ignore[misc]
            if found is not None:
                rows = _rows(account, found)
                total += len(rows)
                await facts.insert("outcome", rows)
        last = ids[-1]
