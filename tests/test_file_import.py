"""Files that people have: dialects, encodings, packing, times, exports; and that columns are stored as records are."""

from __future__ import annotations

import asyncio
import csv
import gzip
import io
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import phonenumbers
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
import pytest
from click.testing import CliRunner
from conftest import THOROUGH, Caller, Server
from email_validator import EmailNotValidError, validate_email
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.both_stores import Opened, bring, look, look_at_people

from tocsin.account import Account, create_account
from tocsin.cli import tocsin
from tocsin.cli.cell_file import split_plain
from tocsin.cli.cell_time import UnreadTime, read_time
from tocsin.cli.csv_dialect import Dialect
from tocsin.cli.import_run import run_import
from tocsin.cli.line_source import Lines
from tocsin.cli.record_file import Block, Options, Wrong, read_file, to_records, type_cell
from tocsin.cli.record_store import Run, StoresStore, forget_place, make_batches
from tocsin.errors import Misconfigured
from tocsin.ingest import upload
from tocsin.ingest.address_column import read_addresses
from tocsin.ingest.column import Column, NumberCells, Texts, fill
from tocsin.ingest.event_columns import EventColumns
from tocsin.ingest.event_encoder import WRONG, Encoder
from tocsin.ingest.names import NameLimits
from tocsin.ingest.phone_number import find_normal, is_normal
from tocsin.ingest.profile import READERS, to_facts
from tocsin.ingest.property_column import PropertyColumn
from tocsin.ingest.record import read_email
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger
from tocsin.store.props import as_number, encode_props, encode_raw

pytest_plugins = ("engines",)

BERLIN = ZoneInfo("Europe/Berlin")
EVENTS = Options(kind="event", zone=BERLIN)
PROFILES = Options(kind="profile", zone=BERLIN)
ROOMY = NameLimits(512, 2048, 1024)
NOW = 1_790_000_000.0


def read(file: Path, options: Options = PROFILES) -> list[Any]:
    """All records of a file."""
    return [record for block in read_file(file, options).blocks for record in to_records(block, options)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("commas.csv", b"identity,Name,Age\nu1,Zo\xc3\xab,30\n"),
        ("semicolons.csv", b"identity;Name;Age\r\nu1;Zo\xc3\xab;30\r\n"),
        ("excel.csv", b"\xef\xbb\xbfsep=;\r\nidentity;Name;Age\r\nu1;Zo\xc3\xab;30\r\n"),
        ("quoted.csv", b'"identity"|"Name"|"Age"\n"u1"|"Zo\xc3\xab"|30\n\n'),
        ("tabs.tsv", b"identity\tName\tAge\nu1\tZo\xc3\xab\t30"),
        ("single.txt", b"'identity','Name','Age'\n'u1','Zo\xc3\xab','30'\n"),
        ("padded.csv", b"identity , Name, Age \nu1 , Zo\xc3\xab , 30\n,,\n"),
        ("latin.csv", b"identity;Name;Age\nu1;Zo\xeb;30\n"),
        ("utf16.csv", "identity\tName\tAge\r\nu1\tZoë\t30\r\n".encode("utf-16")),
        ("unmarked.csv", "identity,Name,Age\r\nu1,Zoë,30\r\n".encode("utf-16-le")),
        ("packed.csv.gz", gzip.compress(b"identity,Name,Age\nu1,Zo\xc3\xab,30\n", mtime=0)),
        ("packed.csv.zst", pa.compress(b"identity,Name,Age\nu1,Zo\xc3\xab,30\n", "zstd", asbytes=True)),
        ("lines.jsonl", b'\xef\xbb\xbf{"identity":"u1","Name":"Zo\xc3\xab","Age":30}\n\n'),
        ("list.json", b'[\n {"identity": "u1",\n  "Name": "Zo\xc3\xab", "Age": 30}\n]'),
        ("refused.csv", b"refused_line,refused_because,identity,Name,Age\n7,wrong,u1,Zo\xc3\xab,30\n"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_files_in_any_dialect(tmp_path: Path, name: str, content: bytes) -> None:
    """However it is written, it is the same person."""
    (tmp_path / name).write_bytes(content)
    assert read(tmp_path / name) == [{"type": "profile", "identity": "u1", "profileData": {"Name": "Zoë", "Age": 30}}]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-11-20T10:00:00Z", 1795168800),
        ("2026-11-20 11:00:00", 1795168800),
        ("2026-11-20 10:00 UTC", 1795168800),
        ("2026-11-20T12:00:00.250+02:00", 1795168800),
        ("2026-11-20 12:00:00 +0200", 1795168800),
        ("20.11.2026 11:00", 1795168800),
        ("20.11.2026, 11:00:00", 1795168800),
        ("20/11/2026 11:00:00", 1795168800),
        ("11/20/2026 11:00 AM", 1795168800),
        ("1795168800", 1795168800),
        ("1795168800.0", 1795168800),
        (1795168800.9, 1795168800),
        (1795168800000, 1795168800),
        ("1795168800000000", 1795168800),
        (1795168800_000000000, 1795168800),
        (20261120110000, 1795168800),
        ("2026-11-20", 1795129200),
        ("20261120", 1795129200),
        ("05/05/2026", 1777932000),
        ("2026/05/05", 1777932000),
        ("May 5 2026", 1777932000),
    ],
)
def test_times_as_people_write_them(value: Any, expected: int) -> None:
    """One moment in many spellings; a clock without a zone is the account's."""
    assert read_time(value, BERLIN) == expected


