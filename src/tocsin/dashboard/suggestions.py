"""What a form suggests: names of events and properties, and saved segments."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, select

from tocsin.store import schema
from tocsin.store.ledger import Ledger

NAMES = 500  # of a kind
# Events of ours, which every account has.
OWN_EVENTS = ("Notification Sent", "Notification Viewed", "Notification Clicked")


class Suggestions(msgspec.Struct, frozen=True):
    """Names, each list in order."""

    events: list[str]
    event_properties: list[str]
    profile_properties: list[str]
    segments: list[str]


async def find_suggestions(ledger: Ledger, account_id: str) -> Suggestions:
    """Return the names of an account."""

    def read(connection: Connection) -> Suggestions:
        table, segment = schema.known_name, schema.segment

        def names(kind: str) -> list[str]:
            query = select(table.c.name).where(table.c.account_id == account_id, table.c.kind == kind)
            return list(connection.scalars(query.order_by(table.c.name).limit(NAMES)))

        saved = select(segment.c.name).where(segment.c.account_id == account_id).order_by(segment.c.name).limit(NAMES)
        events = [*names("event_names"), *OWN_EVENTS]
        return Suggestions(
            list(dict.fromkeys(events)),
            names("event_properties"),
            names("profile_properties"),
            list(connection.scalars(saved)),
        )

    return await ledger.read(read)
