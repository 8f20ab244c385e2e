"""Kept sums: how many recipients of closed chunks ended in which state, by tag group and by run; and the same by every
column that a report has.

Reports add the chunks that are open to them, so nobody adds up history, and the cleaner may delete it.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, select

from tocsin.store.rows import add_to_rows
from tocsin.store.schema import account as account_table
from tocsin.store.schema import recipient_sum, run_sum, tag_sum

QUARTER = 900  # seconds; a time zone is so many of them from UTC, so all of one are in the same hour
CODE = 300  # characters of a vendor's code that are counted by: it is part of a key, and may be a template's error

End = tuple[int, int, str, int]  # platform, state, code, and the quarter of an hour when it became final
# The columns of a cell, in the order of their keys.
CELL = (
    *("account_id", "campaign_id", "run_id", "channel", "variant", "tag_group"),
    *("platform", "state", "code", "hour", "day"),
)
CELL_KEYS = CELL[:-1]


class EndNote(Protocol):
    """What is read of `queue.Note`. at: when a recipient became final; 0: when the chunk was started."""

    @property
    def code(self) -> str: ...
    @property
    def at(self) -> float: ...


class ClosedChunk(Protocol):
    """What is counted of a chunk: `queue.Chunk`. platforms, states: a byte a recipient, all of them final."""

    @property
    def account_id(self) -> str: ...
    @property
    def campaign_id(self) -> int: ...
    @property
    def run_id(self) -> int | None: ...
    @property
    def channel(self) -> str: ...
    @property
    def tag_group(self) -> str: ...
    @property
    def variant(self) -> str: ...
    @property
    def platforms(self) -> bytes: ...
    @property
    def states(self) -> bytes | bytearray: ...
    @property
    def notes(self) -> Mapping[int, EndNote]: ...
    @property
    def started_at(self) -> float: ...


def add_closed(connection: Connection, chunks: Iterable[ClosedChunk]) -> None:
    """Add the recipients of the chunks that this transaction closes; call it once for all of them.

    Each sum is one upsert, however many chunks add to it, and they come in the order of their keys: two processes that
    add to the same sums wait for each other, and never both at once.
    """
    chunks = list(chunks)
    zones = read_zones(connection, {chunk.account_id for chunk in chunks})
    tags: Counter[tuple[str, str, int]] = Counter()
    runs: Counter[tuple[int, str, int, str]] = Counter()
    quarters: Counter[tuple[Any, ...]] = Counter()
    for chunk in chunks:
        run = chunk.run_id
        of_chunk = (chunk.account_id, chunk.campaign_id, run or 0, chunk.channel, chunk.variant, chunk.tag_group)
        ends = count_ends(chunk.states, chunk.platforms, chunk.notes, chunk.started_at)
        for end, count in ends.items():
            quarters[*of_chunk, *end] += count
            if run is None:
                tags[chunk.account_id, chunk.tag_group, end[1]] += count
            else:
                runs[run, chunk.variant, end[1], chunk.account_id] += count
    if tags:
        rows = [
            {"account_id": account, "tag_group": tag, "state": state, "recipients": tags[account, tag, state]}
            for account, tag, state in sorted(tags)
        ]
        add_to_rows(connection, tag_sum, rows, keys=("account_id", "tag_group", "state"), added="recipients")
    if runs:
        rows = [
            {"run_id": key[0], "variant": key[1], "state": key[2], "account_id": key[3], "recipients": runs[key]}
            for key in sorted(runs)
        ]
        add_to_rows(connection, run_sum, rows, keys=("run_id", "variant", "state"), added="recipients")
    cells: Counter[tuple[Any, ...]] = Counter()
    for (account, *rest, quarter), count in quarters.items():
        cells[account, *rest, *find_hour(zones[account], quarter)] += count
    add_cells(connection, cells)


def add_cells(connection: Connection, cells: Mapping[tuple[Any, ...], int]) -> None:
    """Add recipients to the sums of these cells: the values of CELL."""
    if cells:
        rows = [dict(zip(CELL, cell, strict=True)) | {"recipients": cells[cell]} for cell in sorted(cells)]
        add_to_rows(connection, recipient_sum, rows, keys=CELL_KEYS, added="recipients")


def read_zones(connection: Connection, account_ids: Iterable[str]) -> dict[str, str]:
    """Return the time zone of accounts."""
    query = select(account_table.c.id, account_table.c.timezone).where(account_table.c.id.in_(sorted(account_ids)))
    return {row.id: row.timezone for row in connection.execute(query)}


def count_ends(
    states: bytes | bytearray, platforms: bytes, notes: Mapping[int, EndNote], started_at: float
) -> Mapping[End, int]:
    """Return the recipients of a chunk by what became of them. Of those who are under way the code is that of their
    last try, and the time means nothing."""
    started, size = int(started_at) // QUARTER, len(states)
    if not notes and size and states.count(states[0]) == size and platforms.count(platforms[0]) == size:
        return {(platforms[0], states[0], "", started): size}
    found, alike = Counter[End](), _count_alike(states, platforms)
    noted: dict[tuple[int, int, str, float], int] = {}
    for place, note in notes.items():  # a Counter of tuples from `zip` takes three times as long
        key = (platforms[place], states[place], note.code, note.at)
        noted[key] = noted.get(key, 0) + 1
    for (platform, state, code, at), count in noted.items():
        found[platform, state, clip_code(code), int(at) // QUARTER or started] += count
        alike[platform, state] -= count
    for (platform, state), count in alike.items():
        if count:
            found[platform, state, "", started] += count
    return found


def clip_code(code: str) -> str:
    """Return a code as it is counted by. PostgreSQL refuses NUL."""
    return code[:CODE].replace("\0", " ")


def _count_alike(states: bytes | bytearray, platforms: bytes) -> Counter[tuple[int, int]]:
    """Return the recipients by platform and state. Nearly every chunk has one platform or one state."""
    if platforms and platforms.count(platforms[0]) == len(platforms):
        return Counter({(platforms[0], state): states.count(state) for state in set(states)})
    return Counter(zip(platforms, states, strict=True))


@functools.lru_cache(maxsize=65_536)
def find_hour(zone: str, quarter: int) -> tuple[int, str]:
    """Return when the hour began in which a quarter is, and the day, by the clocks of a time zone; (0, "") for 0."""
    if not quarter:
        return 0, ""
    local = datetime.fromtimestamp(quarter * QUARTER, UTC).astimezone(ZoneInfo(zone))
    return int(local.replace(minute=0).timestamp()), local.date().isoformat()
