"""Where the suite keeps its files: in memory where there is room. A sync costs nothing there, which takes a quarter off
the time of tests that write; a kill -9 leaves such files as it leaves others."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

MEMORY = Path("/dev/shm")
ROOM = 4 * 1024**3  # bytes; the suite has needed less than one
PREFIX = "tocsin-tests-"
LASTING = "TEST_LASTING_FOLDER"  # for what later runs may use again


def make_workspace() -> Path:
    """Make the folder of this run, and have everything that asks for a temporary folder put it there: this process and
    those that it starts. Folders of runs that were killed, or that somebody wanted to look at, go."""
    os.environ.setdefault(LASTING, tempfile.gettempdir())
    chosen = MEMORY if "TMPDIR" not in os.environ and _is_usable() else Path(tempfile.gettempdir())
    for old in chosen.glob(f"{PREFIX}*-*"):
        pid = old.name.removeprefix(PREFIX).partition("-")[0]
        if pid.isdigit() and old.stat().st_uid == os.getuid() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=chosen))
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    return folder


def _is_usable() -> bool:
    """Return whether there is a file system in memory, with room and memory for it, whose files may be run."""
    if not os.access(MEMORY, os.W_OK) or os.statvfs(MEMORY).f_flag & os.ST_NOEXEC:
        return False
    free = next(
        int(line.split()[1]) * 1024 for line in Path("/proc/meminfo").read_text().splitlines() if "MemAvailable" in line
    )
    return shutil.disk_usage(MEMORY).free > ROOM and free > 2 * ROOM
