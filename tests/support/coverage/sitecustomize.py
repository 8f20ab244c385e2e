"""Note which lines of tocsin a process runs. Python imports this when it starts, where PYTHONPATH leads here: so tests,
servers, senders, sandboxes and commands are all counted. A process that is killed takes its notes along, and
a module that `-m` runs is not instrumented itself (`delivery/sender.py`: only what the worker runs of it).

COVERAGE_FOLDER is where each process leaves its notes at its end; `report.py` adds them up. SlipCover takes its probe
out of a line that has run, which costs about a tenth; coverage.py's tracer doubles the time on Python 3.11. The start
of a process was what cost most (import tocsin.app: 2.9 s without, 6.7 s with it): see `instrumented.py`.
"""

import atexit
import json
import os
import sys
from pathlib import Path
from typing import NoReturn

SOURCE = Path(__file__).parents[3] / "src" / "tocsin"


def begin(folder: Path) -> None:
    """Instrument what is imported from now on, and write the notes at the end of the process."""
    from slipcover import FileMatcher, ImportManager, Slipcover

    if sys.version_info >= (3, 12):
        notes = Slipcover(exclude_lines=[])  # `report.py` leaves them out
    else:
        from instrumented import KeptCode  # type: ignore[import-not-found]  # it is beside this file

        notes = KeptCode(folder / "code", exclude_lines=[])

    class OwnModules(FileMatcher):  # type: ignore[misc]  # it has no types
        """Those of tocsin: of all others the name is enough, for to resolve each path is a third of importing it."""

        def matches(self, filename: str | Path | None) -> bool:
            return "tocsin" in str(filename) and bool(super().matches(filename))

    ImportManager(notes, OwnModules(sources=[SOURCE])).__enter__()
    pid = os.getpid()

    def write() -> None:
        if os.getpid() == pid:  # a fork has no notes of its own
            (folder / f"{pid}-{os.urandom(4).hex()}.json").write_text(json.dumps(notes.get_coverage()))

    def leave(status: int) -> NoReturn:
        write()
        leave_now(status)

    leave_now, os._exit = os._exit, leave  # a sender ends this way, without its exit handlers
    atexit.register(write)


if os.environ.get("COVERAGE_FOLDER"):
    begin(Path(os.environ["COVERAGE_FOLDER"]))
