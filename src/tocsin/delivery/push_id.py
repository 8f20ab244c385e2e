"""The signed id of a message, by its purpose: what a device tracks with unsubscribes nobody.

A push carries one that tracks, a mail one in its unsubscribe link and another in its envelope address. All are made of
the same two numbers, and their signatures differ.

An id of a mail is written in base 32, in small letters: mail servers and people change capitals on the way. Before
2026-11-26 it was base64url, as that of a push is; those ids are still read.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import hmac
import itertools
import struct
from typing import Any, Literal

import msgspec

from tocsin.errors import Problem

Purpose = Literal["track", "unsubscribe", "bounce", "link", "open", "any"]
# BLAKE2's personalization (RFC 7693: 16 bytes at most). «any» is of ids from before there were purposes.
PERSONS: dict[Purpose, bytes] = {
    "track": b"track",
    "unsubscribe": b"unsubscribe",
    "bounce": b"bounce",
    "link": b"link",  # these two: mail_id.py
    "open": b"open",
    "any": b"push id",
}

_ID = struct.Struct(">QH")  # chunk id, position
_LETTERS, _MAILED_LETTERS = 27, 32  # 20 bytes in base64url, and in base 32, which needs no padding
_MAILED: tuple[Purpose, ...] = ("unsubscribe", "bounce")
# Base 32 (RFC 4648) two letters at a time: this runs twice a mail, and `base64.b32encode` takes ten times as long.
_PAIRS = ["".join(pair) for pair in itertools.product("abcdefghijklmnopqrstuvwxyz234567", repeat=2)]
_SHIFTS = range(150, -1, -10)
SIGNATURE = 10  # bytes: 80 bits are far beyond guessing over a network


class Secrets(msgspec.Struct, frozen=True, array_like=True):
    """What a worker makes ids with. message: for the ids that vendors see, the same for ever, so that a message that is
    sent again has the id it had. signing: the newest key that signs."""

    message: bytes
    signing: bytes

    def __repr__(self) -> str:
        return "Secrets()"


@functools.lru_cache(maxsize=32)
def begin_signature(secret: bytes, purpose: Purpose) -> Any:
    """Return the state of the hash after its key, which is the larger part of the work; it is for copying."""
    # Keyed BLAKE2b is a MAC by itself (RFC 7693), in a quarter of HMAC's time: this runs once a message.
    return hashlib.blake2b(digest_size=SIGNATURE, key=secret, person=PERSONS[purpose])


def _sign(secret: bytes, what: bytes, purpose: Purpose) -> bytes:
    signature = begin_signature(secret, purpose).copy()
    signature.update(what)
    return bytes(signature.digest())


def sign_push_id(secret: bytes, chunk_id: int, position: int, purpose: Purpose = "track") -> str:
    """Return the id of one recipient's message: of a mail 32 small letters of base 32, of a push 27 of base64url."""
    what = _ID.pack(chunk_id, position)
    signed = what + _sign(secret, what, purpose)
    if purpose in _MAILED:
        number = int.from_bytes(signed)
        return "".join([_PAIRS[number >> shift & 1023] for shift in _SHIFTS])
    return base64.urlsafe_b64encode(signed)[:_LETTERS].decode()


def read_push_id(secret: bytes, push_id: str, purpose: Purpose = "track") -> tuple[int, int]:
    """Return (chunk id, position). Raises Problem for an id this server did not sign for the purpose."""
    raw = _decode(push_id)
    what, signature = raw[: _ID.size], raw[_ID.size :]
    if len(raw) != _ID.size + SIGNATURE or not hmac.compare_digest(signature, _sign(secret, what, purpose)):
        raise Problem("id is not one this server gave out (at $.id)")
    chunk_id, position = _ID.unpack(what)
    return int(chunk_id), int(position)


def _decode(push_id: str) -> bytes:
    """Return what an id says, b"" for what cannot be one."""
    try:
        if len(push_id) == _MAILED_LETTERS:
            return base64.b32decode(push_id, casefold=True)
        raw = base64.urlsafe_b64decode(push_id + "=" * (-len(push_id) % 4))
    except (ValueError, binascii.Error):
        return b""
    # The last letter has two bits to spare: only the one spelling we give out is ours.
    return raw if base64.urlsafe_b64encode(raw).decode().rstrip("=") == push_id else b""


def unsubscribe_url(public_url: str, push_id: str) -> str:
    """Return the URL of a mail's `List-Unsubscribe` (RFC 8058); "" when the server has no `public_url`."""
    return f"{public_url}/u/{push_id}" if public_url else ""


def track_url(public_url: str) -> str:
    """Return where a browser reports what became of a message; "" when the server has no `public_url`."""
    return f"{public_url}/track" if public_url else ""
