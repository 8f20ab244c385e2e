"""Addresses that get nothing, by account: listed with the reason, lifted when a bounce was a mistake, and let go after
a time when nobody ever said that they are dead."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import msgspec
import structlog
from sqlalchemy import Connection, delete, func, literal, select, union_all

from tocsin.account import list_accounts
from tocsin.errors import Problem
from tocsin.ingest import refresh_sharers
from tocsin.ingest.record import read_email
from tocsin.ingest.subscription import AddressChange, find_unsubscribed
from tocsin.store import schema
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger
from tocsin.store.lock import lock_account
from tocsin.store.rows import among

log = structlog.get_logger()

SOFT_BOUNCES, SOFT_DAYS = (
    3,
    30,
)  # so many mails that bounce softly in so many days suppress an address, for as many days
AT_ONCE = 1000  # addresses let go in one transaction
DAY = 86_400.0
SOFT = "soft bounce"  # how the code of such an address begins

device, left = schema.device, schema.unsubscribed


class Suppressed(msgspec.Struct, frozen=True):
    """An address that gets nothing. type: as in `/1/subscribe`. reason: `unsubscribed` or `bounced`. detail: by what
    (link, complaint, API, event), or the code of the bounce. since: epoch seconds."""

    type: str
    address: str
    reason: Literal["unsubscribed", "bounced"]
    detail: str
    since: int


def list_suppressed(connection: Connection, account_id: str, offset: int, limit: int) -> tuple[list[Suppressed], int]:
    """Return so many of an account's suppressed addresses, by type and address, and how many there are."""
    bounced = select(
        *(device.c.kind.label("type"), device.c.token.label("address"), literal("bounced").label("reason")),
        *(func.coalesce(device.c.gone_code, "").label("detail"), device.c.gone_at.label("since")),
    ).where(device.c.account_id == account_id, device.c.kind == "email")
    unsubscribed = select(left.c.kind, left.c.address, literal("unsubscribed"), left.c.reason, left.c.since).where(
        left.c.account_id == account_id
    )
    both = union_all(bounced, unsubscribed).subquery()
    ordered = select(both).order_by(both.c.type, both.c.address, both.c.reason).offset(offset).limit(limit)
    found = [
        Suppressed(row.type, row.address, row.reason, row.detail, int(row.since or 0))
        for row in connection.execute(ordered)
    ]
    return found, connection.scalar(select(func.count()).select_from(both)) or 0


async def lift_bounce(ledger: Ledger, facts: Facts, account_id: str, address: str, by: str) -> int:
    """Let an address that bounced get mail again; return how many users have it. Raise Problem 404 for an address that
    did not bounce, in other words for one that left. by: who asked, for the log, which has a line for every one: whose
    address it is, not what it is."""
    wanted = read_email(address)

    def free(connection: Connection) -> tuple[int, bool]:
        lock_account(connection, account_id)
        freed = _free(connection, account_id, [wanted]) if wanted else 0
        return freed, bool(wanted and find_unsubscribed(connection, account_id, "email", [wanted]))

    freed, unsubscribed = await ledger.write(free)
    if not freed:
        more = ": it left, and /1/subscribe brings it back" if unsubscribed else ""
        raise Problem(f"This address is not suppressed by a bounce{more} (at $.address)", code=404, status=404)
    users = await refresh_sharers(ledger, facts, account_id, [AddressChange("email", wanted, opts_out=False)])
    log.warning("a bounced address was freed", account=account_id, users=sorted(users), by=by)
    return len(users)


async def end_soft_bounces(ledger: Ledger, facts: Facts, now: float) -> int:
    """Free the addresses that bounced softly and have rested for SOFT_DAYS, each with its line in the log; return how
    many."""
    total = 0
    for account in await asyncio.to_thread(list_accounts, ledger):
        account_id = account.id

        def free(connection: Connection, account_id: str = account_id) -> list[str]:
            mine = (device.c.account_id == account_id, device.c.kind == "email")
            due = (device.c.gone_code.like(f"{SOFT}%"), device.c.gone_at < now - SOFT_DAYS * DAY)
            found = list(connection.scalars(select(device.c.token).where(*mine, *due).limit(AT_ONCE)))
            if found:
                lock_account(connection, account_id)
                _free(connection, account_id, found)
            return found

        while found := await ledger.write(free):
            total += len(found)
            changes = [AddressChange("email", address, opts_out=False) for address in found]
            users = await refresh_sharers(ledger, facts, account_id, changes)
            log.warning("a bounced address was freed", account=account_id, users=sorted(users), by="rest")
    return total


def _free(connection: Connection, account_id: str, addresses: list[str]) -> int:
    mine = (device.c.account_id == account_id, device.c.kind == "email")
    return connection.execute(delete(device).where(*mine, among(connection, device.c.token, addresses))).rowcount


def describe(found: list[Suppressed], total: int, limit: int) -> dict[str, Any]:
    """Return a page as answers and commands show it."""
    return {"suppressed": msgspec.to_builtins(found), "total_pages": -(-total // limit)}
