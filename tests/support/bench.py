"""The vendors in this process, and providers made for them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.request import Request as Call
from urllib.request import urlopen
from uuid import uuid4

import msgspec
import pytest_asyncio

from tocsin.providers import BY_NAME
from tocsin.providers.contract import Address, Mail, Message, Notice, Provider, Push, Receipt
from tocsin.providers.transport import Transport
from tocsin.sandbox import Sandbox
from tocsin.sandbox.web_push_key import Subscriptions

WEBHOOKS = ("sms", "webpush")  # one receiver in the sandbox


@dataclass
class Bench:
    """A running sandbox, and providers made for it."""

    url: str
    credentials: dict[str, Any]
    transport: Transport
    subscriptions: Subscriptions

    def settings(self, name: str, **changed: Any) -> msgspec.Struct:
        """The settings the sandbox hands out for a vendor, some of them changed."""
        known = {field.name for field in msgspec.structs.fields(BY_NAME[name].Settings)}
        told = self.credentials[name] if name in self.credentials else self.credentials["webhook"]
        given = {"ca": self.credentials["ca"], **told, "sender": "news@example.com", "timeout": 10.0}
        if name in WEBHOOKS:
            given["url"] = told[name]
        kept = {key: value for key, value in {**given, **changed}.items() if key in known}
        if isinstance(kept.get("service_account"), dict):
            kept["service_account"] = json.dumps(kept["service_account"])
        return BY_NAME[name].Settings(**kept)

    def provider(self, name: str, **changed: Any) -> Provider:
        """A provider with a pool of its own."""
        return BY_NAME[name](self.settings(name, **changed), self.transport)

    def message(self, name: str, channel_prefix: str = "", **changed: Any) -> Message:
        """A message to a device or mailbox that no other test writes to."""
        # The sandbox has names for its bad devices, and a random one may begin or end so.
        device = f"a0{uuid4().hex[2:-1]}1"
        if name in WEBHOOKS:
            return self._notice(name, device, **changed)
        if name == "smtp":
            given: dict[str, Any] = {
                "subject": "Grüße",
                "html": "<p>Hi</p>",
                "text": "Hi",
                "campaign": "1_20260101",
            }
            return Mail(
                **{"id": str(uuid4()), "address": Address("email", f"{device}@example.com"), **given, **changed}
            )
        if name == "vapid":
            return self._web_push(**changed)
        prefix = channel_prefix or self.credentials["wns"]["channel_prefix"]
        value = {"fcm": f"fcm-{device * 4}", "apns": device * 2, "wns": prefix + device}[name]
        address = Address(BY_NAME[name].kind, value)
        given = {"id": str(uuid4()), "collapse": "1_20260101", "title": "Grüße", "body": "<&>", "address": address}
        data = {"wzrk_id": "1_20260101", "wzrk_pid": device}
        return Push(**{**given, "data": data, "expires_at": int(time.time()) + 3600, **changed})

    def _notice(self, name: str, device: str, **changed: Any) -> Notice:
        value = f"+49{int(device, 16) % 10**11}" if name == "sms" else f"https://push.example/{device}"
        given = {"id": str(uuid4()), "collapse": "c", "campaign": "1_20260101", "push_id": device}
        address = Address(BY_NAME[name].kind, value)
        content = {"body": "<&>"} if name == "sms" else {"title": "Grüße", "body": "<&>"}
        rest = {"address": address, "content": content, "expires_at": int(time.time()) + 600}
        return Notice(**{**given, **rest, **changed})

    def _web_push(self, data: Any = None, **changed: Any) -> Notice:
        told: dict[str, Any] = {key: changed.pop(key) for key in ("title", "body") if key in changed}
        told |= {"platform_specific": {"chrome": data or {}}}
        content = {"title": "Grüße", "body": "<&>", **told}
        address = Address("webpush", json.dumps(self.subscriptions.make()))
        given = {"id": str(uuid4()), "collapse": "c", "campaign": "1_20260101", "push_id": uuid4().hex}
        rest = {"address": address, "content": content, "expires_at": int(time.time()) + 600}
        return Notice(**{**given, **rest, **changed})

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        """One call of the control API."""

        def go() -> Any:
            data = None if body is None else json.dumps(body).encode()
            call = Call(self.url + path, data, {"Content-Type": "application/json"}, method=method)
            with urlopen(call) as answer:
                return json.loads(answer.read() or b"null")

        return await asyncio.to_thread(go)

    async def break_down(self, vendor: str, kind: str, **fault: Any) -> None:
        """Makes the next `count` (one) requests to a vendor meet a fault."""
        vendor = "webhook" if vendor in WEBHOOKS else vendor
        await self.call("POST", "/faults", {"vendor": vendor, "kind": kind, "share": 1.0, "count": 1, **fault})

    async def counts(self, vendor: str) -> dict[str, int]:
        """The sandbox's own count."""
        vendor = "webhook" if vendor in WEBHOOKS else vendor
        found: dict[str, int] = (await self.call("GET", "/counts"))[vendor]
        return found


@pytest_asyncio.fixture(scope="module")
async def bench_of_module() -> AsyncIterator[Bench]:
    """One sandbox for all tests of this file."""
    sandbox = await Sandbox.start(data=None, port=0)
    found = Bench(sandbox.url, {}, Transport(), sandbox.subscriptions)
    found.credentials = await found.call("GET", "/credentials")
    yield found
    await sandbox.stop()


@pytest_asyncio.fixture
async def bench(bench_of_module: Bench) -> AsyncIterator[Bench]:
    """The sandbox without faults or messages, and a transport that is closed afterwards."""
    await bench_of_module.call("DELETE", "/faults")
    await bench_of_module.call("DELETE", "/messages")
    async with Transport() as transport:
        yield replace(bench_of_module, transport=transport)


async def send(provider: Provider, message: Message) -> Receipt:
    """One attempt, now."""
    return await provider.send(message, time.time())