@pytest.mark.parametrize(
    "value",
    ["03/04/2026", "31.02.2026", "yesterday", "12:00", True, None, "", "0", -5, "99999999999999999999999", "1_0"],
)
def test_times_that_are_none(value: Any) -> None:
    """What may be two days, or is no time, is refused and not guessed."""
    with pytest.raises(UnreadTime):
        read_time(value, BERLIN)


def test_cells_are_what_they_spell() -> None:
    """Digits that no store holds as a number are a text; so is a number with a zero before it."""
    cells = ("12", "-1.5", "true", "007", "12345678901234567890", "1e999", "12,5", "nan", "-", "1E3", "twelve")
    assert [type_cell(one) for one in cells] == [
        *(12, -1.5, True, "007", "12345678901234567890", "1e999", "12,5", "nan", "-", 1000.0, "twelve")
    ]


def test_rows_without_cells_are_no_rows(tmp_path: Path) -> None:
    """However many there are, what comes after them is read, and its line is right."""
    file = tmp_path / "gaps.csv"
    file.write_text("identity,a\n" + "\n" * 1500 + ",\n" * 800 + 'u1,"x\ny"\n' + "\nu2,z")
    blocks = list(read_file(file, PROFILES).blocks)
    assert [line for block in blocks for line in block.lines] == [2302, 2305]
    assert [record["identity"] for record in read(file)] == ["u1", "u2"]


def test_headers_by_other_names(tmp_path: Path) -> None:
    """CleverTap's own names in any capitals, and any name by --map; both are said."""
    file = tmp_path / "p.csv"
    file.write_text("Customer,email,Plan,Junk\nu1,a@example.com,gold,x\n")
    options = Options(kind="profile", zone=BERLIN, mapping={"Customer": "identity", "Junk": ""})
    reading = read_file(file, options)
    records = [record for block in reading.blocks for record in to_records(block, options)]
    assert records == [{"type": "profile", "identity": "u1", "profileData": {"Email": "a@example.com", "Plan": "gold"}}]
    assert reading.notes == ["column email is taken as Email; --map email=email keeps it as it is."]


@pytest.mark.parametrize(
    ("content", "options", "sentence"),
    [
        (b"Name\nx\n", PROFILES, "no column that names a person"),
        (b"identity,x\nu,1\n", EVENTS, "no column evtName"),
        (b"identity,x,x\nu,1,2\n", PROFILES, "two columns x"),
        (b"identity,x\nu,1\n", Options(kind="profile", zone=BERLIN, mapping={"y": "z"}), "no column y"),
        (b"identity,x\nu,\xc3\xa9\nv,\xe9\n", PROFILES, "line 3"),
        (b'identity,x\nu,1\nv,"a"b\n', PROFILES, "line 3"),
        (b"identity,x\nu,1\n", Options(kind="profile", zone=BERLIN, encoding="klingon"), "no encoding"),
    ],
)
def test_files_that_cannot_be_understood(tmp_path: Path, content: bytes, options: Options, sentence: str) -> None:
    """The sentence says which file, which line, and what to do."""
    (tmp_path / "f.csv").write_bytes(content)
    with pytest.raises(Misconfigured, match=sentence):
        read(tmp_path / "f.csv", options)


