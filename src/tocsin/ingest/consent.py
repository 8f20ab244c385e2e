"""Consent that is taken back without an upload: by a link in a mail, or by a complaint about one."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, select, update

from tocsin.channels import CHANNELS
from tocsin.ingest.people import copy_profiles
from tocsin.ingest.profile import apply_changes, wants
from tocsin.store import schema
from tocsin.store.facts import Row


def opt_out_of_email(connection: Connection, account_id: str, user: int, now: float) -> Sequence[Row]:
    """Sets `MSG-email` to false in the profile, as an upload of it would; answers the copy for the facts store. A user
    who does not want e-mail already is left as they are, and copied all the same: the copy may be what is missing."""
    table, accounts = schema.user, schema.account
    # In turn with uploads of the account, as `People.load` does.
    connection.execute(select(accounts.c.id).where(accounts.c.id == account_id).with_for_update())
    mine = (table.c.account_id == account_id, table.c.id == user)
    found = connection.scalar(select(table.c.profile).where(*mine))
    if found is None:
        return []
    profile = msgspec.json.decode(found)
    if wants(profile, CHANNELS["email"]):
        text = msgspec.json.encode(apply_changes(profile, {"MSG-email": False})).decode()
        changed = {"profile": text, "version": table.c.version + 1, "updated_at": now}
        connection.execute(update(table).where(*mine).values(**changed))
    return copy_profiles(connection, account_id, [user])
