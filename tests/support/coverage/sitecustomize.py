"""Note which lines of tocsin a process runs. Python imports this when it starts, where PYTHONPATH leads here: so tests,
servers, senders, sandboxes and commands are all counted. A process that is killed takes its notes along, and
a module that `-m` runs is not instrumented itself (`delivery/sender.py`: only what the worker runs of it).

COVERAGE_FOLDER is where each process leaves its notes at its end; `report.py` adds them up. A probe costs some 30 ns
each time its line runs, and SlipCover takes out those of all lines that have run once one of them did so too often;
coverage.py's tracer doubles the time on Python 3.11. To take them out costs 0.11 s, as much as four million runs of
probes: after 50, SlipCover's own number, a server did it 20 times in its first seconds, which was 2.2 s of its 5.0 s.
The start of a process was what cost most (import tocsin.app: 2.9 s without, 6.7 s with it): see `instrumented.py`.
"""

import atexit
import json
import os
import sys
from pathlib import Path
from typing import NoReturn

SOURCE = Path(__file__).parents[3] / "src" / "tocsin"
OFTEN = 20_000  # times that a line runs before probes are taken out


def begin(folder: Path) -> None:
    """Instrument what is imported from now on, and write the notes at the end of the process."""
    from slipcover import FileMatcher, ImportManager, Slipcover

    if sys.version_info >= (3, 12):
        notes = Slipcover(exclude_lines=[])  # `report.py` leaves them out
    else:
        from instrumented import KeptCode  # type: ignore[import-not-found]  # it is beside this file

        notes = KeptCode(folder / "code", exclude_lines=[], d_miss_threshold=OFTEN)

    class OwnModules(FileMatcher):  # type: ignore[misc]  # it has no types
        """Those of tocsin: of all others the name is enough, for to resolve each path is a third of importing it."""

        def matches(self, filename: str | Path | None) -> bool:
            return "tocsin" in str(filename) and bool(super().matches(filename))

    ImportManager(notes, OwnModules(sources=[SOURCE])).__enter__()
    written = False

    def read() -> dict[str, list[int]]:
        with notes.lock:
            for name, lines in notes._get_newly_seen().items():
                notes.all_seen[name].update(lines)
            return {name: sorted(one) for name, one in notes.all_seen.items()}

    def write() -> None:
        nonlocal written
        if not written:
            written = True
            (folder / f"{os.getpid()}-{os.urandom(4).hex()}.json").write_text(json.dumps(read()))

    def forget() -> None:
        """In a fork: what ran before it its parent notes."""
        nonlocal written
        written = False
        read()
        notes.all_seen.clear()

    def leave(status: int) -> NoReturn:
        write()
        leave_now(status)

    leave_now, os._exit = os._exit, leave  # a sender ends this way, without its exit handlers
    os.register_at_fork(after_in_child=forget)
    atexit.register(write)


if os.environ.get("COVERAGE_FOLDER"):
    begin(Path(os.environ["COVERAGE_FOLDER"]))
