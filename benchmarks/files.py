"""Files through `tocsin import`, beside what only reads them into a table: DuckDB, and chDB itself."""

from __future__ import annotations

import csv
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.neighbours import two_accounts
from benchmarks.reading import Reading, print_progress
from benchmarks.trial import pick

PEOPLE = 50_000  # of events
FIRST = 1_767_225_600
EVENT = ("identity", "evtName", "ts", "Product", "Price", "Order")
PERSON = ("identity", "Name", "Email", "Phone", "Plan", "Age")
ONCE = "import sys, time, {module}\nstarted = time.perf_counter()\n{work}\nprint(time.perf_counter() - started)"
PEAK = (
    *(sys.executable, "-c"),
    "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:]).returncode; "
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)",
)  # in between: what a process held before it became another one counts, and here that is little
ALONE_SECONDS = 5.0
READERS = {
    "DuckDB": ("duckdb", "duckdb.connect(sys.argv[2]).execute(f\"CREATE TABLE t AS SELECT * FROM '{sys.argv[1]}'\")"),
    "chDB": (
        "chdb.session",
        "s = chdb.session.Session(sys.argv[2])\n"
        "s.query(f\"CREATE TABLE t ENGINE = MergeTree ORDER BY tuple() AS SELECT * FROM file('{sys.argv[1]}')\")",
    ),
}


def measure_files(folder: Path, records: int) -> list[Reading]:
    """Measure imports of files, each into a folder of its own and by a process of its own, whose start counts."""
    readings: list[Reading] = []
    for kind, name, file in (
        ("events", "events of a CSV file", write_csv(folder / "events.csv", EVENT, _events(records))),
        ("events", "events of a Parquet file", write_parquet(folder / "events.parquet", folder / "events.csv")),
        ("profiles", "profiles of a CSV file", write_csv(folder / "people.csv", PERSON, _people(records // 10))),
    ):
        rows = records if kind == "events" else records // 10
        others = {reader: _read(reader, file, folder / f"{reader}-{file.name}") for reader in READERS}
        seconds, memory = _import(kind, file, folder / f"import-{file.name}", rows)
        print_progress(f"{file.name}: {seconds:.1f} s, " + ", ".join(f"{k} {v:.1f} s" for k, v in others.items() if v))
        for reader, taken in others.items():
            if taken:
                readings.append(Reading(name, rows / seconds, "records/s", f"{reader} reading it", taken / seconds))
        readings.append(Reading(f"{name}, peak memory", memory, "MiB"))
    return readings


def _import(kind: str, file: Path, data: Path, rows: int) -> tuple[float, float]:
    """Return the seconds of an import into a new folder, and the most memory it held."""
    tocsin = (sys.executable, "-m", "tocsin")
    made = subprocess.run(  # noqa: S603 - our own command
        [*tocsin, "account", "create", "x", "--data", data], check=True, capture_output=True
    )
    account = json.loads(made.stdout)["account_id"]
    started = time.perf_counter()
    done = subprocess.run(  # noqa: S603 - our own command
        [*PEAK, *tocsin, "import", kind, file, "--account", account, "--data", data], check=False, capture_output=True
    )
    seconds = time.perf_counter() - started
    output, _, memory = done.stdout.decode().strip().rpartition("\n")
    _check(output, rows)
    return seconds, int(memory) / 1024


def _check(output: str, rows: int) -> None:
    if not output or json.loads(output) != {"processed": rows, "unprocessed": 0}:
        raise RuntimeError(f"{rows} rows, but the import said {output}")


def measure_beside(folder: Path, records: int) -> list[Reading]:
    """Measure `/1/send` of one account, alone and while another one's events of a CSV file are imported."""
    file = write_csv(folder / "beside.csv", EVENT, _events(records))
    with two_accounts() as both:
        end = time.monotonic() + ALONE_SECONDS
        alone = both.measure_while(lambda: time.monotonic() < end, ["send"])["send"]
        account = both.loud["X-CleverTap-Account-Id"]
        started = time.monotonic()
        with subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", "tocsin", "import", "events", file, "--account", account, "--data", both.data],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            beside = both.measure_while(lambda: process.poll() is None, ["send"])["send"]
            seconds = time.monotonic() - started
            _check(process.stdout.read() if process.stdout else "", records)
        if both.refused:
            raise RuntimeError(f"{both.refused} sends were refused")
    rate = records / seconds
    readings = [Reading("events of a CSV file, beside a server that sends", rate, "records/s")]
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        took, before = pick(beside, share) * 1000, pick(alone, share) * 1000
        readings.append(Reading(f"/1/send while it is imported, {name}", took, "ms", "alone", took / before))
    return readings


def _read(reader: str, file: Path, place: Path) -> float:
    """Return the seconds in which a reader makes a table of a file, its own start left out; 0 where it is not there."""
    module, work = READERS[reader]
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        return 0.0
    script = ONCE.format(module=module, work=work)
    command = [sys.executable, "-c", script, str(file), str(place)]
    done = subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - our own script
    return float(done.stdout)


def write_csv(file: Path, header: tuple[str, ...], rows: Iterator[tuple[object, ...]]) -> Path:
    """Write rows and return their file."""
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(header)
        writer.writerows(rows)
    return file


def write_parquet(file: Path, source: Path) -> Path:
    """Write the rows of a CSV file with their types, and return the new one."""
    import pyarrow.csv
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.csv.read_csv(source), file)
    return file


def _events(count: int) -> Iterator[tuple[object, ...]]:
    for n in range(count):
        yield (
            *(f"user-{n % PEOPLE}", ("Product viewed", "Charged")[n % 5 == 0], FIRST + n % 20_000_000),
            *(f"Product {n * 7 % 1000}", n * 13 % 20_000 / 100, f"order-{n % 300_000}"),
        )


def _people(count: int) -> Iterator[tuple[object, ...]]:
    for n in range(count):
        yield (
            *(f"customer-{n}", f"Person {n}", f"person{n}@example.com", f"+49151{10_000_000 + n}"),
            *(("gold", "silver", "free")[n % 3], 18 + n % 70),
        )
