"""A stage whose vendors are the sandbox."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import msgspec
from conftest import Sandbox
from sqlalchemy import Row, select

from support.devices import live_devices
from support.stage import Stage, StageWorker
from tocsin.delivery.recipients import DeadAddresses, mark_gone
from tocsin.delivery.sender_pool import SenderPool
from tocsin.providers.keyring import sandbox_settings
from tocsin.repair import record_again
from tocsin.store import schema
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger
from tocsin.store.rows import upsert_rows


class Town(Stage):
    """A stage whose vendors are the sandbox, which has names for dead tokens."""

    def __init__(self, ledger: Ledger, facts: Facts, sandbox: Sandbox):
        super().__init__(ledger, facts, {})
        # In the past: APNs says since when a token is dead, and one that was registered after that is left alone.
        self.now = float(int(time.time())) - 600 + 0.25
        self.wns_port = sandbox.port + 3
        self.senders = SenderPool(0, 8, lambda: self.now)
        self.worker = StageWorker(self, self.folder, self.senders)
        rows = [
            {
                "account_id": self.account.id,
                "name": name,
                "settings": msgspec.json.encode(one).decode(),
                "changed_at": 1.0,
            }
            for name, one in sandbox_settings(sandbox.control.get("/credentials")[1]).items()
        ]
        ledger.write_now(lambda c: upsert_rows(c, schema.provider, rows, keys=("account_id", "name")))

    async def move_in(self, identity: str, device: str, value: str, kind: str = "fcm") -> None:
        """A person with a device that has this token, a second after whatever was before."""
        self.now += 1
        person = {"type": "profile", "identity": identity, "objectId": device, "profileData": {}}
        await self.upload(person, {"type": "token", "objectId": device, "tokenData": {"type": kind, "id": value}})

    async def push(self, *identities: str, **fields: Any) -> None:
        """A send by identity, delivered."""
        self.now += 1
        await self.send({"Identity": list(identities)}, **fields)
        await self.deliver_all()

    async def find_dead(self, user: int, value: str) -> DeadAddresses:
        """What a vendor's answer about this user's token would be, as the worker has it."""
        found = await self.ledger.read(lambda connection: live_devices(connection, self.account.id, [user]))
        return {user: [(device_id, address, "410") for device_id, address in found[user] if address.value == value]}

    async def bury(self, gone: DeadAddresses, campaign: int = 7) -> list[Row[Any]]:
        """What the commit of a delivery does, and nothing after it."""
        return await self.ledger.write(lambda c: mark_gone(c, self.account.id, gone, self.now, campaign))

    async def repair(self) -> None:
        await record_again(self.ledger, self.facts, self.account)

    async def events(self) -> list[tuple[int, datetime, dict[str, Any]]]:
        """Every `App Uninstalled`: the user, when, its properties."""
        rows = await self.facts.query(
            "SELECT user, at, raw FROM event FINAL WHERE account = {account:String} AND name = 'App Uninstalled' "
            "ORDER BY at, user",
            {"account": self.account.id},
        )
        return [(row[0], row[1].replace(tzinfo=UTC), msgspec.json.decode(row[2])) for row in rows]

    def gone(self) -> list[tuple[Any, ...]]:
        """When each device went, and the vendor's word, by the ledger."""
        table = schema.device
        query = select(table.c.gone_at, table.c.gone_code).where(table.c.account_id == self.account.id)
        rows = self.ledger.read_now(lambda connection: connection.execute(query.order_by(table.c.id)).all())
        return [tuple(row) for row in rows]
