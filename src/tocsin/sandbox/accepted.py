"""Counts of each vendor, the newest accepted messages, and the detection of duplicates."""

from __future__ import annotations

import time
from collections import deque
from itertools import islice

import msgspec

from tocsin.sandbox.faults import VENDORS, Vendor

MESSAGES_KEPT = 200_000
BYTES_KEPT = 256 * 1024 * 1024
"""Limits of the log, bytes as JSON; past either the oldest messages are dropped."""

REFUSED_KEPT = 2_000

GENERATION = 2_000_000
"""Messages between two duplicates: up to so many they are always detected, past twice as many never."""


class Accepted(msgspec.Struct, frozen=True):
    """A message that a vendor accepted.

    campaign: with the address the key of a duplicate; empty when the message has none. body: JSON as received, or the
    text of the XML or of the mail.
    """

    address: str
    campaign: str
    headers: dict[str, str]
    body: msgspec.Raw | str


class RefusedByFault(msgspec.Struct, frozen=True):
    """A message that arrived and was answered with a script's error, unread. target: of the request, or the mailbox."""

    vendor: Vendor
    target: str
    body: str


class Counts(msgspec.Struct):
    """Counts of one vendor since the start or the last `DELETE /messages`. tokens: requests for an access token."""

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
    """The counts and the messages of one sandbox. The `id` of a message only ever grows, also across `forget`."""

    def __init__(self) -> None:
        self.counts: dict[Vendor, Counts] = {vendor: Counts() for vendor in VENDORS}
        self.refused: deque[RefusedByFault] = deque(maxlen=REFUSED_KEPT)
        self._log: deque[tuple[int, Vendor, bytes]] = deque()
        self._bytes = 0
        self._last = 0
        self._newer: set[int] = set()
        self._older: set[int] = set()
        self._encoder = msgspec.json.Encoder()

    def accept(self, vendor: Vendor, message: Accepted) -> None:
        """Count and keep a message, and count it as a duplicate when its campaign and address were seen before."""
        self.counts[vendor].accepted += 1
        if message.campaign and self._is_duplicate(hash((vendor, message.campaign, message.address))):
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
        """Count a message that was answered with an error."""
        self.counts[vendor].refused += 1

    def refuse_by_fault(self, vendor: Vendor, target: str, body: bytes) -> None:
        """Count and keep a message that a script answers with an error."""
        self.refuse(vendor)
        self.refused.append(RefusedByFault(vendor, target, body.decode("utf-8", "replace")))

    def connect(self, vendor: Vendor) -> None:
        """Count a connection."""
        self.counts[vendor].connections += 1

    def grant(self, vendor: Vendor) -> None:
        """Count a request for an access token, whatever its answer."""
        self.counts[vendor].tokens += 1

    def page(self, vendor: Vendor | None, after: int, limit: int) -> bytes:
        """Return up to `limit` kept messages with an `id` above `after`, oldest first, as the JSON of `GET /messages`.

        `next` in it is the `after` of the following page.
        """
        skipped = max(0, after - self._log[0][0] + 1) if self._log else 0
        rest = islice(self._log, skipped, None)
        found = list(islice((entry for entry in rest if vendor is None or entry[1] == vendor), limit))
        following = found[-1][0] if found else after
        return b'{"messages":[%b],"next":%d}' % (b",".join(entry[2] for entry in found), following)

    def forget(self) -> None:
        """Drop the messages, the keys of duplicates and the counts."""
        self._log.clear()
        self.refused.clear()
        self._bytes = 0
        self._newer.clear()
        self._older.clear()
        self.counts.update({vendor: Counts() for vendor in VENDORS})

    def _is_duplicate(self, key: int) -> bool:
        if key in self._newer or key in self._older:
            return True
        self._newer.add(key)
        if len(self._newer) >= GENERATION:
            self._older, self._newer = self._newer, set()
        return False
