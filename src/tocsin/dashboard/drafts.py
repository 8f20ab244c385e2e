"""Drafts: unfinished campaigns, kept as the fields of their form, for every marketer of an account."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, delete, func, insert, select, update

from tocsin.errors import Problem
from tocsin.store import schema

DRAFTS = 100  # of an account
DRAFT_BYTES = 512 * 1024
LEFT_OUT = ("do", "token", "nonce", "draft")  # fields that belong to one loading of the form

table = schema.draft


class KeptDraft(msgspec.Struct, frozen=True):
    """A draft in a list. who: changed it last."""

    id: int
    name: str
    who: str
    changed_at: float


def keep_draft(
    connection: Connection, account_id: str, draft_id: int, form: Mapping[str, Sequence[str]], who: str, now: float
) -> int:
    """Keep a form, in place of the draft of that id if there is one; return its id. Raise Problem for one draft too
    many, and for one that is too large."""
    kept = {name: list(values) for name, values in form.items() if name not in LEFT_OUT}
    fields = msgspec.json.encode(kept).decode()
    if len(fields.encode()) > DRAFT_BYTES:
        raise Problem(f"A draft may have {DRAFT_BYTES // 1024} KiB")
    name = kept["name"][-1].strip()[:512] if kept.get("name") else ""
    values = {"name": name, "fields": fields, "who": who, "changed_at": now}
    mine = update(table).where(table.c.account_id == account_id, table.c.id == draft_id)
    if connection.execute(mine.values(values)).rowcount:
        return draft_id
    count = select(func.count()).where(table.c.account_id == account_id)
    if (connection.scalar(count) or 0) >= DRAFTS:
        raise Problem(f"An account keeps {DRAFTS} drafts; delete one first")
    made = connection.execute(insert(table).values(account_id=account_id, **values))
    return int(made.inserted_primary_key[0])  # type: ignore[index]  # one row is inserted


def read_draft(connection: Connection, account_id: str, draft_id: int) -> dict[str, list[str]] | None:
    """Return the form of a draft; None when the account has none of that id."""
    query = select(table.c.fields).where(table.c.account_id == account_id, table.c.id == draft_id)
    fields = connection.scalar(query)
    return None if fields is None else msgspec.json.decode(fields, type=dict[str, list[str]])


def list_drafts(connection: Connection, account_id: str, limit: int) -> list[KeptDraft]:
    """Return an account's drafts, those that were changed last first."""
    columns: tuple[Any, ...] = (table.c.id, table.c.name, table.c.who, table.c.changed_at)
    query = select(*columns).where(table.c.account_id == account_id).order_by(table.c.changed_at.desc(), table.c.id)
    return [KeptDraft(*row) for row in connection.execute(query.limit(limit))]


def delete_draft(connection: Connection, account_id: str, draft_id: int) -> None:
    """Delete a draft, if there is one of that id."""
    connection.execute(delete(table).where(table.c.account_id == account_id, table.c.id == draft_id))
