"""Tickets: links that a mail brings, to join an account or to choose another password. Each is good once, and ends; a
newer one for the same person and purpose ends it at once.

A ticket is a random token, of which the ledger keeps a digest. Used and ended ones stay a while: they are how many were
asked for.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Literal

import msgspec
from sqlalchemy import ColumnElement, Connection, and_, delete, func, or_, select, update

from tocsin.authenticator.members import Role
from tocsin.store import schema

Kind = Literal["join", "reset"]
GOOD_SECONDS: dict[Kind, float] = {"join": 7 * 86_400.0, "reset": 3600.0}
KEPT_SECONDS = 8 * 86_400.0
# So many are made: invitations by one account in a day, resets for one address in an hour.
MOST: dict[Kind, tuple[int, float]] = {"join": (50, 86_400.0), "reset": (3, 3600.0)}

table, member, membership = schema.ticket, schema.member, schema.membership


class Ticket(msgspec.Struct, frozen=True):
    """What a link is for. account_id, role: of an invitation, else empty."""

    kind: Kind
    email: str
    account_id: str
    role: Role


class OpenTicket(msgspec.Struct, frozen=True):
    """A link that is good. who: whoever invited, "" when nobody noted it."""

    kind: Kind
    email: str
    role: Role
    who: str
    created_at: float

    @property
    def ends_at(self) -> float:
        return self.created_at + GOOD_SECONDS[self.kind]


def make_ticket(
    connection: Connection,
    kind: Kind,
    email: str,
    now: float,
    account_id: str = "",
    role: Role = "viewer",
    who: str = "",
) -> str | None:
    """Return the token of a new ticket, which ends the older one; None when there were too many. who: invites."""
    most, seconds = MOST[kind]
    mine = table.c.account_id == account_id if kind == "join" else table.c.email == email
    made = select(func.count()).where(table.c.kind == kind, mine, table.c.created_at > now - seconds)
    if (connection.scalar(made) or 0) >= most:
        return None
    end_tickets(connection, kind, email, now, account_id)
    token = secrets.token_urlsafe(32)
    row = {"digest": _hash(token), "kind": kind, "email": email, "account_id": account_id, "role": role, "who": who}
    connection.execute(table.insert().values(**row, created_at=now))
    return token


def list_open_tickets(connection: Connection, account_id: str, now: float) -> list[OpenTicket]:
    """Return the links that are good: invitations to an account, and those by which its members choose a password."""
    members = select(member.c.email).join(membership, membership.c.member_id == member.c.id)
    members = members.where(membership.c.account_id == account_id)
    invited = and_(table.c.kind == "join", table.c.account_id == account_id, _is_good("join", now))
    reset = and_(table.c.kind == "reset", table.c.email.in_(members), _is_good("reset", now))
    columns = [table.c[name] for name in OpenTicket.__struct_fields__]
    query = select(*columns).where(table.c.used_at.is_(None), or_(invited, reset))
    return [OpenTicket(*row) for row in connection.execute(query.order_by(table.c.kind, table.c.email))]


def find_open_ticket(connection: Connection, account_id: str, kind: str, email: str, now: float) -> OpenTicket | None:
    """Return the link of a kind that somebody has; None when none of theirs is good, or the account cannot know."""
    found = list_open_tickets(connection, account_id, now)
    return next((one for one in found if (one.kind, one.email) == (kind, email)), None)


def end_tickets(connection: Connection, kind: Kind, email: str, now: float, account_id: str = "") -> int:
    """Make somebody's links of a kind useless: to this account, or for another password. Return how many were not."""
    mine = (table.c.kind == kind, table.c.email == email, table.c.account_id == account_id)
    ended = update(table).where(*mine, table.c.used_at.is_(None), _is_good(kind, now)).values(used_at=now)
    return connection.execute(ended).rowcount


def _is_good(kind: Kind, now: float) -> ColumnElement[bool]:
    return table.c.created_at >= now - GOOD_SECONDS[kind]


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
