"""Whose app is asking: the accounts that SDKs' ids stand for, kept in memory for a second."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Collection, Mapping

import msgspec
from sqlalchemy import Connection, select

from tocsin.account import Account
from tocsin.authenticator.apps import AppPlatform
from tocsin.policy import Policy, load_policy
from tocsin.providers.credential import find_web_push_keys
from tocsin.store import schema
from tocsin.store.ledger import Ledger

CACHE_SECONDS = 1.0  # for so long a removed app may still report


class KnownApps(msgspec.Struct, frozen=True):
    """What an SDK's account id stands for: the account, its policy, and the platforms of each token. web_push_key: what
    browsers subscribe with, "" when the account sends no web pushes by itself."""

    account: Account
    policy: Policy
    tokens: Mapping[str, Collection[str]]
    web_push_key: str = ""

    def admits(self, token: str | None, platform: AppPlatform) -> bool:
        """Return whether an app of the platform has this token. The Web SDK sends none: there the id is enough."""
        if platform == "web":
            return any(platform in platforms for platforms in self.tokens.values())
        given = (token or "").encode()
        found = [own for own in self.tokens if hmac.compare_digest(own.encode(), given)]
        return any(platform in self.tokens[own] for own in found)


class AppDirectory:
    """All apps of all accounts, read once in CACHE_SECONDS: made-up ids cost no question each."""

    def __init__(self, ledger: Ledger):
        self._ledger = ledger
        self._read_at = float("-inf")
        self._known: Mapping[str, KnownApps] = {}
        self._reading: asyncio.Task[None] | None = None

    async def find(self, sdk_id: str, now: float) -> KnownApps | None:
        """Return what an SDK's account id stands for; None when no app has it."""
        if abs(now - self._read_at) >= CACHE_SECONDS:
            if self._reading is None:
                self._reading = asyncio.create_task(self._read(now))
            # All who wait go on together. With a lock each would wait for one more turn of the event loop.
            await asyncio.shield(self._reading)
        return self._known.get(sdk_id)

    async def _read(self, now: float) -> None:
        try:
            self._known = await self._ledger.read(_read_apps)
            self._read_at = now
        finally:
            self._reading = None


def _read_apps(connection: Connection) -> dict[str, KnownApps]:
    table = schema.app
    known: dict[str, KnownApps] = {}
    for row in connection.execute(select(table.c.account_id, table.c.sdk_id, table.c.token, table.c.platforms)):
        if row.sdk_id not in known:
            account = Account.load(connection, row.account_id)
            keys = find_web_push_keys(connection, row.account_id)
            policy = load_policy(connection, row.account_id)
            known[row.sdk_id] = KnownApps(account, policy, {}, keys[0] if keys else "")
        tokens = {**known[row.sdk_id].tokens, row.token: row.platforms.split(",")}
        known[row.sdk_id] = msgspec.structs.replace(known[row.sdk_id], tokens=tokens)
    return known