@pytest.mark.parametrize("zone", ["America/Vancouver", "Europe/Berlin", "Australia/Lord_Howe"])
def test_a_clock_of_parquet_is_that_of_a_text(tmp_path: Path, zone: str) -> None:
    """The times of a table without a zone are the account's, by the same law, in the hours that are left out and come
    twice too."""
    days = [
        datetime(2026, 11, 1),
        datetime(2026, 3, 29),
        datetime(2026, 10, 25),
        datetime(2026, 4, 5),
        datetime(1960, 5, 1),
    ]
    clocks = [day + timedelta(minutes=10 * step) for day in days for step in range(24)]
    columns = {"identity": ["u"] * len(clocks), "Seen": pa.array(clocks, pa.timestamp("s"))}
    pa.parquet.write_table(pa.table(columns), tmp_path / "p.parquet")
    found = read(tmp_path / "p.parquet", Options(kind="profile", zone=ZoneInfo(zone)))
    seen = [record["profileData"]["Seen"] for record in found]
    assert seen == [f"$D_{int(clock.replace(tzinfo=ZoneInfo(zone)).timestamp())}" for clock in clocks]


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    """Times are times, whole numbers that gaps made floats are whole, and nothing is nothing."""
    moment = pa.array([1795168800_000, None], pa.timestamp("ms"))
    columns = {
        "identity": pa.array([5.0, 6.0]),
        "evtName": pa.array(["A", "B"]).dictionary_encode(),
        "ts": moment,
        "count": pa.array([3.0, None]),
        "price": pa.array([1.5, float("nan")]),
        "day": pa.array([20777, None], pa.date32()),
        "at": moment.cast(pa.timestamp("s", "UTC")),
        "tags": pa.array([["a"], None]),
        "clock": pa.array([3_725, None], pa.time32("s")),
        "took": pa.array([90, None], pa.duration("s")),
        "uuid": pa.array([bytes(range(4)), None], pa.binary(4)),
    }
    pa.parquet.write_table(pa.table(columns), tmp_path / "e.parquet")
    first, second = read(tmp_path / "e.parquet", EVENTS)
    berlin = 1795168800 - 3600  # the time has no zone
    data = {"count": 3, "price": 1.5, "day": "$D_1795129200", "at": "$D_1795168800", "tags": ["a"]}
    data |= {"clock": "01:02:05", "took": "PT90S", "uuid": "00010203"}
    assert first == {"type": "event", "identity": 5, "evtName": "A", "ts": berlin, "evtData": data}
    assert second == {"type": "event", "identity": 6, "evtName": "B", "evtData": {}}


def test_exports_of_clevertap(tmp_path: Path) -> None:
    """What its exports answer comes in without a map: events, profiles, and the tokens in profiles."""
    event = {"profile": {"objectId": "d1", "identity": "u1", "profileData": {"a": 1}}, "ts": 20261120110000}
    person = {
        "identity": "u1",
        "email": "a@example.com",
        "profileData": {"Plan": "gold"},
        "platformInfo": [{"platform": "Android", "push_token": "t" * 30, "objectId": "d1"}, {"platform": "Web"}],
    }
    file = tmp_path / "x.json"
    file.write_bytes(msgspec.json.encode({"status": "success", "records": [event | {"event_props": {"v": "x"}}]}))
    assert read(file, Options(kind="event", zone=BERLIN, event="Seen")) == [
        {
            "type": "event",
            "identity": "u1",
            "objectId": "d1",
            "ts": 1795168800,
            "evtName": "Seen",
            "evtData": {"v": "x"},
        }
    ]
    file.write_bytes(msgspec.json.encode({"status": "success", "records": [person]}))
    assert read(file) == [
        {
            "type": "profile",
            "identity": "u1",
            "objectId": "d1",
            "profileData": {"Email": "a@example.com", "Plan": "gold"},
        }
    ]
    assert read(file, Options(kind="token", zone=BERLIN)) == [
        {"type": "token", "objectId": "d1", "tokenData": {"id": "t" * 30, "type": "fcm"}}
    ]


# --- columns and records -------------------------------------------------------------------------------------------


