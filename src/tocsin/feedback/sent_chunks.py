"""What a report has to know of the chunk of its message: read for many reports at once, and kept for a while.

Reports about a campaign come for the same chunks over and over, while it runs.
"""

from __future__ import annotations

import array
import asyncio
import functools
import math
import sys
import time
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from sqlalchemy import Connection, select

from tocsin.account import Account
from tocsin.channels import PLATFORM_CODES
from tocsin.feedback.interactions import SentMessage
from tocsin.outcome import FINAL, State
from tocsin.policy import Tracking, load_policy
from tocsin.store import schema
from tocsin.store.facts import Row
from tocsin.store.ledger import Ledger
from tocsin.store.props import encode_props, encode_raw
from tocsin.store.rows import among

KEPT = 4096  # chunks, of up to 1,000 recipients: some 30 MB at most
KEPT_SECONDS = 30.0
READ_AT_ONCE = 500  # chunks that one question to the ledger reads

_UNSENT = FINAL - {State.ACCEPTED}


class SentChunk(msgspec.Struct):
    """A chunk whose recipients the ledger knows. users, platforms, states: as in `queue.Chunk`. ended_at: when it was
    closed, inf for an open one. tracking: what the account has decided. encoded: properties of events, by platform."""

    id: int
    account: Account
    campaign_id: int
    channel: str
    tag_group: str
    variant: str
    users: Sequence[int]
    platforms: bytes
    states: bytes
    ended_at: float
    tracking: Tracking
    read_at: float
    encoded: dict[str, tuple[str, str]] = {}

    def find(self, position: int) -> SentMessage | None:
        """Return the message of a position; None when there is none."""
        if position >= len(self.users):
            return None
        return SentMessage(
            account=self.account,
            chunk_id=self.id,
            position=position,
            user=self.users[position],
            campaign_id=self.campaign_id,
            channel=self.channel,
            platform=PLATFORM_CODES[self.platforms[position]],
            tag_group=self.tag_group,
            variant=self.variant,
            sent_by=self.ended_at,
        )

    def is_unsent(self, position: int) -> bool:
        """Return whether it is final that a message was not sent, or nobody knows: it counts in no `sent`."""
        return self.states[position] in _UNSENT

    def make_row(self, position: int, name: str, at: float) -> Row:
        """Return the row of an event about a message, as `event_row` makes it."""
        platform = PLATFORM_CODES[self.platforms[position]]
        if (encoded := self.encoded.get(platform)) is None:
            sent = self.find(position)
            assert sent is not None
            encoded = self.encoded[platform] = encode_props(sent.props), encode_raw(sent.props)
        moment, day = find_day(self.account.timezone, int(at))
        event_id = self.id * 65536 + position
        return (self.account.id, name, day, self.users[position], moment, event_id, *encoded)


@functools.lru_cache(maxsize=1024)
def find_day(timezone: str, second: int) -> tuple[datetime, date]:
    """Return a second as a moment, and the day it is in in a time zone."""
    moment = datetime.fromtimestamp(second, UTC)
    return moment, moment.astimezone(ZoneInfo(timezone)).date()


class SentChunks:
    """The chunks that reports were about last."""

    def __init__(self, ledger: Ledger):
        self._ledger = ledger
        self._kept: OrderedDict[int, SentChunk] = OrderedDict()
        self._asked: dict[int, asyncio.Future[SentChunk | None]] = {}
        self._reading: asyncio.Task[None] | None = None

    def get(self, chunk_id: int) -> SentChunk | None:
        """Return a chunk that is kept."""
        chunk = self._kept.get(chunk_id)
        if chunk is None or time.monotonic() > chunk.read_at + KEPT_SECONDS:
            return None
        self._kept.move_to_end(chunk_id)
        return chunk

    async def read(self, chunk_id: int) -> SentChunk | None:
        """Return a chunk from the ledger, in one question for all that are asked for at the moment. None when the
        ledger does not have it, or not its recipients."""
        return await asyncio.shield(self.ask(chunk_id))

    def ask(self, chunk_id: int) -> asyncio.Future[SentChunk | None]:
        """Return what `read` waits for; many may wait for it, so nobody may cancel it."""
        if (asked := self._asked.get(chunk_id)) is None:
            asked = self._asked[chunk_id] = asyncio.get_running_loop().create_future()
            if self._reading is None:
                self._reading = asyncio.create_task(self._read_asked())
        return asked

    async def _read_asked(self) -> None:
        try:
            while self._asked:
                asked = dict(list(self._asked.items())[:READ_AT_ONCE])
                try:
                    found = await self._ledger.read(functools.partial(_read, chunk_ids=tuple(asked)))
                except Exception as error:
                    self._answer(asked, error)
                else:
                    self._keep(found)
                    self._answer(asked, found)
        finally:
            self._reading = None

    def _answer(
        self, asked: Mapping[int, asyncio.Future[SentChunk | None]], found: Mapping[int, SentChunk] | Exception
    ) -> None:
        for chunk_id, future in asked.items():
            del self._asked[chunk_id]
            if future.done():
                continue
            if isinstance(found, Exception):
                future.set_exception(found)
            else:
                future.set_result(found.get(chunk_id))

    def _keep(self, found: Mapping[int, SentChunk]) -> None:
        for chunk_id, chunk in found.items():
            self._kept[chunk_id] = chunk
            self._kept.move_to_end(chunk_id)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)


def _read(connection: Connection, chunk_ids: Collection[int]) -> dict[int, SentChunk]:
    table = schema.chunk
    columns = (
        *(table.c.id, table.c.account_id, table.c.campaign_id, table.c.channel, table.c.tag_group, table.c.variant),
        *(table.c.users, table.c.platforms, table.c.states, table.c.open, table.c.not_before),
    )
    rows = connection.execute(select(*columns).where(among(connection, table.c.id, chunk_ids))).all()
    accounts: dict[str, tuple[Account, Tracking]] = {}
    found: dict[int, SentChunk] = {}
    now = time.monotonic()
    for row in rows:
        if not row.users:
            continue
        if row.account_id not in accounts:
            account = Account.load(connection, row.account_id)
            accounts[row.account_id] = account, load_policy(connection, account.id).tracking
        account, tracking = accounts[row.account_id]
        found[row.id] = SentChunk(
            id=row.id,
            account=account,
            campaign_id=row.campaign_id,
            channel=row.channel,
            tag_group=row.tag_group,
            variant=row.variant,
            users=_read_users(row.users),
            platforms=bytes(row.platforms),
            states=bytes(row.states),
            ended_at=math.inf if row.open else float(row.not_before),
            tracking=tracking,
            read_at=now,
        )
    return found


def _read_users(stored: Any) -> Sequence[int]:
    """Return uint32 little-endian, one for each recipient."""
    users = array.array("I", bytes(stored))
    if sys.byteorder == "big":
        users.byteswap()
    return users
