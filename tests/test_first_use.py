"""Threads that read the same kind of row for the first time at once, in a process that has just started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# msgspec makes what it knows of a struct when it first meets it, and lets others use it half made: a crash
# of the process, which chDB's signal handlers turn into a server that hangs for ever. A pause stands for the switch of
# threads.
SCRIPT = """
import sys, threading, time, typing
import tocsin.app
from tocsin import queue
from tocsin.account import create_account
from tocsin.campaign.runs import insert_campaign, read_stored_spec
from tocsin.campaign.spec import read_spec
from tocsin.queue import Note, Recipients, Share
from tocsin.store.ledger import open_ledger

made = typing.ForwardRef.__init__

def make_slowly(*arguments, **options):
    time.sleep(0.001)
    return made(*arguments, **options)

def write(connection):
    question = {"event_name": "x", "from": 20240101, "to": 20240102}
    asked = {"name": "n", "where": question, "content": {"title": "t", "body": "b"}, "devices": ["ios"], "when": "now"}
    campaign = insert_campaign(connection, account.id, read_spec(asked, account, time.time()), time.time())
    queue.insert_run_chunks(connection, account_id=account.id, run_id=1, campaign_id=campaign, channel="push",
        shares={Share(expires_at=1.0): Recipients([(1, "ios")])}, now=0.0)
    [chunk] = queue.lease_due(connection, "x", 1.0, 60.0)
    chunk.notes[0] = Note(tries=1, code="503", not_before=1.0)
    queue.settle(connection, [chunk], 1.0, 60.0)
    return campaign, chunk.id

def read(kind, delay):
    time.sleep(delay)
    if kind == "spec":
        ledger.read_now(lambda connection: read_stored_spec(connection, account.id, campaign))
    else:
        ledger.read_now(lambda connection: queue.load(connection, chunk))

if sys.argv[2] == "write":
    ledger = open_ledger(sys.argv[1])
    account, _ = create_account(ledger, "a", "UTC", 0.0)
    print(account.id, *ledger.write_now(write))
else:
    ledger = open_ledger(sys.argv[1])
    account = tocsin.account.list_accounts(ledger)[0]
    campaign, chunk = int(sys.argv[3]), int(sys.argv[4])
    typing.ForwardRef.__init__ = make_slowly
    threads = [threading.Thread(target=read, args=(sys.argv[2], 0.005 * n)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""


def run(url: str, *arguments: str) -> list[str]:
    command = [sys.executable, "-c", SCRIPT, url, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"ended with {done.returncode}: {done.stderr}"
    return done.stdout.split()


def test_first_reads_side_by_side(tmp_path: Path) -> None:
    """Twenty threads read a campaign, and a chunk, that this process has never read: none of them meets half a type."""
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    _, campaign, chunk = run(url, "write")
    for kind in ("spec", "chunk"):
        run(url, kind, campaign, chunk)
