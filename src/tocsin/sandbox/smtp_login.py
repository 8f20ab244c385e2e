"""SMTP AUTH PLAIN and LOGIN for one user (RFC 4954, RFC 4616; LOGIN as every client does it)."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Callable

Step = Callable[[str], tuple[str, "Step | None"]]
"""Takes the client's next line; gives the reply and what takes the line after that, None at the end."""

ACCEPTED = "235 2.7.0 Welcome"
WRONG = "535 5.7.8 The user name or the password is wrong"
GARBLED = "501 5.5.2 That is not base64"
CANCELLED = "501 5.7.0 Cancelled"


class Login:
    """Verifies the user's name and password."""

    def __init__(self, username: str, password: str) -> None:
        self._username = username.encode()
        self._password = password.encode()

    def begin(self, argument: str) -> tuple[str, Step | None]:
        """The outcome of `AUTH argument`."""
        mechanism, _, initial = argument.partition(" ")
        if mechanism.upper() == "PLAIN":
            return self._plain(initial.strip()) if initial else ("334 ", self._plain)
        if mechanism.upper() == "LOGIN":
            return self._name(initial.strip()) if initial else ("334 VXNlcm5hbWU6", self._name)
        return "504 5.5.4 The mechanism is not PLAIN or LOGIN", None

    def _plain(self, line: str) -> tuple[str, Step | None]:
        content = _decoded(line)
        if content is None:
            return _unreadable(line), None
        parts = content.split(b"\0")
        if len(parts) != 3:
            return WRONG, None
        return self._verdict(parts[1], parts[2]), None

    def _name(self, line: str) -> tuple[str, Step | None]:
        name = _decoded(line)
        if name is None:
            return _unreadable(line), None

        def password(answer: str) -> tuple[str, Step | None]:
            content = _decoded(answer)
            return (_unreadable(answer) if content is None else self._verdict(name, content)), None

        return "334 UGFzc3dvcmQ6", password

    def _verdict(self, name: bytes, password: bytes) -> str:
        right = hmac.compare_digest(name, self._username) & hmac.compare_digest(password, self._password)
        return ACCEPTED if right else WRONG


def _decoded(line: str) -> bytes | None:
    try:
        return base64.b64decode(line, validate=True)
    except (binascii.Error, ValueError):
        return None


def _unreadable(line: str) -> str:
    return CANCELLED if line == "*" else GARBLED
