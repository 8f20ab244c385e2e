"""The rows of `tocsin bench audience`: a year of events, made inside the store and exported for its rivals."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from benchmarks.reading import print_progress
from tocsin.account import Account
from tocsin.store.facts import Facts, open_facts

ACCOUNT = Account("bench", "bench", "UTC")
DAYS = 365
FIRST_DAY = "2025-07-01"
NOW = 1_782_820_800.0  # 2026-06-30 12:00 UTC, on the last of those days
BLOCK = 5_000_000  # events made by one statement: bounds its memory


class Filled(msgspec.Struct, frozen=True):
    """How long it took to make the rows and to merge them, in seconds, and how large they are on disk."""

    made: float
    merged: float
    megabytes: float


def fill(folder: Path, users: int, events: int) -> Filled:
    """Make the rows, merge them and export them.

    Parquet is for DuckDB; CSV and the store's own format, of a tenth of the people, for PostgreSQL and `copy_tenth`.
    """
    facts = open_facts(f"chdb://{folder / 'facts'}")
    started = time.perf_counter()
    fill_facts(facts, users, events)
    made = time.perf_counter() - started
    _merge(facts)
    merged = time.perf_counter() - started - made
    print_progress(f"merged in {merged:.0f} s; the rivals' rows are exported")
    _export(facts, folder, users // 10)
    filled = Filled(made, merged, size_of(facts))
    facts.close()
    return filled


def fill_facts(facts: Facts, users: int, events: int) -> None:
    """Make the rows."""
    started = time.perf_counter()
    facts.command_now(_make_profiles(users))
    for first in range(0, events, BLOCK):
        count = min(BLOCK, events - first)
        facts.command_now(_make_events(first, count, users, events))
        print_progress(f"{first + count:,} of {events:,} events made, {time.perf_counter() - started:.0f} s")


def copy_tenth(folder: Path) -> None:
    """Make a second store with a tenth of the people and their events."""
    facts = open_facts(f"chdb://{folder / 'tenth'}")
    for table in ("profile", "event"):
        facts.command_now(f"INSERT INTO {table} SELECT * FROM file('{folder / table}.native.lz4', 'Native')")
    _merge(facts)
    facts.close()


def _merge(facts: Facts) -> None:
    for table in ("event", "activity", "profile"):
        facts.command_now(f"OPTIMIZE TABLE {table} FINAL")


def size_of(facts: Facts) -> float:
    """Return what the live parts of a store take on disk, in MB; files of merged parts are removed minutes later."""
    sql = "SELECT sum(bytes_on_disk) FROM system.parts WHERE active AND database = currentDatabase()"
    [(size,)] = facts.query_now(sql, {})
    return float(size) / 1e6


def _pick(key: str, *values: object) -> str:
    """Return SQL that draws one of the values for each row by a hash of `n` and the key, each as likely."""
    return f"{list(values)}[cityHash64(n, '{key}') % {len(values)} + 1]"


def _text(sql: str) -> str:
    """Return SQL of a text as it lies in `props`: between two unit separators, which JSON escapes (store/props.py)."""
    return rf"""concat('"\\u001f', {sql}, '\\u001f"')"""


def _make_profiles(users: int) -> str:
    """Return SQL for profiles: of ten people six are reachable on Android, three on iOS, one on Windows."""
    place = ("berlin", "madrid", "mumbai", "lagos", "lima")
    country = ("germany", "spain", "india", "nigeria", "peru")
    return f"""
        INSERT INTO profile (account, user, version, android, ios, windows, email, latitude, longitude, props)
        SELECT '{ACCOUNT.id}', n, 1, {_pick("android", 1, 1, 1, 1, 1, 1, 2, 0, 0, 0)},
               {_pick("ios", 1, 1, 1, 2, 0, 0, 0, 0, 0, 0)}, {_pick("windows", 1, 0, 0, 0, 0, 0, 0, 0, 0, 0)}, 1,
               cityHash64(n, 'latitude') % 1200000 / 10000 - 60, cityHash64(n, 'longitude') % 3600000 / 10000 - 180,
               concat('{{"Customer Type":', {_text(_pick("type", "platinum", "gold", "silver", "silver"))},
                      ',"Email":', {_text("concat('user', toString(n), '@mail', toString(n % 7), '.example')")},
                      ',"Age":', toString(18 + cityHash64(n, 'age') % 60), '.0',
                      ',"City":', {_text(_pick("place", *place))},
                      ',"Country":', {_text(_pick("place", *country))}, '}}')
        FROM (SELECT number + 1 AS n FROM numbers({users}))"""


def _make_events(first: int, count: int, users: int, events: int) -> str:
    """Return SQL for events in the order of time, spread evenly over a year."""
    names = "'App Launched', h < 60, 'Product viewed', h < 70, 'Search', h < 80, 'Added To Cart', h < 85, 'Charged'"
    return f"""
        INSERT INTO event (account, name, day, user, at, id, props, raw)
        SELECT '{ACCOUNT.id}', multiIf(h < 40, {names}, concat('Event ', toString(intDiv(h - 85, 3) + 1))),
               toDate(at), cityHash64(n, 'user') % {users} + 1, at, n + 1,
               concat('{{"Amount":', amount, ',"Category":', {_text("category")}, ',"Quantity":', quantity, '.0}}'),
               concat('{{"Amount":', amount, ',"Category":"', category, '","Quantity":', quantity, '}}')
        FROM (SELECT number AS n, cityHash64(n, 'name') % 100 AS h,
                     toDateTime('{FIRST_DAY} 00:00:00', 'UTC') + intDiv(n * {DAYS * 86400}, {events}) AS at,
                     toDecimalString(cityHash64(n, 'amount') % 100000 / 100, 2) AS amount,
                     {_pick("category", "shoes", "books", "garden", "music")} AS category,
                     toString(cityHash64(n, 'quantity') % 5 + 1) AS quantity
              FROM numbers({first}, {count}))"""


def _export(facts: Facts, folder: Path, tenth: int) -> None:
    """Write the files of `fill`; the rivals' have plain typed columns and folded texts."""

    def text(key: str) -> str:
        return f"replaceAll(ifNull(props.`{key}`.:String, ''), char(31), '')"

    columns = {
        "event": f"toString(name) AS name, day, user AS user_id, props.Amount.:Float64 AS amount, "
        f"{text('Category')} AS category, props.Quantity.:Float64 AS quantity",
        "profile": "user AS user_id, android, ios, windows, email, latitude, longitude, "
        f"{text('Customer Type')} AS customer_type, {text('Email')} AS mail, props.Age.:Float64 AS age, "
        f"{text('City')} AS city, {text('Country')} AS country",
    }
    for table, plain in columns.items():
        order = "name, day, user_id" if table == "event" else "user_id"
        for path, format, what in (
            (f"{table}.parquet", "Parquet", f"{plain} FROM {table}"),
            (f"{table}.csv", "CSV", f"{plain} FROM {table} WHERE user <= {tenth} ORDER BY {order}"),
            (f"{table}.native.lz4", "Native", f"* FROM {table} WHERE user <= {tenth}"),
        ):
            facts.command_now(f"INSERT INTO FUNCTION file('{folder / path}', '{format}') SELECT {what}")
