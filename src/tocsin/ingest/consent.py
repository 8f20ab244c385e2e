"""Opting out of e-mail without an upload: by the link in a mail, or by a complaint about one."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, select, update

from tocsin.channels import CHANNELS
from tocsin.ingest.profile import apply_changes, wants
from tocsin.ingest.profile_copy import copy_profiles
from tocsin.store import schema
from tocsin.store.facts import Row
from tocsin.store.lock import lock_account


def opt_out_of_email(connection: Connection, account_id: str, user: int, now: float) -> Sequence[Row]:
    """Set `MSG-email` to false in the profile, as an upload of it would, and return the user's row for the facts
    store's `profile`. A user who has opted out before is not changed but copied all the same, for a crash may have lost
    the copy. Return nothing for an unknown user."""
    table = schema.user
    lock_account(connection, account_id)  # another process may be uploading for it
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
