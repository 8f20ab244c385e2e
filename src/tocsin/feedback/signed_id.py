"""Reading signed ids, by every key that is still good."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from tocsin.delivery.mail_id import MailId, MailPurpose, read_mail_id
from tocsin.delivery.push_id import Purpose, read_push_id
from tocsin.errors import Problem
from tocsin.store.ledger import Ledger
from tocsin.store.signing_key import SigningKey, find_signing_keys

NOT_OURS = "id is not one this server gave out (at $.id)"
LOOK_SECONDS = 5.0  # between two looks for a key that another process made


class SignedIds:
    """The keys whose ids are read. ledger: looked at for new keys when an id fits none; None for keys that stay."""

    def __init__(self, keys: Sequence[SigningKey], ledger: Ledger | None = None):
        self._keys = keys
        self._ledger = ledger
        self._looked_at = time.monotonic()
        self._lock = asyncio.Lock()

    async def read(self, push_id: str, *purposes: Purpose) -> tuple[int, int]:
        """Return (chunk id, position) of an id that was signed for one of the purposes. Raise Problem 400 for any
        other."""
        try:
            return self._read(push_id, purposes)
        except Problem:
            if not await self._look_again():
                raise
        return self._read(push_id, purposes)

    async def read_mail(self, letters: str, purpose: MailPurpose, target: bytes = b"") -> MailId:
        """Return the mail of the id in a link or picture. target: where the link leads. Raise Problem 400 for one that
        was not signed for this purpose and target."""
        try:
            return self._read_mail(letters, purpose, target)
        except Problem:
            if not await self._look_again():
                raise
        return self._read_mail(letters, purpose, target)

    def _read_mail(self, letters: str, purpose: MailPurpose, target: bytes) -> MailId:
        problem = Problem(NOT_OURS)
        for key in self._keys:
            if not key.purposes:
                continue  # it is from before there were such links
            try:
                return read_mail_id(key.value, letters, purpose, target)
            except Problem as found:
                problem = found
        raise problem

    def _read(self, push_id: str, purposes: Sequence[Purpose]) -> tuple[int, int]:
        problem = Problem(NOT_OURS)
        for key in self._keys:
            for purpose in purposes if key.purposes else ("any",):
                try:
                    return read_push_id(key.value, push_id, purpose)
                except Problem as found:
                    problem = found
        raise problem

    async def _look_again(self) -> bool:
        """Read the keys again, unless that was done a moment ago; return whether there are others now."""
        if self._ledger is None:
            return False
        async with self._lock:
            if time.monotonic() < self._looked_at + LOOK_SECONDS:
                return False
            self._looked_at = time.monotonic()
            before, self._keys = self._keys, await self._ledger.read(find_signing_keys)
        return list(before) != list(self._keys)