def rows_of_many_kinds() -> list[list[str]]:
    """Rows of a CSV file that is right, wrong and odd in many ways; some of them twice, near and far."""
    rows = [
        ["u1", "", "Charged", "1795000000", "12.50", "Zoë", "", "x"],
        ["u1", "", "Charged", "1795000000", "12.50", "Zoë", "", "x"],
        ["", "dev1", "Charged", "2026-11-20 10:00:00", "0", 'it\'s "quoted" \\ \t', "true", ""],
        ["u2", "dev1", "Viewed", "1795000000123", "-0.0", "$D_1795000000", "12345678901234567890", "007"],
        ["u3", "dev1", "Viewed", "20.11.2026", "1e3", "5", "nan", "false"],
        ["u2", "dev1", "App Launched", "1795000001", "1e999", "日本", "-", "1.0"],
        ["", "", "Charged", "1795000000", "1", "nobody", "", ""],
        ["u4", "", "", "1795000000", "1", "no name", "", ""],
        ["u4", "", "Charged", "03/04/2026", "1", "ambiguous", "", ""],
        ["u4", "", "Charged", "1795000000", "1", "y" * 2049, "", ""],
        ["u" * 1025, "", "Charged", "1795000000", "1", "long", "", ""],
        ["u5", "", "Charged", "1795000000", "1", "with a \0 in it", "", ""],
        ["u5", "", "N" * 481, "1795000000", "1", "long", "", ""],
        ["u6@example.com", "", "Charged", "", "1", "no time", "", ""],
        ["+4915112345678", "", "Charged", "1795000000", "1", "İ ß \u1e9e", "\x1f", "\x1e"],
        ["u1", "", "Charged", "1795000000", "", "", "", ""],
        ["New@Example.com", "", "Charged", "1795000000", "", "", "", ""],
    ]
    many = [
        [f"m{n % 50}", "", "Seen", str(1_795_000_000 + n % 700), str(n % 3), "Desk lamp", "", ""] for n in range(1500)
    ]
    return [
        *rows,
        *many,
        *rows,
        ["u1", "", "Charged", "1795000000", "1"],
        ["u1", "", "Charged", "1", "", "", "", "", "9"],
    ]


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    file = tmp_path / "mixed.csv"
    with file.open("w", encoding="utf-8", newline="") as out:
        csv.writer(out).writerows(
            [["identity", "objectId", "evtName", "ts", "a", "b.c", "ünï-code", "d"], *rows_of_many_kinds()]
        )
    return file


async def by_columns(
    opened: Opened, account: Account, file: Path, options: Options, limits: NameLimits
) -> dict[int, Wrong]:
    return await bring(StoresStore(opened, account, options, limits), file, options, NOW)  # type: ignore[arg-type]


async def by_records(
    opened: Opened, account: Account, file: Path, options: Options, limits: NameLimits
) -> dict[int, Wrong]:
    refused: dict[int, Wrong] = {}
    row = 0
    for block in read_file(file, options).blocks:
        batches, wrong = make_batches(block, row, Run("x", NOW), options)
        for batch in batches:
            answer = await upload(
                opened.ledger, opened.facts, account, {"d": batch.records}, NOW, system=True, limits=limits
            )
            for number, one in zip(answer.numbers, answer.unprocessed, strict=True):
                sentence = forget_place(one["error"].rpartition("Skipped record number : ")[0])
                wrong[batch.places[number]] = Wrong(one["code"], sentence)
        refused |= {row + place: one for place, one in wrong.items()}
        row += len(block)
    return refused


@pytest.mark.parametrize("limits", [ROOMY, NameLimits(2, 3, 3)], ids=["roomy", "too many names"])
def test_columns_are_stored_as_records_are(store: Ledger, facts: Facts, mixed: Path, limits: NameLimits) -> None:
    """The same rows by both ways: the same facts, the same ledger, the same refusals; and twice is once."""
    opened = Opened(store, facts)
    said, refused = [], []
    for way in (by_columns, by_records):
        account, _ = create_account(store, "x", "Europe/Berlin", NOW)
        before = [{"type": "profile", "identity": "u4", "objectId": "dev1", "profileData": {"Email": "u6@example.com"}}]
        asyncio.run(upload(store, facts, account, {"d": before}, NOW))
        refused.append(asyncio.run(way(opened, account, mixed, EVENTS, limits)))
        said.append(look(store, facts, account))
        asyncio.run(way(opened, account, mixed, EVENTS, limits))
        assert look(store, facts, account)["event"] == said[-1]["event"]
    for what, rows in said[0].items():
        assert rows == said[1][what], what
    assert refused[0] == refused[1]
    assert len(refused[0]) >= 12
    assert len(said[0]["event"]) > 700


