"""Stage 3 of 7 for people named one by one: `/1/send/push.json` and `/1/send/email.json`. Accepted means queued
durably; who the identities are is looked up by the worker."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection, func, select

from tocsin import chunk as chunks
from tocsin.account import Account
from tocsin.campaign import read_flag, read_on_crash
from tocsin.content import read_content
from tocsin.dispatch import Request
from tocsin.errors import Problem
from tocsin.ingest.people import upsert_rows
from tocsin.roster import read_to
from tocsin.settings import Settings
from tocsin.store import schema
from tocsin.store.ledger import Ledger

TAG_GROUPS = 20
NOT_TAGGED = "Not Tagged"
CODE_FREQUENCY_CAPS = 73
# Fields of the real service that would change who gets what; ignored, they would send differently.
NOT_YET = ("campaign_id", "provider_nick_name", "draft")


async def accept(
    ledger: Ledger, account: Account, channel: str, body: Mapping[str, Any], now: float, settings: Settings
) -> None:
    """Queues one request. Raises Problem with the documented codes: 21, 84 for `to`, 73, 400 for the content."""
    read_to(body.get("to"))
    read_flag(body, "respect_frequency_caps", default=True, code=CODE_FREQUENCY_CAPS)
    for field in NOT_YET:
        if body.get(field):
            raise Problem(f"{field} is not supported yet, and leaving it out would send differently (at $.{field})")
    content = await asyncio.to_thread(
        read_content, body.get("content"), channel, require_channel=settings.require_android_channel
    )
    tag = _read_tag(body.get("tag_group"))
    request = Request(to=body["to"], content=content, send_to_all_devices=read_flag(body, "send_to_all_devices"))
    text, resend = msgspec.json.encode(request).decode(), read_on_crash(body) == "resend"

    def write(connection: Connection) -> None:
        chunks.insert_request(
            connection,
            account_id=account.id,
            channel=channel,
            tag_group=_known_tag(connection, account.id, tag, now),
            request=text,
            resend=resend,
            expires_at=now + settings.message_hours * 3600,
            now=now,
        )

    await ledger.write(write)


def _read_tag(tag: Any) -> str:
    if tag is None or tag == "":
        return ""
    if not isinstance(tag, str) or len(tag.encode()) > 256:
        raise Problem("tag_group must be a text of at most 256 bytes (at $.tag_group)")
    return tag.strip()


def _known_tag(connection: Connection, account_id: str, tag: str, now: float) -> str:
    """The tag itself, made if it is one of the account's first TAG_GROUPS; else "", which is shown as «Not Tagged»."""
    table = schema.tag_group
    if not tag or tag == NOT_TAGGED:
        return ""
    mine = table.c.account_id == account_id
    if connection.scalar(select(func.count()).where(mine, table.c.name == tag)):
        return tag
    # Two new groups at once, in two processes, take turns at the last place.
    connection.execute(select(schema.account.c.id).where(schema.account.c.id == account_id).with_for_update())
    if (connection.scalar(select(func.count()).where(mine)) or 0) >= TAG_GROUPS:
        return ""
    upsert_rows(
        connection, table, [{"account_id": account_id, "name": tag, "created_at": now}], keys=("account_id", "name")
    )
    return tag
