"""Chunks of messages that were sent, as delivery leaves them."""

from __future__ import annotations

import array
from collections.abc import Sequence
from typing import Any

from sqlalchemy import insert

from tocsin.channels import PLATFORM_CODES
from tocsin.outcome import State, count_numbers
from tocsin.store import schema
from tocsin.store.ledger import Ledger
from tocsin.store.rows import insert_new


def add_chunk(
    ledger: Ledger,
    account_id: str,
    campaign: int,
    group: str,
    states: Sequence[State],
    *,
    cleaned: bool = False,
    at: float = 1_800_000_000.0,
) -> int:
    """A closed chunk of pushes that were sent at some time; its id. cleaned: the ledger no longer knows to whom."""
    stored = bytes(states)
    row: dict[str, Any] = {
        **{"account_id": account_id, "run_id": None, "campaign_id": campaign, "channel": "push", "tag_group": group},
        **{"priority": 0, "open": 0, "not_before": at, "expires_at": at, "started_at": at, "created_at": at},
        **{"request": None, "notes": "{}", "states": stored, "size": len(stored), **count_numbers(stored)},
        "users": array.array("I", range(1, len(stored) + 1)).tobytes(),
        "platforms": bytes([PLATFORM_CODES.index("android")]) * len(stored),
    }
    nobody = {"users": b"", "platforms": b"", "states": b""} if cleaned else {}

    def write(connection: Any) -> int:
        if not campaign:
            insert_new(connection, schema.tag_group, {"account_id": account_id, "name": group, "created_at": at})
        return int(connection.execute(insert(schema.chunk).values(row | nobody)).inserted_primary_key[0])

    return ledger.write_now(write)