PEOPLE = st.fixed_dictionaries(
    {
        "identity": st.sampled_from(["u1", "u2", "u3", "u4", "a@example.com", "+4915112345678", "", "x" * 1025]),
        "Email": st.sampled_from(["", "", "a@example.com", "A@Example.com", "b@example.com", "1@zoë.de", " ", "none"]),
        "Phone": st.sampled_from(["", "", "+4915112345678", "4915112345678", "+49 30 1234567", "+123", "12"]),
        "Name": st.sampled_from(["", "Zoë", "Desk lamp", "$D_5", "x" * 2049, "5"]),
        "Age": st.sampled_from(["", "5", "500"]),
        "Gender": st.sampled_from(["", "male", "M", "x"]),
        "Latitude": st.sampled_from(["", "52.5", "91"]),
        "Longitude": st.sampled_from(["13.4", ""]),
        "Tz": st.sampled_from(["", "Europe/Berlin"]),
        "MSG-email": st.sampled_from(["", "false", "true"]),
        "Plan.x": st.sampled_from(["gold", "-0.0", "007"]),
    }
)


@settings(max_examples=12 if THOROUGH else 5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(PEOPLE, min_size=1, max_size=12), limits=st.sampled_from([ROOMY, ROOMY, NameLimits(2, 3, 0)]))
def test_people_of_a_file_are_stored_as_uploaded(
    store: Ledger, facts: Facts, tmp_path: Path, rows: list[dict[str, str]], limits: NameLimits
) -> None:
    """By columns or record by record: the same people, and the same rows refused; and once more changes nothing."""
    file = tmp_path / "people.csv"
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    opened = Opened(store, facts)
    said: list[Any] = []
    for way in (by_columns, by_records):
        account, _ = create_account(store, "x", "Europe/Berlin", NOW)
        before = [{"type": "profile", "identity": "u4", "profileData": {"Email": "b@example.com"}}]
        asyncio.run(upload(store, facts, account, {"d": before}, NOW))
        refused = asyncio.run(way(opened, account, file, PROFILES, limits))
        said.append((look_at_people(store, facts, account), refused))
    assert said[0] == said[1]


def test_opt_outs_in_a_file_go_record_by_record(store: Ledger, facts: Facts, tmp_path: Path) -> None:
    """«Channel Unsubscribed» opts an address out, by columns as by records."""
    file = tmp_path / "e.csv"
    file.write_text(
        "identity,evtName,ts,Campaign Type,Identity\n"
        "u1,Seen,1795000000,,\nu1,Channel Unsubscribed,1795000000,Email,A@Example.com\n"
    )
    account, _ = create_account(store, "x", "UTC", NOW)
    asyncio.run(by_columns(Opened(store, facts), account, file, Options(kind="event", zone=BERLIN, mapping={}), ROOMY))
    said = look(store, facts, account)
    assert said["unsubscribed"] == [("email", "a@example.com")]
    assert len(said["event"]) == 2


def test_a_blank_name_is_none() -> None:
    """Spaces in a column of devices (Parquet keeps them) name nobody, as in an upload."""
    assert Encoder(NOW).read_text("objectId", "  ") is None


CELLS = st.one_of(
    st.text(max_size=12),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.booleans(),
    st.sampled_from(["$D_5", "A5", "x" * 2049]),
)


@settings(max_examples=150 if THOROUGH else 40, deadline=None)
@given(st.text(max_size=6), CELLS)
def test_cells_are_encoded_as_properties_are(key: str, value: Any) -> None:
    """What the encoder adds for a cell is what `upload` makes of the property."""
    encoder = Encoder(NOW)
    found = encoder.encode_cell(key, value)
    record = {"type": "event", "identity": "u", "evtName": "e", "evtData": {key: value}}
    if found is WRONG:
        assert encoder.explain(record) is not None
    else:
        assert found == (encode_raw({key: value})[1:-1], encode_props(to_facts({key: value}))[1:-1])
        assert encoder.explain(record) is None


SPELLED = st.one_of(
    st.from_regex(r"-?[0-9]{1,16}(\.[0-9]{1,6})?", fullmatch=True),
    st.floats(allow_nan=False).map(str),
    st.text("aZ '\"\\é.0", max_size=5),
    st.sampled_from(["true", "True", "true ", "false  ", "-0", "0", "1e5", "$D_5", "007", "12:30", "5 ", "x" * 512]),
    st.sampled_from(["x" * 513, "x" * 2049]),
)


