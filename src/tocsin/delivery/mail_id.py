"""The signed id in a mail's links and in its picture: which mail, when it was sent and, of a link, where it leads.

The target stands behind the id, in clear letters, and is part of what is signed: nobody can make a link that leads
elsewhere. So nothing has to be kept for a link to work, as long as one of the keys is.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hmac
import struct
from collections.abc import Sequence
from html import escape
from typing import Any, Literal, NamedTuple

from tocsin.content import MailLinks
from tocsin.delivery.push_id import begin_signature
from tocsin.errors import Problem

MailPurpose = Literal["link", "open"]

LINK_PATH, PIXEL_PATH = "/l/", "/o/"
PIXEL_ENDING = ".gif"
OWN_PATHS = ("/l/", "/o/", "/u/")
ID_LETTERS = 32

_MAIL = struct.Struct(">QHI")  # chunk id, position, the second it was sent in


class MailId(NamedTuple):
    """Which mail. sent_at: epoch seconds."""

    chunk_id: int
    position: int
    sent_at: int


def sign_mail_id(secret: bytes, mail: MailId, purpose: MailPurpose, target: bytes = b"") -> str:
    """Return the id of a mail, 32 letters of base64url. target: of a link, the URL that it leads to."""
    what = _MAIL.pack(*mail)
    return _write(what, begin_signature(secret, purpose), target)


def read_mail_id(secret: bytes, letters: str, purpose: MailPurpose, target: bytes = b"") -> MailId:
    """Return the mail of an id. Raises Problem for one that this server did not sign, for this purpose and target."""
    raw = _decode(letters)
    what = raw[: _MAIL.size]
    if not raw or not hmac.compare_digest(letters, _write(what, begin_signature(secret, purpose), target)):
        raise Problem("id is not one this server gave out (at $.id)")
    return MailId(*_MAIL.unpack(what))


def make_links(public_url: str, secret: bytes, mail: MailId, *, clicks: bool, opens: bool) -> MailLinks:
    """Return what makes the links of one mail, and its picture."""
    base, own = _write_base(public_url)
    what = _MAIL.pack(*mail)

    def sign(targets: Sequence[bytes]) -> Sequence[str]:
        begun = begin_signature(secret, "link").copy()
        begun.update(what)
        copy, digests = begun.copy, list[bytes]()
        for target in targets:
            signature = copy()
            signature.update(target)
            digests.append(signature.digest())
        # 24 bytes are 32 letters to the letter, so all can be written at once.
        letters = base64.urlsafe_b64encode(what + what.join(digests)).decode()
        return [letters[place : place + ID_LETTERS] for place in range(0, len(digests) * ID_LETTERS, ID_LETTERS)]

    return MailLinks(
        start=f"{base}{LINK_PATH}",
        sign=sign if clicks else None,
        pixel=f"{base}{PIXEL_PATH}{_write(what, begin_signature(secret, 'open'), b'')}{PIXEL_ENDING}" if opens else "",
        own=own,
    )


@functools.lru_cache(maxsize=16)
def _write_base(public_url: str) -> tuple[str, tuple[bytes, ...]]:
    """Return a public URL as it stands in an attribute, and what begins the links that are this server's."""
    return escape(public_url), tuple(f"{public_url}{path}".encode() for path in OWN_PATHS)


def _write(what: bytes, begun: Any, target: bytes) -> str:
    signature = begun.copy()
    signature.update(what + target)
    return base64.urlsafe_b64encode(what + signature.digest()).decode()


def _decode(letters: str) -> bytes:
    if len(letters) != ID_LETTERS or not letters.isascii():
        return b""
    try:
        return base64.urlsafe_b64decode(letters)
    except (ValueError, binascii.Error):
        return b""
