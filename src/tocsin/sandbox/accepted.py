"""What the vendors were sent: counts, the newest messages, and which of them came twice."""

from __future__ import annotations

import time
from collections import deque
from itertools import islice

import msgspec

from tocsin.sandbox.faults import VENDORS, Vendor

MESSAGES_KEPT = 200_000
BYTES_KEPT = 256 * 1024 * 1024
"""The log holds the newest messages up to both bounds (bytes: as JSON)."""

GENERATION = 2_000_000
"""A duplicate is noticed while fewer than this many other messages lie between the two, and for up to twice as many."""


class Accepted(msgspec.Struct, frozen=True):
    """A message a vendor took. body: JSON as it came, or the text of the XML or the mail.

    campaign: the key that makes two messages to one address the same message; empty where the message has none.
    """

    address: str
    campaign: str
    headers: dict[str, str]
    body: msgspec.Raw | str


class Counts(msgspec.Struct):
    """Numbers of one vendor since the start or the last `DELETE /messages`. tokens: requests for an access token."""

    accepted: int = 0
    refused: int = 0
    duplicates: int = 0
    connections: int = 0
    tokens: int = 0


class _Shown(msgspec.Struct, frozen=True):
    id: int
    vendor: Vendor
    address: str
    campaign: str
    headers: dict[str, str]
    body: msgspec.Raw | str
    time: float


class AcceptedLog:
    """The memory of one sandbox. Numbers (`id`) of messages only ever grow, also across `forget`."""

    def __init__(self) -> None:
        self.counts: dict[Vendor, Counts] = {vendor: Counts() for vendor in VENDORS}
        self._log: deque[tuple[int, Vendor, bytes]] = deque()
        self._bytes = 0
        self._last = 0
        self._young: set[int] = set()
        self._old: set[int] = set()
        self._encoder = msgspec.json.Encoder()

    def accept(self, vendor: Vendor, message: Accepted) -> None:
        """Counts a message as accepted, as a duplicate if it is one, and keeps it."""
        self.counts[vendor].accepted += 1
        if message.campaign and self._met(hash((vendor, message.campaign, message.address))):
            self.counts[vendor].duplicates += 1
        self._last += 1
        shown = _Shown(
            self._last, vendor, message.address, message.campaign, message.headers, message.body, time.time()
        )
        encoded = self._encoder.encode(shown)
        self._log.append((self._last, vendor, encoded))
        self._bytes += len(encoded)
        while len(self._log) > MESSAGES_KEPT or self._bytes > BYTES_KEPT:
            self._bytes -= len(self._log.popleft()[2])

    def refuse(self, vendor: Vendor) -> None:
        """Counts a message that was answered with an error."""
        self.counts[vendor].refused += 1

    def connect(self, vendor: Vendor) -> None:
        """Counts a connection."""
        self.counts[vendor].connections += 1

    def grant(self, vendor: Vendor) -> None:
        """Counts a request for an access token, whatever its answer."""
        self.counts[vendor].tokens += 1

    def page(self, vendor: Vendor | None, after: int, limit: int) -> bytes:
        """Up to `limit` kept messages numbered above `after`, oldest first, as the JSON of `GET /messages`.

        `next` is the number to give as `after` for the page that follows.
        """
        skipped = max(0, after - self._log[0][0] + 1) if self._log else 0
        rest = islice(self._log, skipped, None)
        found = list(islice((entry for entry in rest if vendor is None or entry[1] == vendor), limit))
        following = found[-1][0] if found else after
        return b'{"messages":[%b],"next":%d}' % (b",".join(entry[2] for entry in found), following)

    def forget(self) -> None:
        """Forgets messages, what would make duplicates of later ones, and counts."""
        self._log.clear()
        self._bytes = 0
        self._young.clear()
        self._old.clear()
        self.counts.update({vendor: Counts() for vendor in VENDORS})

    def _met(self, key: int) -> bool:
        if key in self._young or key in self._old:
            return True
        self._young.add(key)
        if len(self._young) >= GENERATION:
            self._old, self._young = self._young, set()
        return False
