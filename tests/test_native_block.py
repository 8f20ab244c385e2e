"""Blocks of the store's own format: what they hold is what the same rows are as text."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from tocsin.store.facts import COLUMNS, Facts
from tocsin.store.native_block import (
    SHORT,
    JsonPath,
    encode_block,
    encode_json,
    encode_numbers,
    encode_texts,
    prefix_texts,
)

pytest_plugins = ("engines",)

DAY, AT = 20_000, 1_728_000_000
ASKED = (
    "SELECT name, toString(day), user, toUnixTimestamp(at), id, toJSONString(props), "
    "toString(JSONAllPathsWithTypes(props)), raw FROM event WHERE account = {account:String} ORDER BY user"
)


def make_path(values: Sequence[Any]) -> JsonPath:
    """A path of values, one a row; the last place is of those that have none."""
    chosen = [
        pa.array([*(one if isinstance(one, kind) else None for one in values), None], arrow)
        for kind, arrow in ((str, pa.string()), (float, pa.float64()), (list, pa.list_(pa.float64())))
    ]
    codes = [len(values) if one is None else place for place, one in enumerate(values)]
    return JsonPath(chosen[0], chosen[1], chosen[2], pa.array(codes, pa.int32()))


def test_a_block_is_what_its_rows_are_as_text(facts: Facts) -> None:
    """Texts of any length, numbers, lists, nothing; and more paths than have columns of their own."""
    rows: list[dict[str, Any]] = [
        {"a": 5.0, "Customer Type": "\x1fgold\x1f"},
        {"a": "\x1f7\x1f", "#a": [7.0]},
        {},
        {"a": "é" * SHORT, "#a": [1.0, -2.5, 1e300]},
        {f"k{number}": float(number) for number in range(1500)},
    ]
    count = len(rows)
    paths = {name: make_path([row.get(name) for row in rows]) for name in {key: 0 for row in rows for key in row}}
    texts = [json.dumps(row, ensure_ascii=False) for row in rows]
    columns = [
        encode_texts(pa.array(["block"] * count)),
        encode_texts(pa.array(["Seen"] * count)),
        encode_numbers(pa.array([DAY] * count, pa.uint16()), "Date"),
        encode_numbers(pa.array(range(count), pa.uint32()), "UInt32"),
        encode_numbers(pa.array([AT] * count, pa.uint32()), "DateTime('UTC')"),
        encode_numbers(pa.array([2**64 - 1 - one for one in range(count)], pa.uint64()), "UInt64"),
        encode_json(paths),
        encode_texts(pa.array(texts)),
    ]
    asyncio.run(facts.insert_block("event", encode_block(COLUMNS["event"], columns, count)))
    facts.command_now(
        "INSERT INTO event SELECT 'text', name, day, user, at, id, CAST(raw, 'JSON'), raw FROM event "
        "WHERE account = 'block'"
    )
    found = facts.query_now(ASKED, {"account": "block"})
    assert found == facts.query_now(ASKED, {"account": "text"})
    assert [json.loads(row[5]) for row in found] == rows


def test_lengths_of_texts_are_written_before_them() -> None:
    """Whether by the table or one by one, a slice of an array or all of it."""
    for longest in (3, SHORT + 1):
        texts = pa.array(["skipped", "", None, "é", "x" * longest]).slice(1)
        found = prefix_texts(texts).to_pylist()
        assert found[:3] == [b"\0", None, b"\x02\xc3\xa9"]
        assert found[3].endswith(b"x" * longest)


async def test_blocks_of_a_moment_are_inserted_together(facts: Facts) -> None:
    """Each with its own paths; and one that cannot be read is its caller's alone to know."""
    blocks = [make_events(number, {f"a{number}": float(number)}) for number in range(5)]
    blocks[3] = blocks[3][:-5]
    found = await asyncio.gather(*(facts.insert_block("event", one) for one in blocks), return_exceptions=True)
    assert [one is None for one in found] == [True, True, True, False, True]
    rows = facts.query_now(ASKED, {"account": "together"})
    assert {row[2]: json.loads(row[5]) for row in rows} == {n: {f"a{n}": float(n)} for n in (0, 1, 2, 4)}


def make_events(user: int, row: dict[str, Any]) -> bytes:
    """A block of one event."""
    columns = [
        encode_texts(pa.array(["together"])),
        encode_texts(pa.array(["Seen"])),
        encode_numbers(pa.array([DAY], pa.uint16()), "Date"),
        encode_numbers(pa.array([user], pa.uint32()), "UInt32"),
        encode_numbers(pa.array([AT], pa.uint32()), "DateTime('UTC')"),
        encode_numbers(pa.array([1], pa.uint64()), "UInt64"),
        encode_json({name: make_path([value]) for name, value in row.items()}),
        encode_texts(pa.array([json.dumps(row)])),
    ]
    return encode_block(COLUMNS["event"], columns, 1)
