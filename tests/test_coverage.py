"""The notes of which lines ran: a process that reads instrumented code back notes what the one that made it did."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SITE = Path(__file__).parent / "support" / "coverage"
# A loop that SlipCover takes its probes out of, in code of several levels; and lines that are not run.
PROGRAM = """
from tocsin.settings import hide_passwords

for number in range({times}):
    hide_passwords(f"postgresql://me:secret@host/{{number}}")
"""


# The child of a fork runs a line that its parent does not.
FORK = """
import os
from tocsin.settings import hide_passwords

if not os.fork():
    hide_passwords("postgresql://me:secret@host")
else:
    os.wait()
"""


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="from 3.12 on the interpreter has probes of its own")
def test_code_that_was_kept_is_counted_like_new_one(tmp_path: Path) -> None:
    programs = (PROGRAM.format(times=times) for times in (30_000, 30_000, 0))
    [first], [again], [other] = (run_counted(tmp_path, program) for program in programs)
    assert first == again
    assert (tmp_path / "code").is_dir()
    differing = {name for name in first if first[name] != other[name]}
    assert {Path(name).name for name in differing} == {"settings.py"}


def test_a_fork_notes_what_it_runs_itself(tmp_path: Path) -> None:
    """What its parent ran before is in the parent's notes, however many forks there are."""
    child, parent = sorted(run_counted(tmp_path, FORK), key=len)
    [(name, ran)] = child.items()
    assert Path(name).name == "settings.py"
    assert ran
    assert not set(ran) & set(parent[name])


def run_counted(folder: Path, program: str) -> list[dict[str, list[int]]]:
    """Run a program in a process that notes its lines: those that ran, by module, of each process."""
    path = os.pathsep.join([str(SITE), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"COVERAGE_FOLDER": str(folder), "PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    found = []
    for note in folder.glob("*.json"):
        found.append(json.loads(note.read_text()))
        note.unlink()
    return found
