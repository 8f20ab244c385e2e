"""The bare loop of `tocsin bench transactional`: a request comes in, its message goes out, nothing is stored.

Granian and our own client of the vendor, in one process; a request is answered once the vendor has answered, so no
queue grows. What Tocsin does besides (a durable ledger, identities, consent, caps, outcomes) is what the ratio shows.
"""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from benchmarks.load import answer_ok, read_whole, serve_bare
from tocsin.outcome import Outcome
from tocsin.providers import BY_NAME
from tocsin.providers.contract import Address, Mail, Message, Provider, Push
from tocsin.providers.transport import Transport


class RelayBody(msgspec.Struct, frozen=True):
    """What is read of a `/1/send` body."""

    to: dict[str, list[str]]
    content: dict[str, str]


class Relay:
    """An ASGI app that hands each request's message to one provider."""

    def __init__(self, name: str, settings: dict[str, Any]) -> None:
        self._class = BY_NAME[name]
        self._settings = msgspec.convert(settings, self._class.Settings)
        self._provider: Provider | None = None

    async def __call__(
        self, _scope: object, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[Any]]
    ) -> None:
        """Serve one request. Raises RuntimeError when the vendor did not accept the message."""
        if self._provider is None:  # a transport belongs to the loop it is first used on
            self._provider = self._class(self._settings, Transport())
        body = msgspec.json.decode(await read_whole(receive), type=RelayBody)
        receipt = await self._provider.send(_make_message(body, self._class.kind), time.time())
        if receipt.outcome is not Outcome.ACCEPTED:
            raise RuntimeError(f"the vendor answered {receipt}")
        await answer_ok(send)


def _make_message(body: RelayBody, kind: str) -> Message:
    name, content = body.to["Identity"][0], body.content
    if kind == "email":
        address = Address("email", f"{name}@example.com")
        html, subject = content["body"], content["subject"]
        return Mail(id=str(uuid.uuid4()), campaign="bench", address=address, subject=subject, html=html, text=html)
    return Push(
        id=str(uuid.uuid4()),
        collapse="bench",
        address=Address("apns", f"{int(name.partition('-')[2]):064x}"),
        title=content["title"],
        body=content["body"],
        expires_at=int(time.time()) + 3600,
    )


if __name__ == "__main__":
    serve_bare(int(sys.argv[1]), Relay(sys.argv[2], msgspec.json.decode(sys.stdin.buffer.read())))
