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


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="from 3.12 on the interpreter has probes of its own")
def test_code_that_was_kept_is_counted_like_new_one(tmp_path: Path) -> None:
    first, again, other = (run_counted(tmp_path, times) for times in (500, 500, 0))
    assert first == again
    assert (tmp_path / "code").is_dir()
    differing = {name for name in first if first[name] != other[name]}
    assert {Path(name).name for name in differing} == {"settings.py"}


def run_counted(folder: Path, times: int) -> dict[str, tuple[list[int], list[int]]]:
    """Run PROGRAM in a process that notes its lines: those that ran and those that did not, of each module."""
    path = os.pathsep.join([str(SITE), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"COVERAGE_FOLDER": str(folder), "PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", PROGRAM.format(times=times)], env=environment, check=True)
    [note] = folder.glob("*.json")
    files = json.loads(note.read_text())["files"]
    note.unlink()
    return {name: (lines["executed_lines"], lines["missing_lines"]) for name, lines in files.items()}
