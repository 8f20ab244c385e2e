"""A worker process with nothing but the ledger: it claims, writes down what it would send, and settles.

`python claimer.py LEDGER_URL OUTPUT OWNER LEASE_SECONDS WINDOW`. Each line of the output is «chunk position», written
after the commit that claims and before the one that settles, where a real worker hands its messages to the vendors.
It makes the output when it is ready, waits for the first chunk, and ends when none is open.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path

from sqlalchemy import Connection, func, select

from tocsin import queue
from tocsin.delivery.rescue import rescue_abandoned
from tocsin.delivery.retry import RetryPolicy
from tocsin.delivery.settle import SettleRules
from tocsin.outcome import State
from tocsin.queue import Chunk
from tocsin.store import schema
from tocsin.store.ledger import Ledger, open_ledger

POLL_SECONDS = 0.02
RULES = SettleRules(RetryPolicy(floor=10.0, retries=2), every_device=True, random=lambda: 0.5)


def claim_all(ledger: Ledger, output: int, owner: str, lease_seconds: float, window: int) -> None:
    """Takes one chunk after the other until none is open."""
    while not count_open(ledger):
        time.sleep(POLL_SECONDS)
    while count_open(ledger):
        rescue_abandoned(ledger, Path("/nonexistent"), owner, RULES, time.time)
        chunks = ledger.write_now(lambda connection: queue.lease_due(connection, owner, time.time(), lease_seconds))
        if not chunks:
            time.sleep(POLL_SECONDS)  # the open ones are others'
        for chunk in chunks:
            deliver(ledger, output, chunk, lease_seconds, window)


def deliver(ledger: Ledger, output: int, chunk: Chunk, lease_seconds: float, window: int) -> None:
    """Window after window: claim and commit, write down, settle with the next claim. Lets go when it is no longer
    ours."""

    def settle(connection: Connection) -> bool:
        return not queue.settle(connection, [chunk], time.time(), lease_seconds)

    while True:
        positions = chunk.waiting(time.time())[:window]
        for position in positions:
            chunk.move(position, State.CLAIMED)
        if not ledger.write_now(settle):
            return
        if not positions:
            break
        os.write(output, "".join(f"{chunk.id} {position}\n" for position in positions).encode())
        for position in positions:
            chunk.move(position, State.ACCEPTED)
    ledger.write_now(lambda connection: queue.release(connection, [(chunk, None)], time.time()))


def count_open(ledger: Ledger) -> int:
    table = schema.chunk
    return int(
        ledger.read_now(lambda connection: connection.scalar(select(func.count()).where(table.c.open == 1))) or 0
    )


def main(url: str, path: str, owner: str, lease_seconds: str, window: str) -> None:
    with contextlib.closing(open_ledger(url)) as ledger:
        output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        claim_all(ledger, output, owner, float(lease_seconds), int(window))


if __name__ == "__main__":
    main(*sys.argv[1:])
