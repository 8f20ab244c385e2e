"""Sessions: a random token in a cookie, of which the ledger keeps a digest.

A session ends after IDLE_SECONDS without a request, LONGEST_SECONDS after its log-in, when its member logs out, gets
another password or leaves an account.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

import msgspec
from sqlalchemy import Connection, delete, select, update

from tocsin.account import Account
from tocsin.authenticator.members import Role, list_parts
from tocsin.store import schema

IDLE_SECONDS = 8 * 3600.0
LONGEST_SECONDS = 24 * 3600.0
TOUCH_SECONDS = 60.0  # a request writes no oftener than this that the session is in use
SESSIONS_A_MEMBER = 20  # the oldest ends when there is one more

table, member = schema.session, schema.member


class MemberSession(msgspec.Struct, frozen=True):
    """Somebody who is logged in, and the account they look at. accounts: all they may use. stale: `touch_session` is
    due."""

    token: str
    member_id: int
    email: str
    account: Account
    role: Role
    accounts: tuple[tuple[Account, Role], ...]
    stale: bool


def open_session(connection: Connection, member_id: int, now: float) -> tuple[str, str] | None:
    """Return the token of a new session and the id of its account, the one they looked at last; None for somebody who
    is in no account."""
    mine = select(table.c.account_id).where(table.c.member_id == member_id).order_by(table.c.used_at.desc())
    ids = [account.id for account, _ in list_parts(connection, member_id)]
    last = connection.scalar(mine.limit(1))
    if not ids:
        return None
    account_id = last if last in ids else ids[0]
    token = secrets.token_urlsafe(32)
    row = {"digest": _hash(token), "member_id": member_id, "account_id": account_id, "created_at": now, "used_at": now}
    connection.execute(table.insert().values(row))
    kept = select(table.c.digest).where(table.c.member_id == member_id).order_by(table.c.created_at.desc())
    newest = connection.scalars(kept.limit(SESSIONS_A_MEMBER)).all()
    connection.execute(delete(table).where(table.c.member_id == member_id, table.c.digest.not_in(newest)))
    return token, account_id


def find_session(connection: Connection, token: str, now: float) -> MemberSession | None:
    """Return the session of a token; None when it has ended or never was."""
    query = select(table.c.member_id, table.c.account_id, table.c.used_at, member.c.email)
    query = query.join(member, member.c.id == table.c.member_id).where(
        table.c.digest == _hash(token), table.c.used_at > now - IDLE_SECONDS, table.c.created_at > now - LONGEST_SECONDS
    )
    row = connection.execute(query).first()
    if row is None:
        return None
    parts = list_parts(connection, row.member_id)
    if not parts:
        return None
    account, role = next((part for part in parts if part[0].id == row.account_id), parts[0])
    stale = now - row.used_at > TOUCH_SECONDS
    return MemberSession(token, row.member_id, row.email, account, role, tuple(parts), stale)


def touch_session(connection: Connection, token: str, now: float) -> None:
    """Note that a session is in use."""
    connection.execute(update(table).where(table.c.digest == _hash(token)).values(used_at=now))


def switch_account(connection: Connection, session: MemberSession, account_id: str) -> bool:
    """Look at another account from now on. Return False when its member is not in it."""
    if account_id not in [account.id for account, _ in session.accounts]:
        return False
    connection.execute(update(table).where(table.c.digest == _hash(session.token)).values(account_id=account_id))
    return True


def close_session(connection: Connection, token: str) -> None:
    """End a session."""
    connection.execute(delete(table).where(table.c.digest == _hash(token)))


def forget_old_sessions(connection: Connection, now: float) -> None:
    """Delete the sessions that have ended by themselves."""
    ended = (table.c.used_at <= now - IDLE_SECONDS) | (table.c.created_at <= now - LONGEST_SECONDS)
    connection.execute(delete(table).where(ended))


def make_form_token(session: MemberSession) -> str:
    """Return what each form of a session carries: no other site knows it, and a form of one account is not taken once
    another one is looked at."""
    return hmac.new(session.token.encode(), f"form of {session.account.id}".encode(), hashlib.sha256).hexdigest()


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
