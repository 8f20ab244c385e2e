"""Where log lines go: stderr, as JSON unless a person looks at it."""

from __future__ import annotations

import contextlib
import sys
from typing import TextIO, cast

import structlog


class Stubborn:
    """A stream that cannot fail: on a full disk a line is lost, and what wanted to say it goes on."""

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
    """For this process; commands and senders call it first."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, Stubborn(sys.stderr))),
    )
