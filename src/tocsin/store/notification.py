"""Word between processes on one PostgreSQL ledger that there is work: NOTIFY in the transaction that adds it, LISTEN.

It is a hint, not a promise: while the connection is down notifications are lost, so whoever waits also looks now and
then. On SQLite there is one process, which tells itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog
from sqlalchemy import Connection, text
from sqlalchemy.engine import make_url

from tocsin.store.ledger import Ledger

log = structlog.get_logger()

CHANNEL = "tocsin_work"
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds before the connection is made again
# libpq's: a server that is gone without a word is noticed within half a minute.
KEEPALIVE = "keepalives_idle=15 keepalives_interval=5 keepalives_count=3 connect_timeout=10"


def notify(connection: Connection) -> None:
    """Tell the listeners of every process, when this transaction is committed, that there is work."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_notify(:channel, '')"), {"channel": CHANNEL})


async def listen(ledger: Ledger, wake: Callable[[], None]) -> None:
    """Call `wake` at each notification, until cancelled. Returns at once on SQLite.

    A broken connection is made again, after a wait that doubles up to LONGEST_WAIT; then `wake` is called too.
    """
    if ledger.embedded:
        return
    import psycopg  # not for SQLite: it takes 60 ms

    url = make_url(ledger.url).set(drivername="postgresql").render_as_string(hide_password=False)
    where, wait = psycopg.conninfo.make_conninfo(url, **psycopg.conninfo.conninfo_to_dict(KEEPALIVE)), FIRST_WAIT
    while True:
        try:
            async with await psycopg.AsyncConnection.connect(where, autocommit=True) as connection:
                await connection.execute(f"LISTEN {CHANNEL}")
                wait = FIRST_WAIT
                wake()  # for what was said while nobody listened
                async for _ in connection.notifies():
                    wake()
        except (psycopg.Error, OSError) as error:
            log.warning("no notifications from the ledger; tried again", seconds=wait, reason=str(error)[:300])
        await asyncio.sleep(wait)
        wait = min(2 * wait, LONGEST_WAIT)
