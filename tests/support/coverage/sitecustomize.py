"""Note which lines of tocsin a process runs. Python imports this when it starts, where PYTHONPATH leads here: so tests,
servers, senders, sandboxes and commands are all counted. A process that is killed takes its notes along, and
a module that `-m` runs is not instrumented itself (`delivery/sender.py`: only what the worker runs of it).

COVERAGE_FOLDER is where each process leaves its notes at its end; `report.py` adds them up. SlipCover takes its probe
out of a line that has run, which costs about a tenth; coverage.py's tracer doubles the time on Python 3.11.
"""

import atexit
import contextlib
import json
import os
from pathlib import Path
from typing import NoReturn

SOURCE = Path(__file__).parents[3] / "src" / "tocsin"


def begin(folder: Path) -> None:
    """Instrument what is imported from now on, and write the notes at the end of the process."""
    from slipcover import FileMatcher, ImportManager, Slipcover

    class Notes(Slipcover):  # type: ignore[misc]  # it has no types
        def deinstrument_seen(self) -> None:
            """Take out probes, or leave them until the next time: SlipCover goes through the names of modules while
            other threads add to them, and what it raises then would come out of whatever line runs just now."""
            with contextlib.suppress(RuntimeError):
                super().deinstrument_seen()

    notes = Notes()
    ImportManager(notes, FileMatcher(sources=[SOURCE])).__enter__()
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
