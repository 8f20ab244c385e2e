"""The log of what the vendors refuse: one line says what was asked, what was answered and why."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import structlog

from tocsin.sandbox.http import VendorReply

log = structlog.get_logger()

QUIET_SECONDS = 1.0
"""How long the same refusal of the same vendor is not told again; the next line says how often it was."""

KINDS_KEPT = 256
ASKED_LETTERS = 100


class RefusalLog:
    """Tells refusals, each kind once in QUIET_SECONDS."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, str, str], tuple[float, int]] = {}

    def note(self, vendor: str, asked: str, answer: str, why: str) -> None:
        """Tell that `vendor` answered `asked` (method and path, or a command) with `answer`, because of `why`."""
        kind, now = (vendor, answer, why), time.monotonic()
        told, silent = self._told.get(kind, (-QUIET_SECONDS, 0))
        if now - told < QUIET_SECONDS:
            self._told[kind] = (told, silent + 1)
            return
        self._told.pop(kind, None)
        if len(self._told) >= KINDS_KEPT:
            del self._told[next(iter(self._told))]
        self._told[kind] = (now, 0)
        more = {"left_out": silent} if silent else {}
        log.warning("refused", vendor=vendor, asked=asked[:ASKED_LETTERS], answer=answer, why=why, **more)


def explain(reply: VendorReply) -> tuple[str, str]:
    """Return status with the vendor's own word for an error, and the sentence that its answer has, "" without one."""
    sentence = next((value for name, value in reply.headers if name.lower() == "x-wns-error-description"), "")
    try:
        content: Any = msgspec.json.decode(reply.body or b"{}")
    except msgspec.DecodeError:
        content = {}
    content = content if isinstance(content, dict) else {}
    error = content.get("error")
    if isinstance(error, dict):  # google.rpc.Status
        return f"{reply.status} {error.get('status', '')}".strip(), str(error.get("message", ""))
    if "error_description" in content:  # RFC 6749 5.2
        return f"{reply.status} {error}", str(content["error_description"])
    if isinstance(error, str):
        sentence = error
    return f"{reply.status} {content.get('reason', '')}".strip(), sentence