@settings(max_examples=100 if THOROUGH else 30, deadline=None)
@given(st.sampled_from(["a", "Customer Type", "é.b"]), st.lists(st.one_of(st.none(), SPELLED), min_size=1, max_size=12))
def test_texts_are_encoded_at_once_as_one_by_one(key: str, texts: list[str | None]) -> None:
    """What a column of texts adds to `raw` and `props` is what its cells add."""
    encoder, count = Encoder(NOW), len(texts)
    column = Column(Texts(pa.array(texts, pa.string())), pa.array(range(count), pa.int32()))
    for read, kept in ((type_cell, column), (lambda cell: cell, column), (lambda cell: cell, to_numbers(texts))):
        events = EventColumns(
            range(count), {"identity": fill("u", count)}, fill_times(count), fill("e", count), {key: kept}, read
        )
        encoded, wrong = encoder.encode(events)
        found = encoded.props[key]
        compare_cells([encoder.encode_cell(key, None if cell == "" else read(cell)) for cell in kept], found, wrong)


def compare_cells(cells: list[tuple[str, str | None]], found: PropertyColumn, wrong: list[int]) -> None:
    """Assert that a column says what its cells say, and that those of the places that are wrong are."""
    for place, cell in enumerate(cells):
        assert (cell is WRONG) == (place in wrong)
        if cell is not WRONG:
            raw, props = cell
            assert (found.raw[place].as_py() or "") == raw
            assert look_up(found, place) == json.loads(f"{{{props}}}")


ADDRESSES = st.one_of(
    st.builds(
        "{}@{}.{}".format,
        st.sampled_from(["a", "A.b+c", "1-2", "a..b", "a" * 64, "a" * 65, "ä", " x"]),
        st.sampled_from(["b", "B-c", "b.b" * 60, "b" * 31, "-b", "x.test"]),
        st.sampled_from(["de", "DE", "x", "Test", "local", "onion", "de "]),
    ),
    st.builds(
        "{}{}{}".format,
        st.sampled_from(["+", "+", "+", ""]),
        st.sampled_from([*sorted(phonenumbers.COUNTRY_CODE_TO_REGION_CODE), 0, 999]),
        st.text("0123456789", min_size=2, max_size=14),
    ),
    st.sampled_from([None, "", " ", "+", "+a", "1@zoë.de", "+4915112345678 ", "5", "ﬁ@x.de"]),
)


@settings(max_examples=100 if THOROUGH else 30, deadline=None)
@given(st.sampled_from(["Email", "Phone"]), st.lists(ADDRESSES, min_size=1, max_size=12), st.booleans())
def test_addresses_are_read_at_once_as_one_by_one(key: str, texts: list[str | None], spelled: bool) -> None:
    """What a column of addresses adds, and who they name, is what its cells say."""
    encoder = Encoder(NOW, "profile")
    read = type_cell if spelled else (lambda cell: cell)
    column = Column(Texts(pa.array(texts, pa.string())), pa.array(range(len(texts)), pa.int32()))
    props, fine = encoder.encode_properties({key: column}, read)
    right = [True] * len(texts) if isinstance(fine, pa.Scalar) else fine.to_pylist()
    wrong = [place for place, one in enumerate(right) if not one]
    compare_cells([encoder.encode_cell(key, read(cell)) for cell in texts], props[key], wrong)
    assert read_addresses(key, column.values, read).to_pylist() == [READERS[key](read(cell)) or None for cell in texts]
    normal = [text is not None and is_normal(text) for text in texts]
    assert pc.fill_null(find_normal(column.values.array), False).to_pylist() == normal  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["evtName", "identity"])
def test_names_are_checked_at_once_as_one_by_one(kind: str) -> None:
    """A column of texts alone, which Arrow looks at, has the limits that a record has."""
    names = [letter * count for letter in "xé" for count in (1, 240, 241, 480, 481, 512, 513, 1024, 1025)]
    column = Column(Texts(pa.array(names)), pa.array(range(len(names)), pa.int32()))
    columns = {"evtName": fill("e", len(names)), "identity": fill("u", len(names)), kind: column}
    rows, at = range(len(names)), fill_times(len(names))
    events = EventColumns(rows, {"identity": columns["identity"]}, at, columns["evtName"], {}, lambda cell: cell)
    encoder = Encoder(NOW)
    records = [{"type": "event", "identity": "u", "evtName": "e", kind: name} for name in names]
    refused = [place for place, record in enumerate(records) if encoder.explain(record) is not None]
    assert encoder.encode(events)[1] == refused
    assert refused


