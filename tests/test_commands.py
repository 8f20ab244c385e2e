"""The forks that commands of the suite run in: each is a process like one of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import Command, run, run_bytes

ECHO = """
import atexit, os, sys, threading, time
atexit.register(lambda: print("left", flush=True))
print(os.environ["WORD"], os.getcwd(), sys.argv[1], sys.stdin.read(), file=sys.stderr)
threading.Thread(target=lambda: (time.sleep(0.05), print("thread"))).start()
sys.exit(int(sys.argv[1]))
"""
ENDS = {"sys.exit()": 0, "sys.exit('why')": 1, "sys.exit(7)": 7, "1 / 0": 1, "os.kill(os.getpid(), 9)": -9, "1": 0}


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return tmp_path / "script.py"


def test_what_is_given_arrives(script: Path, tmp_path: Path) -> None:
    """Arguments, environment, folder and streams are the fork's own, and it ends as an interpreter does: it waits for
    its threads, and then runs what wants to be run."""
    script.write_text(ECHO)
    done = run_bytes("3", environment={"WORD": "w"}, folder=tmp_path, given=b"given", program=str(script))
    assert (done.returncode, done.stdout) == (3, b"thread\nleft\n")
    assert done.stderr.decode() == f"w {tmp_path} 3 given\n"
    assert "WORD" not in os.environ


@pytest.mark.parametrize("line", ENDS)
def test_every_end_is_told(script: Path, line: str) -> None:
    """As Python itself ends and says."""
    script.write_text(f"import os, sys\n{line}\n")
    done = run(program=str(script))
    alone = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == alone.returncode == ENDS[line]
    last = [one.stderr.splitlines()[-1:] for one in (done, alone)]
    assert last[0] == last[1]


def test_a_command_that_is_waited_for_and_killed(script: Path) -> None:
    """One runs on while others end; a signal reaches it, and its end is told once and for all."""
    script.write_text("import time\ntime.sleep(60)\n")
    command = Command(program=str(script))
    assert run("--version").returncode == 0
    assert command.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        command.wait(0.01)
    command.terminate()
    assert command.wait(20) == -signal.SIGTERM == command.poll()
    command.kill()
    assert command.returncode == -signal.SIGTERM
