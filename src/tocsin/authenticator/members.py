"""Members: people with a password, and what each may do in which account."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import msgspec
from sqlalchemy import Connection, delete, select, update

from tocsin.account import Account
from tocsin.authenticator.audit import note
from tocsin.errors import Misconfigured
from tocsin.store import schema
from tocsin.store.rows import upsert_rows

Role = Literal["viewer", "marketer", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)  # each may do what those before it may
EMAIL_LETTERS = 254  # RFC 5321, 4.5.3.1.3
CONSOLE = "command line"  # who did it, in the audit log

member, membership = schema.member, schema.membership


class Membership(msgspec.Struct, frozen=True):
    """Somebody's part in one account."""

    email: str
    account_id: str
    role: Role
    created_at: float


def read_email(text: str) -> str:
    """Return an address as it is stored: two spellings of it are one member. Raise Misconfigured for none."""
    email = text.strip().lower()
    name, _, host = email.partition("@")
    other = email.isascii() and not text.strip().isascii()  # the sign for kelvin is a small k then, of another mailbox
    if not name or not host or not email.isprintable() or " " in email or len(email) > EMAIL_LETTERS or other:
        raise Misconfigured(f"{text[:80]!r} is not an e-mail address.")
    return email


def add_member(
    connection: Connection,
    email: str,
    password: str | None,
    account_id: str,
    role: Role,
    now: float,
    who: str = CONSOLE,
) -> bool:
    """Give somebody a role in an account, and a password when they are new; return whether they are. password: its
    hash. Raise Misconfigured for somebody new without one."""
    found = connection.scalar(select(member.c.id).where(member.c.email == email))
    new = found is None
    if found is None:
        if password is None:
            raise Misconfigured(f"{email} is new and needs a password.")
        row = {"email": email, "password": password, "created_at": now}
        found = connection.execute(member.insert().values(**row).returning(member.c.id)).scalar_one()
    part = {"member_id": found, "account_id": account_id, "role": role, "created_at": now}
    upsert_rows(connection, membership, [part], keys=("member_id", "account_id"), kept=("created_at",))
    _end_invitations(connection, email, [account_id], now)
    note(connection, account_id, who, "member added", f"{email} as {role}", now)
    return new


def list_members(connection: Connection, account_id: str | None = None) -> list[Membership]:
    """Return who may use the dashboard of an account, or of any, by address."""
    query = select(member.c.email, membership.c.account_id, membership.c.role, membership.c.created_at)
    query = query.join(membership, membership.c.member_id == member.c.id).order_by(member.c.email)
    if account_id is not None:
        query = query.where(membership.c.account_id == account_id)
    return [Membership(*row) for row in connection.execute(query)]


def remove_member(connection: Connection, email: str, account_id: str | None, now: float, who: str = CONSOLE) -> int:
    """Take somebody out of an account, or out of all; return of how many. Who is in none any more is forgotten, and
    their sessions end at once."""
    found = connection.scalar(select(member.c.id).where(member.c.email == email))
    if found is None:
        return 0
    mine = membership.c.member_id == found
    chosen = mine if account_id is None else (mine & (membership.c.account_id == account_id))
    gone = connection.scalars(select(membership.c.account_id).where(chosen)).all()
    connection.execute(delete(membership).where(chosen))
    _end_invitations(connection, email, gone, now)
    for one in gone:
        note(connection, one, who, "member removed", email, now)
    if gone:
        connection.execute(delete(schema.session).where(schema.session.c.member_id == found))
    if connection.scalar(select(membership.c.member_id).where(mine)) is None:
        connection.execute(delete(member).where(member.c.id == found))
    return len(gone)


def _end_invitations(connection: Connection, email: str, accounts: Sequence[str], now: float) -> None:
    """Make older invitations useless: by them nobody comes back, or has the role again that they had."""
    ticket = schema.ticket
    invited = (ticket.c.kind == "join", ticket.c.email == email, ticket.c.account_id.in_(accounts))
    connection.execute(update(ticket).where(*invited, ticket.c.used_at.is_(None)).values(used_at=now))


def set_password(connection: Connection, email: str, password: str, now: float, who: str = CONSOLE) -> bool:
    """Replace somebody's password by another's hash, and end their sessions. Return whether there is such a member."""
    found = connection.scalar(select(member.c.id).where(member.c.email == email))
    if found is None:
        return False
    connection.execute(update(member).where(member.c.id == found).values(password=password))
    connection.execute(delete(schema.session).where(schema.session.c.member_id == found))
    for one in connection.scalars(select(membership.c.account_id).where(membership.c.member_id == found)).all():
        note(connection, one, who, "password set", email, now)
    return True


def find_password(connection: Connection, email: str) -> tuple[int, str] | None:
    """Return somebody's number and the hash of their password; None when there is no such member."""
    row = connection.execute(select(member.c.id, member.c.password).where(member.c.email == email)).first()
    return None if row is None else (row.id, row.password)


def list_parts(connection: Connection, member_id: int) -> list[tuple[Account, Role]]:
    """Return the accounts that somebody may use, by name, and as what."""
    account = schema.account
    query = select(account.c.id, account.c.name, account.c.timezone, membership.c.role)
    query = query.join(membership, membership.c.account_id == account.c.id)
    rows = connection.execute(query.where(membership.c.member_id == member_id).order_by(account.c.name, account.c.id))
    return [(Account(*row[:3]), row[3]) for row in rows]


def has_members(connection: Connection) -> bool:
    """Return whether anybody can log in with a password."""
    return connection.execute(select(member.c.id).limit(1)).first() is not None
