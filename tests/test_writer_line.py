"""Processes that write to one SQLite: none waits while another commits again and again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert, select, update

from tocsin.store import schema
from tocsin.store.ledger import Ledger, open_ledger
from tocsin.store.writer_line import WriterLine

table = schema.secret
THREADS, WRITES = 4, 20
OVERTAKEN = 400  # commits, by which 20 writes were overtaken: 37 and 40 were read, 826 and 1,026 without a line

WRITE = """
import sys
from sqlalchemy import select
from tocsin.store import schema
from tocsin.store.ledger import open_ledger
table = schema.secret
count = select(table.c.value).where(table.c.name == "count")
ledger = open_ledger(sys.argv[1])
overtaken = 0
for _ in range(int(sys.argv[2])):
    before = int(ledger.read_now(lambda connection: connection.scalar(count)))
    overtaken += int(ledger.write_now(lambda connection: connection.scalar(count))) - before
print(overtaken)
"""

STAND = """
import sys, time
from pathlib import Path
from tocsin.store.writer_line import WriterLine
with WriterLine(Path(sys.argv[1]), 1.0).wait():
    print("in line", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'ledger.db'}"


@pytest.fixture
def busy(url: str) -> Iterator[Ledger]:
    """A ledger into which threads write without a pause; «count» is the number of their commits."""
    ledger = open_ledger(url)
    ledger.write_now(lambda connection: connection.execute(insert(table).values(name="count", value=b"0")))
    stopped = threading.Event()

    def count(connection: Connection) -> None:
        counted = int(connection.execute(select(table.c.value).where(table.c.name == "count")).scalar_one())
        connection.execute(update(table).where(table.c.name == "count").values(value=b"%d" % (counted + 1)))

    def write() -> None:
        while not stopped.is_set():
            ledger.write_now(count)

    threads = [threading.Thread(target=write) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    yield ledger
    stopped.set()
    for thread in threads:
        thread.join()
    ledger.close()


def test_another_process_is_next(url: str, busy: Ledger) -> None:
    """What a command writes beside a busy server is overtaken by a few commits, not by all that come."""
    done = subprocess.run(
        [sys.executable, "-c", WRITE, url, str(WRITES)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < OVERTAKEN


@pytest.mark.parametrize("word", [signal.SIGSTOP, signal.SIGKILL], ids=["stopped", "killed"])
def test_who_never_leaves_ends_no_writing(tmp_path: Path, word: signal.Signals) -> None:
    """A process that is stopped in the line is passed by after a while, a killed one at once."""
    standing = subprocess.Popen(
        [sys.executable, "-c", STAND, str(tmp_path / "ledger.db")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert standing.stdout is not None
        assert standing.stdout.readline() == "in line\n"
        line = WriterLine(tmp_path / "ledger.db", 0.2)
        os.kill(standing.pid, word)
        with line.wait():
            pass
        line.close()
        line.close()
    finally:
        standing.kill()
        standing.communicate()