def to_numbers(texts: list[str | None]) -> Column:
    """The numbers that texts spell, as Parquet has them."""
    values = [None if one is None else as_number(one) for one in texts]
    return Column(NumberCells(pa.array(values, pa.float64())), pa.array(range(len(texts)), pa.int32()))


def fill_times(count: int) -> Any:
    return pa.array([1_790_000_000] * count, pa.int64())


def look_up(found: PropertyColumn, place: int) -> dict[str, Any]:
    """The paths of a cell that have a value."""
    paths = {}
    for name, path in found.paths.items():
        for values in (path.texts, path.numbers, path.lists):
            if values is not None and values[place].is_valid:
                paths[name] = values[place].as_py()
    return paths


PIECES = st.lists(st.sampled_from(["a", "é", "\n", "\r\n", "€b"]), max_size=40).map("".join)


@settings(max_examples=100 if THOROUGH else 30, deadline=None)
@given(PIECES, st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "windows-1252"]), st.lists(st.integers(0, 3)))
def test_lines_are_taken_as_bytes_or_as_texts(text: str, encoding: str, takes: list[int]) -> None:
    """Lines taken in blocks and one by one, in turns, are the lines of the file."""
    lines = Lines(io.BytesIO(text.encode(encoding)), encoding)
    found = ""
    for most in takes:
        taken = lines.take(most).decode() if most else next(lines, "")
        assert taken.count("\n") <= max(most, 1)
        found += taken
    assert found + "".join(lines) == text


