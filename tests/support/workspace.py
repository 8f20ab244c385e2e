"""Where the suite keeps its files: in memory where there is room. A sync costs nothing there, which takes a quarter off
the time of tests that write; a kill -9 leaves such files as it leaves others."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

MEMORY = Path("/dev/shm")
ROOM = 4 * 1024**3  # bytes; the suite has needed less than one
LASTING = "TEST_LASTING_FOLDER"  # for what later runs may use again


def make_workspace() -> Path:
    """Make the folder of this run, and have everything that asks for a temporary folder put it there: this process and
    those that it starts."""
    os.environ.setdefault(LASTING, tempfile.gettempdir())
    usable = "TMPDIR" not in os.environ and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > ROOM
    folder = Path(tempfile.mkdtemp(prefix="tocsin-tests-", dir=MEMORY if usable else None))
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    return folder
