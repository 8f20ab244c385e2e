"""A facts store that has seen more names of properties than anybody needs still takes events and answers questions."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

from conftest import THOROUGH

from tocsin.store.open_files import ENOUGH, describe_shortage, raise_open_files

# With so few open files as this process may have, each script has a store of its own. A block of over 10 MB would be
# a wide part by ClickHouse's default: thousands of files.
NAMES = """
import resource
import sys
from datetime import UTC, date, datetime

import msgspec

resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
from tocsin.store.facts import open_facts

facts = open_facts("chdb://" + sys.argv[1])
when = (date(2027, 1, 15), datetime(2027, 1, 15, 8, tzinfo=UTC))

def insert(start, names, rows, value):
    block = []
    for row in range(rows):
        props = {f"p{start + row * names + one}": value for one in range(names)} | {"Plan": "gold"}
        at = (*when[:1], row, *when[1:], start + row)
        block.append(("a", "E", *at, msgspec.json.encode(props).decode(), "{}"))
    facts.insert_now("event", block)

names = int(sys.argv[2])
insert(0, names // 20, 20, "v")
insert(200_000, 500, 20, "v" * 1100)
facts.command_now("OPTIMIZE TABLE event FINAL")
for name in ("Plan", "p77", f"p{names - 1}", "p200001"):
    sql = "SELECT count() FROM event WHERE account = {account:String} AND props.{name:Identifier}.:String != ''"
    print(facts.query_now(sql, {"account": "a", "name": name}))
facts.close()
"""


def test_names_without_number(tmp_path: Path) -> None:
    """With 1,024 open files blocks are stored, merged, and every property is found."""
    command = [sys.executable, "-c", NAMES, str(tmp_path / "facts"), "100000" if THOROUGH else "10000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["[(40,)]", "[(1,)]", "[(1,)]", "[(1,)]"]


def test_the_limit_of_open_files_is_raised() -> None:
    """To the hard limit; and one that is too low is told with what to do about it."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(before[1], 512), before[1]))
    try:
        assert raise_open_files() == before[1]
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert describe_shortage(ENOUGH) == ""
    assert "LimitNOFILE" in describe_shortage(ENOUGH - 1)
