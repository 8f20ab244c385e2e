"""Kept sums: how many recipients of closed chunks ended in which state, by tag group and by run.

Reports add the chunks that are open to them, so nobody adds up history, and the cleaner may delete it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Protocol

from sqlalchemy import Connection

from tocsin.store.rows import add_to_rows
from tocsin.store.schema import run_sum, tag_sum


class ClosedChunk(Protocol):
    """What is counted of a chunk: `queue.Chunk`. states: a byte a recipient, all final."""

    @property
    def account_id(self) -> str: ...
    @property
    def run_id(self) -> int | None: ...
    @property
    def tag_group(self) -> str: ...
    @property
    def variant(self) -> str: ...
    @property
    def states(self) -> bytes | bytearray: ...


def add_closed(connection: Connection, chunks: Iterable[ClosedChunk]) -> None:
    """Add the recipients of the chunks that this transaction closes; call it once for all of them.

    Each sum is one upsert, however many chunks add to it, and they come in the order of their keys: two processes that
    add to the same sums wait for each other, and never both at once.
    """
    tags: Counter[tuple[str, str, int]] = Counter()
    runs: Counter[tuple[int, str, int, str]] = Counter()
    for chunk in chunks:
        for state in set(chunk.states):
            count = chunk.states.count(state)
            if chunk.run_id is None:
                tags[chunk.account_id, chunk.tag_group, state] += count
            else:
                runs[chunk.run_id, chunk.variant, state, chunk.account_id] += count
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
