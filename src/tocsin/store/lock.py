"""The locks of the ledger, and the one order in which every transaction takes them.

    send rate of an account → idempotency key → caps of an account → account → campaign → runs by id → chunks by id

The account's row stands for its users, identities, devices and tag groups: who changes several of them locks it first.
A transaction may leave out what it does not need, and must not go back; one that leases takes only chunks that nobody
holds, and so waits for none. What cannot be ordered (the keys of one batch of `/1/send`) may be broken off as a
deadlock, and is then run again by `store/ledger.py`.

SQLite has one writer: there these functions do nothing. Every lock ends with its transaction.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, select, text

from tocsin.store import schema

CAPS = 0x746F6373  # of PostgreSQL's advisory locks with two numbers; the second one is the account's
MIGRATION = 0x746F63736D  # of those with one number


def lock_caps(connection: Connection, account_id: str) -> None:
    """Wait until no other transaction claims, or gives back, under the caps of an account."""
    if _is_shared(connection):
        key = {"caps": CAPS, "account": account_id}
        connection.execute(text("SELECT pg_advisory_xact_lock(:caps, hashtext(:account))"), key)


def lock_account(connection: Connection, account_id: str) -> None:
    """Wait until no other transaction changes the people, devices or tag groups of an account."""
    table = schema.account
    if _is_shared(connection):
        connection.execute(select(table.c.id).where(table.c.id == account_id).with_for_update())


def lock_campaign(connection: Connection, account_id: str, campaign_id: int) -> None:
    """Wait until no other transaction begins or stops runs of a campaign."""
    table = schema.campaign
    if _is_shared(connection):
        mine = (table.c.account_id == account_id, table.c.id == campaign_id)
        connection.execute(select(table.c.id).where(*mine).with_for_update())


def lock_runs(connection: Connection, run_ids: Collection[int]) -> None:
    """Wait until no other transaction stops or ends these runs, or closes chunks of them."""
    table = schema.run
    if run_ids and _is_shared(connection):
        connection.execute(
            select(table.c.id).where(table.c.id.in_(sorted(run_ids))).order_by(table.c.id).with_for_update()
        )


def lock_chunks(connection: Connection, run_id: int) -> None:
    """Wait until no other transaction settles an open chunk of a run."""
    table = schema.chunk
    if _is_shared(connection):
        mine = (table.c.run_id == run_id, schema.chunk_is_open)
        connection.execute(select(table.c.id).where(*mine).order_by(table.c.id).with_for_update())


def lock_migration(connection: Connection) -> None:
    """Wait until no other process migrates the tables."""
    if _is_shared(connection):
        connection.execute(text("SET LOCAL lock_timeout = 0"))  # a large table takes its time
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION})


def _is_shared(connection: Connection) -> bool:
    return connection.dialect.name == "postgresql"
