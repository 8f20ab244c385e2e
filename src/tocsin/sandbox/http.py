"""Requests and answers of HTTP, for both versions, and the interface between a protocol and what answers it."""

from __future__ import annotations

from enum import Enum
from typing import Protocol

import msgspec

from tocsin.sandbox.faults import Fault

BODY_KEPT = 64 * 1024
"""Bytes of a request body that are kept. Every vendor's limit is far below: a longer body is refused anyway."""


class Head(msgspec.Struct, frozen=True):
    """A request without its body. Header names are lower-case; their order and repetitions are kept. authority: the
    host and port it was sent to, as HTTP/2 has them; "" in HTTP/1.1, which has a header."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    authority: str = ""

    def header(self, name: str) -> str | None:
        """Return the first value of the header `name` (lower-case), None when it is absent."""
        for key, value in self.headers:
            if key == name:
                return value
        return None

    def public_headers(self) -> dict[str, str]:
        """Return the headers without credentials."""
        return {name: value for name, value in self.headers if name != "authorization"}


class VendorRequest(msgspec.Struct, frozen=True):
    """A whole request. fault: drawn when its head arrived."""

    head: Head
    body: bytes
    fault: Fault | None = None


class End(Enum):
    """What happens to the connection when the answer is due."""

    ANSWER = "answer"
    CUT = "cut"
    HANG = "hang"
    HALF = "half"
    VANISH = "vanish"


class VendorReply(msgspec.Struct, frozen=True):
    """An answer. seconds: delay before it is sent. With an `end` other than ANSWER nothing is sent."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    seconds: float = 0.0
    end: End = End.ANSWER


class RequestHandler(Protocol):
    """Answers the requests of one connection: called with each head on arrival, then with each whole request.

    streams: requests the client may have open at a time; may change after any reply.
    """

    @property
    def streams(self) -> int: ...

    def draw_fault(self, head: Head) -> Fault | None:
        """Return the fault for the request that begins with `head`; GOAWAY and REFUSE apply before its body is read."""

    def goaway_data(self, fault: Fault) -> bytes:
        """Return the debug data of the GOAWAY frame that `fault` asks for."""

    def note_break(self, why: str) -> None:
        """Take notice that the client broke the protocol, which ends the connection."""

    def reply(self, request: VendorRequest) -> VendorReply:
        """Return the answer to a whole request."""


def json_reply(status: int, content: object, headers: tuple[tuple[str, str], ...] = ()) -> VendorReply:
    """Return an answer whose body is `content` as JSON."""
    return VendorReply(
        status, (("content-type", "application/json; charset=UTF-8"), *headers), msgspec.json.encode(content)
    )
