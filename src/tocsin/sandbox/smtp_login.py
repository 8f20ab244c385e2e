"""SMTP AUTH PLAIN and LOGIN for one user (RFC 4954, RFC 4616; LOGIN as in draft-murchison-sasl-login)."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Callable

Step = Callable[[str], tuple[str, "Step | None"]]
"""Takes the client's next line; returns the reply and the step for the line after it, None at the end."""

ACCEPTED = "235 2.7.0 Welcome"
WRONG = "535 5.7.8 The user name or the password is wrong"
NOT_BASE64 = "501 5.5.2 That is not base64"
CANCELLED = "501 5.7.0 Cancelled"


class Login:
    """The AUTH command, with the name and password of the one user."""

    def __init__(self, username: str, password: str) -> None:
        self._username = username.encode()
        self._password = password.encode()

    def begin(self, argument: str) -> tuple[str, Step | None]:
        """Return the reply to `AUTH argument`, and the step for the client's next line."""
        mechanism, _, initial = argument.partition(" ")
        if mechanism.upper() == "PLAIN":
            return self._read_plain(initial.strip()) if initial else ("334 ", self._read_plain)
        if mechanism.upper() == "LOGIN":
            return self._read_name(initial.strip()) if initial else ("334 VXNlcm5hbWU6", self._read_name)
        return "504 5.5.4 The mechanism is not PLAIN or LOGIN", None

    def _read_plain(self, line: str) -> tuple[str, Step | None]:
        content = _decode(line)
        if content is None:
            return _bad_base64(line), None
        parts = content.split(b"\0")
        if len(parts) != 3:
            return WRONG, None
        return self._check(parts[1], parts[2]), None

    def _read_name(self, line: str) -> tuple[str, Step | None]:
        name = _decode(line)
        if name is None:
            return _bad_base64(line), None

        def read_password(answer: str) -> tuple[str, Step | None]:
            content = _decode(answer)
            return (_bad_base64(answer) if content is None else self._check(name, content)), None

        return "334 UGFzc3dvcmQ6", read_password

    def _check(self, name: bytes, password: bytes) -> str:
        right = hmac.compare_digest(name, self._username) & hmac.compare_digest(password, self._password)
        return ACCEPTED if right else WRONG


def _decode(line: str) -> bytes | None:
    try:
        return base64.b64decode(line, validate=True)
    except (binascii.Error, ValueError):
        return None


def _bad_base64(line: str) -> str:
    return CANCELLED if line == "*" else NOT_BASE64
