"""Where log lines go: stderr, as JSON unless a person looks at it."""

from __future__ import annotations

import contextlib
import sys
from typing import TextIO, cast

import structlog


class FailsafeStream:
    """A stream whose writes never raise: on a full disk a line is lost, and the work it is about goes on."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def configure_log() -> None:
    """Set up the log of this process. Every command and every sender process calls it before it logs."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, FailsafeStream(sys.stderr))),
    )
