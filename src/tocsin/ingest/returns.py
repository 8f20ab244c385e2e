"""Users who had left e-mail and came back: from then on a link in an earlier mail does not take them off again.

Only a change counts, from no to yes: a source that says «yes» every night would end all links every night.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection

from tocsin.store import schema
from tocsin.store.rows import upsert_rows


def note_returns(connection: Connection, account_id: str, users: Collection[int], now: float) -> None:
    """Write down that these users came back."""
    rows = [{"account_id": account_id, "user_id": user, "since": now} for user in sorted(users)]
    if rows:
        upsert_rows(connection, schema.returned, rows, keys=("account_id", "user_id"))