@settings(max_examples=300 if THOROUGH else 60, deadline=None)
@given(
    st.lists(st.lists(st.text("ab ;é\t\0\ufeff", max_size=3), min_size=2, max_size=2), min_size=1, max_size=4),
    st.sampled_from(["", *"\r\n\"'"]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_plain_rows_are_read_as_others(rows: list[list[str]], odd: str, end: str) -> None:
    """What Arrow reads of lines is what the csv module reads, or nothing."""
    text = end.join(",".join(row) for row in rows)
    lines = io.StringIO(text + odd + end, newline="").readlines()
    found = split_plain("".join(lines).encode(), Dialect("utf-8", ",", '"'), 2)
    if found is not None:
        assert [*map(list, zip(*found, strict=True))] == list(csv.reader(lines))
    else:
        assert odd or "" in [row[0] for row in rows] or text.startswith("\ufeff")


@settings(max_examples=150 if THOROUGH else 40, deadline=None)
@given(st.from_regex(r"[A-Za-z0-9._+-]{1,8}@([a-z0-9-]{1,5}\.){1,2}([a-z]{1,4}|test|local|invalid)", fullmatch=True))
def test_plain_addresses_are_read_as_others(address: str) -> None:
    """The short way to an address says what the library says."""
    try:
        known = validate_email(address, check_deliverability=False, test_environment=True).normalized.lower()
    except EmailNotValidError:
        known = ""
    assert read_email(address) == known


@settings(max_examples=400 if THOROUGH else 80, deadline=None)
@given(
    st.one_of(
        st.sampled_from(sorted(phonenumbers.COUNTRY_CODE_TO_REGION_CODE)).flatmap(
            lambda code: st.from_regex(rf"\+{code}[0-9]{{3,13}}", fullmatch=True)
        ),
        st.from_regex(r"\+[0-9]{5,16}", fullmatch=True),
    )
)
def test_plain_numbers_are_read_as_others(text: str) -> None:
    """The short way to a phone number says what the library says."""
    if is_normal(text):
        number = phonenumbers.parse(text)
        assert phonenumbers.is_possible_number(number)
        assert phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164) == text


# --- the command ---------------------------------------------------------------------------------------------------


def run(server: Server, caller: Caller, *arguments: str) -> Any:
    """Run the command beside the server of the session."""
    given = ("--data", str(server.data), "--account", caller.account_id)
    return CliRunner().invoke(tocsin, ["import", *arguments, *given])


def test_refused_rows_are_beside_their_file(server: Server, caller: Caller, tmp_path: Path) -> None:
    """With line and reason; mended, that file is imported, and what is refused no more is gone."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.csv").write_text(
        'identity;Note;Email\nu1;"two\nlines";a@example.com\n\nu2;x;nonsense\nu3;x;c@example.com;9\n'
    )
    (folder / "b.jsonl").write_text('{"identity":"u4","Email":"d@example.com"}\n{no\n')
    done = run(server, caller, "profiles", str(folder))
    assert (done.exit_code, json.loads(done.stdout)) == (1, {"processed": 2, "unprocessed": 3})
    refused = folder / "a.csv.refused.csv"
    with refused.open(newline="") as rows:
        found = list(csv.reader(rows))
    assert found[0] == ["refused_line", "refused_because", "identity", "Note", "Email"]
    assert [row[0] for row in found[1:]] == ["5", "6"]
    assert "Email is not valid" in found[1][1]
    assert "4 cells" in found[2][1]
    assert json.loads((folder / "b.jsonl.refused.jsonl").read_text())["refused_line"] == 2
    refused.write_text(refused.read_text().replace("nonsense", "b@example.com"))
    assert json.loads(run(server, caller, "profiles", str(refused)).stdout) == {"processed": 2, "unprocessed": 0}


def test_dry_run_stores_nothing(server: Server, caller: Caller, tmp_path: Path) -> None:
    """It shows what would become of the rows, what looks odd, and what would be refused."""
    file = tmp_path / "p.csv"
    file.write_text("identity;mail;Sum\nu1;a@example.com;12,50\nu2;b@example.com;7\n;;9\n")
    done = run(server, caller, "profiles", str(file), "--dry-run")
    assert done.exit_code == 1
    assert "Sum: 12,50 is taken as a text" in done.stdout
    assert "no row has Email" in done.stdout
    assert "first line 4: Identity is missing" in done.stdout
    assert json.loads(run(server, caller, "profiles", str(file), "--map", "mail=Email").stdout) == {
        "processed": 2,
        "unprocessed": 1,
    }


@pytest.mark.parametrize("failure", [RuntimeError, asyncio.CancelledError], ids=["failed", "interrupted"])
def test_what_comes_behind_a_failure_is_taken_again(tmp_path: Path, failure: type[BaseException]) -> None:
    """Blocks are stored side by side. One that failed, or was waited for when Ctrl-C came, is not passed over by those
    behind it: the same command stores every row."""
    file, stored = tmp_path / "people.jsonl", set[int]()
    file.write_bytes(b"\n".join(msgspec.json.encode({"identity": f"u{n}", "Name": "x"}) for n in range(30_000)))
    account = Account("ID", "x", "UTC")

    class Side:
        """Stores blocks in any order; the second one fails once."""

        broken = True

        async def take(self, block: Block, first: int, _: Run) -> asyncio.Future[dict[int, Wrong]]:
            return asyncio.ensure_future(self.store(first, len(block)))

        async def store(self, first: int, count: int) -> dict[int, Wrong]:
            if self.broken and first == count:
                self.broken = False
                raise failure
            stored.update(range(first, first + count))
            return {}

    side = Side()
    with pytest.raises(failure):
        asyncio.run(run_import([file], PROFILES, account, tmp_path, side, restart=False))
    assert len(stored) < 30_000
    asyncio.run(run_import([file], PROFILES, account, tmp_path, side, restart=False))
    assert stored == {*range(30_000)}


def test_an_import_goes_on_where_it_stopped(
    store: Ledger, facts: Facts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken off in the middle, also between a batch and the note of it, `$incr` counts once."""
    file = tmp_path / "p.jsonl"
    rows = [
        {"type": "profile", "identity": f"u{n % 100}", "profileData": {"Visits": {"$incr": 1}}} for n in range(2100)
    ]
    file.write_bytes(b"\n".join(map(msgspec.json.encode, rows)))
    account, _ = create_account(store, "x", "UTC", NOW)

    def go(**given: Any) -> tuple[int, int]:
        target = StoresStore(Opened(store, facts), account, PROFILES, ROOMY)  # type: ignore[arg-type]
        return asyncio.run(run_import([file], PROFILES, account, tmp_path, target, restart=False, **given))

    class Stopped(Exception):  # noqa: N818
        pass

    def stop(*_: Any) -> None:
        raise Stopped

    for _ in range(2):
        with monkeypatch.context() as patched:
            patched.setattr("tocsin.cli.import_run._File.note", stop)
            with pytest.raises(Stopped):
                go()
    assert go() == (2100, 0)
    said = look(store, facts, account)
    visits = [json.loads(profile)["Visits"] for _, profile, *_ in said["user"]]
    assert visits == [21] * 100
    assert not list((tmp_path / "imports").iterdir())
