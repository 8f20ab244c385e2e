"""The line in which processes wait for SQLite's one writer.

SQLite asks again for a lock it did not get after up to 100 ms, and a server that writes without a pause leaves it free
for some microseconds between two commits: 20 writes beside one were overtaken by 826 and by 1,026 commits, and who
waits too long gets an error. So whoever wants to write stands in a line of one place first, which is left once the
transaction has begun: who has just committed finds it taken, and waits behind them. So it were 37 and 40.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

AGAIN_SECONDS = 0.001


class WriterLine:
    """The line of one ledger's file. It is a lock of the folder, so that no file is added; a process that dies leaves
    it."""

    def __init__(self, database: Path, seconds: float):
        self._folder = os.open(database.absolute().parent, os.O_RDONLY)
        self._seconds = seconds

    @contextmanager
    def wait(self) -> Iterator[None]:
        """Hold the place for as long as the block runs. Whoever waited for `seconds` goes on without it: a process that
        is stopped in the line must not end all writing."""
        until = time.monotonic() + self._seconds
        while not (held := self._take()) and time.monotonic() < until:
            time.sleep(AGAIN_SECONDS)
        try:
            yield
        finally:
            if held:
                fcntl.flock(self._folder, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give up the folder. Nobody may wait after it."""
        folder, self._folder = self._folder, -1
        if folder >= 0:
            os.close(folder)

    def _take(self) -> bool:
        try:
            fcntl.flock(self._folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
