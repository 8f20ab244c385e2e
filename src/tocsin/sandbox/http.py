"""What an HTTP request and its answer are, whichever version of HTTP carried them."""

from __future__ import annotations

from enum import Enum
from typing import Protocol

import msgspec

from tocsin.sandbox.faults import Fault

BODY_KEPT = 64 * 1024
"""Bytes of a request body that are kept; every vendor's limit is far below, so more need not be read to refuse it."""


class Head(msgspec.Struct, frozen=True):
    """A request before its body. Header names are lower-case; their order and repetitions are kept."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]

    def header(self, name: str) -> str | None:
        """The first value of the header `name` (lower-case), None where it is absent."""
        for key, value in self.headers:
            if key == name:
                return value
        return None

    def public_headers(self) -> dict[str, str]:
        """The headers that may be shown: no credentials."""
        return {name: value for name, value in self.headers if name != "authorization"}


class VendorRequest(msgspec.Struct, frozen=True):
    """A whole request; `fault` is what was drawn for it when its head came in."""

    head: Head
    body: bytes
    fault: Fault | None = None


class End(Enum):
    """What happens to the connection at the moment an answer would be due."""

    ANSWER = "answer"
    CUT = "cut"
    HANG = "hang"
    HALF = "half"
    VANISH = "vanish"


class VendorReply(msgspec.Struct, frozen=True):
    """An answer. seconds: how long it is held back. With an `end` other than ANSWER nothing is sent."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    seconds: float = 0.0
    end: End = End.ANSWER


class Conversation(Protocol):
    """One connection's counterpart: it sees each head as it arrives, then each whole request.

    streams: how many requests the peer may have open at a time now; it may change after any reply.
    """

    @property
    def streams(self) -> int: ...

    def opening(self, head: Head) -> Fault | None:
        """The fault for the request that begins with `head`; GOAWAY and REFUSE are carried out before its body."""

    def farewell(self, fault: Fault) -> bytes:
        """The debug data of the GOAWAY frame that `fault` asks for."""

    def reply(self, request: VendorRequest) -> VendorReply:
        """The answer to a whole request."""


def json_reply(status: int, content: object, headers: tuple[tuple[str, str], ...] = ()) -> VendorReply:
    """An answer whose body is `content` as JSON."""
    return VendorReply(
        status, (("content-type", "application/json; charset=UTF-8"), *headers), msgspec.json.encode(content)
    )
