"""What the ledger and the facts have to say about a campaign, read beside the server."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from typing import Any

from conftest import Caller
from sqlalchemy import Connection, select

from tocsin import queue
from tocsin.ingest.identity import find_users
from tocsin.outcome import State
from tocsin.store import schema
from tocsin.store.ledger import open_ledger


def count_sent(caller: Caller, campaign: int, body: dict[str, Any]) -> int:
    """How many people have the event of this campaign, which is what the facts store says. body: a campaign's, for its
    channel."""
    now = datetime.now(UTC)
    question: dict[str, Any] = {"event_name": "Notification Sent"}
    question |= {"from": int(f"{now - timedelta(days=1):%Y%m%d}"), "to": int(f"{now:%Y%m%d}")}
    question["event_properties"] = [{"name": "Campaign id", "value": campaign}]
    asked = {"name": "sent to", "estimate_only": True, "where": question, "when": "now"}
    status, answer = caller.post("/1/targets/create.json", asked | {"devices": ["android", "ios", "windows"]} | body)
    assert status == 200, answer
    return int(sum(answer["estimates"].values()))


def read_states(ledger_url: str, account_id: str, campaign: int) -> dict[int, State]:
    """Where each recipient of a campaign stands in the ledger, by user; the campaign has one platform a user."""
    return {user: state for user, (state, _) in read_recipients(ledger_url, account_id, campaign).items()}


def read_recipients(ledger_url: str, account_id: str, campaign: int) -> dict[int, tuple[State, str]]:
    """The same, with the code that the ledger keeps beside the state."""

    def read(connection: Connection) -> dict[int, tuple[State, str]]:
        table = schema.chunk
        query = select(table.c.id).where(table.c.account_id == account_id, table.c.campaign_id == campaign)
        states: dict[int, tuple[State, str]] = {}
        for one in connection.scalars(query).all():
            chunk = queue.load(connection, one)
            assert chunk is not None
            for position, (user, byte) in enumerate(zip(chunk.users, chunk.states, strict=True)):
                assert user not in states, f"user {user} is in the campaign twice"
                note = chunk.notes.get(position)
                states[user] = State(byte), note.code if note is not None else ""
        return states

    with contextlib.closing(open_ledger(ledger_url)) as ledger:
        return ledger.read_now(read)


def read_users(ledger_url: str, account_id: str, names: list[str]) -> dict[str, int]:
    """The ledger's numbers of the users with these identities."""
    keys = [("identity", name) for name in names]
    with contextlib.closing(open_ledger(ledger_url)) as ledger:
        found = ledger.read_now(lambda connection: find_users(connection, account_id, keys))
    return {name: user for (_, name), user in found.items()}
