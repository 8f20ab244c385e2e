"""Cursors: what an export asks for and how far it is, signed and carried by whoever asks.

Nothing about an export is kept here, so it survives a restart, goes on in any process, and costs nothing when nobody
comes back for it. A cursor is letters, digits, `-` and `_` only: percent-encoding it, once or twice, changes nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import zlib
from collections.abc import Sequence
from typing import Literal

import msgspec
from sqlalchemy import Connection

from tocsin.audience.node import Did, Query
from tocsin.errors import Problem
from tocsin.store.signing_key import SigningKey, find_signing_keys

LONGEST = 6000  # letters: proxies take addresses of 8 KB
SECONDS = 4 * 86_400.0  # after its beginning an export ends, as with CleverTap
MAC_BYTES = 16
UNPACKED = 1024 * 1024  # of what a cursor unfolds to
PERSON = b"tocsin cursor"

Kind = Literal["profiles", "events", "timeline"]


class Cursor(msgspec.Struct, frozen=True, kw_only=True):
    """An export at one place.

    began: epoch seconds; relative days are seen from there. size: records of a page. base: the event that is
    exported. rest: what must be true of people. last_user: nobody who came later is part of it; of a
    time line, whose it is. after: the key of the
    last record that was given out. app, profile, events: what of a person is shown.
    """

    kind: Kind
    account: str
    began: float
    size: int
    base: Did | None
    rest: tuple[Query, ...]
    last_user: int
    after: tuple[str | int, ...] = ()
    app: bool = True
    profile: bool = True
    events: bool = False


_DECODER = msgspec.json.Decoder(Cursor)  # made before there are threads


def seal(connection: Connection, cursor: Cursor) -> str:
    """Return a cursor as a text. Raise Problem 400 for a question too long for one."""
    packed = zlib.compress(msgspec.json.encode(cursor), 9)
    text = _encode(_sign(find_signing_keys(connection)[0], packed) + packed)
    if len(text) > LONGEST:
        raise Problem(f"The question makes a cursor of {len(text)} letters; at most {LONGEST} fit into an address")
    return text


def unseal(connection: Connection, text: str, kind: Kind, account_id: str, now: float) -> Cursor:
    """Return the cursor of a text. Raise Problem, in the documented words, for one that was not given out for such an
    export of this account, or that has ended."""
    wrong = Problem("Incorrect Usage", code=3, status=200)
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)) if len(text) <= LONGEST else b""
    except (binascii.Error, ValueError):
        raise wrong from None
    if not _is_ours(find_signing_keys(connection), raw):
        raise wrong
    cursor = _DECODER.decode(zlib.decompressobj().decompress(raw[MAC_BYTES:], UNPACKED))
    if (cursor.kind, cursor.account) != (kind, account_id) or now > cursor.began + SECONDS:
        raise wrong
    return cursor


def _is_ours(keys: Sequence[SigningKey], raw: bytes) -> bool:
    return any(hmac.compare_digest(_sign(key, raw[MAC_BYTES:]), raw[:MAC_BYTES]) for key in keys)


def _sign(key: SigningKey, packed: bytes) -> bytes:
    return hashlib.blake2b(packed, digest_size=MAC_BYTES, key=key.value, person=PERSON).digest()


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
