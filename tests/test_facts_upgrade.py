"""A facts store that an earlier version made: opened by this one it has today's columns, and what was in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support.old_facts import OLD

# chDB takes one folder a process, so each store has a process of its own.
LOOK = """
import sys
from tocsin.store.facts import open_facts

facts = open_facts("chdb://" + sys.argv[1])
account = {"account": "a"}
for sql in (
    "SELECT user, version, zone, reach FROM profile FINAL WHERE account = {account:String} ORDER BY user",
    "SELECT outcome, variant FROM outcome FINAL WHERE account = {account:String} ORDER BY chunk",
    "SELECT raw, props.Variant FROM event FINAL WHERE account = {account:String} ORDER BY id",
):
    print(facts.query_now(sql, account))
sql = "SELECT name FROM system.tables WHERE engine_full LIKE '%min_bytes_for_wide_part = 67108864%' ORDER BY name"
print(facts.query_now(sql, {}))
facts.close()
"""

FILL = """
import sys
from tocsin.store.facts import open_facts

facts = open_facts("chdb://" + sys.argv[1])
from datetime import UTC, date, datetime
at = (date(2027, 1, 15), datetime(2027, 1, 15, 8, tzinfo=UTC))
facts.insert_now("profile", [("a", 2, 1, 1, 0, 0, 0, 0, 0, 0.0, 0.0, "Asia/Kolkata", "{}")])
facts.insert_now("outcome", [("a", 7, 2, 0, 2, "ios", "push", "accepted", "", "", "Größe B", *at)])
facts.command_now("INSERT INTO profile (account, user, version, props) VALUES ('a', 3, 1, '{}')")
facts.close()
"""


def run(script: str, folder: Path) -> list[str]:
    """The lines that a script prints of the store in a folder."""
    command = [sys.executable, "-c", script, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


def test_a_store_of_before(tmp_path: Path) -> None:
    """Nobody's time zone is known until it is copied, whoever writes the row; what was sent has the variant that was
    sent, from now on. Opened once more nothing changes."""
    folder = tmp_path / "facts"
    run(OLD, folder)
    old = ["[(1, 3, '?', 1)]", "[('accepted', '')]", "[('{\"Variant\":\"default\"}', '\\x1fdefault\\x1f')]"]
    assert run(LOOK, folder) == [*old, "[('event',), ('profile',)]"]
    run(FILL, folder)
    new = '{"Campaign id":7,"Variant":"Größe B","Channel":"push","Platform":"ios","Tag group":""}'
    for _ in range(2):
        profiles, outcomes, events, _ = run(LOOK, folder)
        assert profiles == "[(1, 3, '?', 1), (2, 1, 'Asia/Kolkata', 1), (3, 1, '?', 0)]"
        assert outcomes == "[('accepted', ''), ('accepted', 'Größe B')]"
        default = "('{\"Variant\":\"default\"}', '\\x1fdefault\\x1f')"
        assert events == f"[{default}, ({new!r}, '\\x1fgrösse b\\x1f')]"
