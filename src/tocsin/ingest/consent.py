"""Opting out of e-mail without an upload: by the link in a mail, or by a complaint about one. The mailbox leaves, with
every profile that has it, and the person whose mail it was."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, select, update

from tocsin.channels import CHANNELS
from tocsin.ingest.profile import apply_changes, read_address, wants
from tocsin.ingest.profile_copy import copy_profiles
from tocsin.ingest.subscription import AddressChange, Reason, apply_address_changes
from tocsin.store import schema
from tocsin.store.facts import Row
from tocsin.store.lock import lock_account


def opt_out_of_email(
    connection: Connection, account_id: str, user: int, reason: Reason, now: float
) -> tuple[Sequence[Row], str]:
    """Let the user's mailbox leave, and set `MSG-email` to false in the profile, as an upload of it would. Return the
    user's row for the facts store's `profile`, and the mailbox, "" when there is none. A user who has opted out before
    is not changed but copied all the same, for a crash may have lost the copy; of an unknown user there is no row."""
    table = schema.user
    lock_account(connection, account_id)  # another process may be uploading for it
    mine = (table.c.account_id == account_id, table.c.id == user)
    found = connection.scalar(select(table.c.profile).where(*mine))
    if found is None:
        return [], ""
    profile = msgspec.json.decode(found)
    if wants(profile, CHANNELS["email"]):
        text = msgspec.json.encode(apply_changes(profile, {"MSG-email": False})).decode()
        changed = {"profile": text, "version": table.c.version + 1, "updated_at": now}
        connection.execute(update(table).where(*mine).values(**changed))
    address = read_address(profile, CHANNELS["email"])
    if address:
        change = AddressChange("email", address, opts_out=True, reason=reason, user=user)
        apply_address_changes(connection, account_id, [change], now)
    return copy_profiles(connection, account_id, [user]), address
