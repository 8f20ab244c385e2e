"""Tickets: links that a mail brings, to join an account or to choose another password. Each is good once, and ends.

A ticket is a random token, of which the ledger keeps a digest. Used and ended ones stay a while: they are how many were
asked for.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Literal

import msgspec
from sqlalchemy import Connection, delete, func, select, update

from tocsin.authenticator.members import Role
from tocsin.store import schema

Kind = Literal["join", "reset"]
GOOD_SECONDS: dict[Kind, float] = {"join": 7 * 86_400.0, "reset": 3600.0}
KEPT_SECONDS = 8 * 86_400.0
# So many are made: invitations by one account in a day, resets for one address in an hour.
MOST: dict[Kind, tuple[int, float]] = {"join": (50, 86_400.0), "reset": (3, 3600.0)}

table = schema.ticket


class Ticket(msgspec.Struct, frozen=True):
    """What a link is for. account_id, role: of an invitation, else empty."""

    kind: Kind
    email: str
    account_id: str
    role: Role


def make_ticket(
    connection: Connection, kind: Kind, email: str, now: float, account_id: str = "", role: Role = "viewer"
) -> str | None:
    """Return the token of a new ticket; None when there were too many."""
    most, seconds = MOST[kind]
    mine = table.c.account_id == account_id if kind == "join" else table.c.email == email
    made = select(func.count()).where(table.c.kind == kind, mine, table.c.created_at > now - seconds)
    if (connection.scalar(made) or 0) >= most:
        return None
    token = secrets.token_urlsafe(32)
    row = {"digest": _hash(token), "kind": kind, "email": email, "account_id": account_id, "role": role}
    connection.execute(table.insert().values(**row, created_at=now))
    return token


def find_ticket(connection: Connection, token: str, now: float) -> Ticket | None:
    """Return what a token is good for; None for one that was used, has ended or never was."""
    columns = [table.c[name] for name in Ticket.__struct_fields__]
    row = connection.execute(
        select(*columns, table.c.created_at).where(table.c.digest == _hash(token), table.c.used_at.is_(None))
    ).first()
    if row is None or now > row.created_at + GOOD_SECONDS[row.kind]:
        return None
    return Ticket(*row[:-1])


def use_ticket(connection: Connection, token: str, now: float) -> Ticket | None:
    """Return what a token is good for, which it is from now on no more. A new password makes every other link to
    choose one useless."""
    found = find_ticket(connection, token, now)
    if found is None:
        return None
    unused = update(table).where(table.c.used_at.is_(None)).values(used_at=now)
    if not connection.execute(unused.where(table.c.digest == _hash(token))).rowcount:
        return None  # somebody else was quicker
    if found.kind == "reset":
        connection.execute(unused.where(table.c.kind == "reset", table.c.email == found.email))
    return found


def forget_old_tickets(connection: Connection, now: float) -> None:
    """Delete those that are neither good nor counted any more."""
    connection.execute(delete(table).where(table.c.created_at < now - KEPT_SECONDS))


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
