"""What CleverTap's Android and iOS SDKs send, made from the description of their wire format, and a world that takes
it: both stores in this process."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from sqlalchemy import select

from tocsin.account import create_account
from tocsin.ingest import upload
from tocsin.ingest.names import DEFAULT_LIMITS
from tocsin.ingest.sdk.intake import Intake
from tocsin.ingest.sdk.judge import judge
from tocsin.ingest.sdk.mobile import read_mobile
from tocsin.store import schema
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

NOW = 1_800_000_000.0
START = int(NOW) - 10_000
SDK_ID, TOKEN = "TEST-000-000Z", "TEST-aaa-bbb"
ANDROID = {
    "Build": "1",
    "Version": "1.0",
    "OS Version": "14",
    "SDK Version": 80200,
    "Make": "Google",
    "Model": "Pixel",
    "useIP": False,
    "OS": "Android",
    "locale": "en_US",
    "proxyDomain": "t.example",
    "cc": "us",
}
IOS = ANDROID | {"OS": "iOS", "SDK Version": 70700, "Make": "Apple", "Model": "iPhone12,3", "OS Version": "17.4"}


def guid(number: int) -> str:
    """A CleverTap ID of an Android device."""
    return f"__{number:032x}"


def meta(device: str, af: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """The first object of a batch."""
    start = {"g": device, "type": "meta", "af": ANDROID if af is None else af, "id": SDK_ID, "tk": TOKEN}
    return start | {"l_ts": 0, "f_ts": 0, "ddnd": False, "rtl": [], "frs": True, "imp": 0, "tlc": []} | more


def common(at: int) -> dict[str, Any]:
    return {"s": START, "pg": 1, "ep": at, "f": True, "lsl": 0, "dsync": False}


def launch(at: int) -> dict[str, Any]:
    data = {"Version": "1.0", "OS": "Android"}
    return {"evtName": "App Launched", "evtData": data, "type": "event", "pai": "com.example", **common(at)}


def event(name: str, at: int, **props: Any) -> dict[str, Any]:
    return {"evtName": name, "evtData": props, "type": "event", **common(at)}


def profile(at: int, **props: Any) -> dict[str, Any]:
    return {"profile": {"tz": "Asia/Kolkata", "cc": "in", **props}, "type": "profile", **common(at)}


def token(action: str, name: str, at: int, kind: str = "fcm") -> dict[str, Any]:
    return {"data": {"action": action, "id": name, "type": kind}, "type": "data", **common(at)}


def encode(*objects: dict[str, Any]) -> bytes:
    """A body as an SDK writes it."""
    return json.dumps(objects, separators=(",", ":")).encode()


class SdkWorld:
    """An account whose apps report; `trust` is its policy."""

    def __init__(self, ledger: Ledger, facts: Facts, *, trust: bool = True):
        self.ledger, self.facts, self.trust = ledger, facts, trust
        self.account, _ = create_account(ledger, "test", "UTC", NOW)
        self.intake = Intake(ledger, facts, DEFAULT_LIMITS)
        self.dropped: Counter[str] = Counter()

    async def send(self, *objects: dict[str, Any], now: float = NOW) -> None:
        """Takes one batch."""
        await self.take(encode(*objects), now)

    async def take(self, body: bytes, now: float = NOW) -> None:
        _, batch = read_mobile(body, now)
        judged = judge(batch, now, trust=self.trust)
        self.dropped += batch.dropped + await self.intake.put(self.account, judged, now)

    async def upload(self, *records: dict[str, Any]) -> None:
        """What a server of the account says."""
        result = await upload(self.ledger, self.facts, self.account, {"d": list(records)}, NOW)
        assert not result.unprocessed

    async def read(self, table: str, *columns: str, **where: Any) -> list[tuple[Any, ...]]:
        """Rows of the account in a table of the ledger."""
        of = schema.metadata.tables[table]
        same = [of.c[name] == value for name, value in where.items()]
        query = select(*(of.c[name] for name in columns)).where(of.c.account_id == self.account.id, *same)
        return await self.ledger.read(lambda connection: [tuple(row) for row in connection.execute(query)])

    async def find(self, value: str, kind: str = "identity") -> int | None:
        """The user who is called that."""
        rows = await self.read("identity", "user_id", kind=kind, value=value)
        return rows[0][0] if rows else None

    async def profile(self, value: str, kind: str = "identity") -> dict[str, Any]:
        rows = await self.read("user", "profile", id=await self.find(value, kind))
        found: dict[str, Any] = json.loads(rows[0][0])
        return found

    async def tokens(self, value: str, kind: str = "identity") -> set[str]:
        """The live tokens of a user."""
        user = await self.find(value, kind)
        rows = await self.read("device", "token", "gone_at", user_id=user)
        return {name for name, gone_at in rows if gone_at is None}

    async def events(self, value: str, kind: str = "identity") -> list[tuple[str, int, dict[str, Any]]]:
        """(name, time, properties without the SDK's marks) of a user's events."""
        rows = await self.facts.query(
            "SELECT name, toUnixTimestamp(at), raw FROM event FINAL WHERE account = {account:String} "
            "AND user = {user:UInt32} ORDER BY at, name, raw",
            {"account": self.account.id, "user": await self.find(value, kind)},
        )
        return [(name, at, without_marks(json.loads(raw))) for name, at, raw in rows]

    async def everything(self, people: Sequence[str]) -> dict[str, Any]:
        """All that is known of these people, whatever their numbers are."""
        found: dict[str, Any] = {}
        for name in people:
            if await self.find(name) is None:
                found[name] = None
                continue
            user = await self.find(name)
            names = {(kind, value) for kind, value in await self.read("identity", "kind", "value", user_id=user)}
            found[name] = (
                await self.profile(name),
                await self.tokens(name),
                await self.events(name),
                names,
            )
        return found


def without_marks(props: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in props.items() if not key.startswith("CT ")}
