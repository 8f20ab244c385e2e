"""`tocsin import --dry-run`: what would become of the first rows of a file, and what looks odd. Nothing is stored."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from tocsin.cli.record_file import Block, Options, read_file, to_records
from tocsin.cli.record_store import forget_place
from tocsin.ingest.record import IDENTITY_KINDS, Rejected, read_record

ROWS = 5  # of the table
LOOKED_AT = 1000  # rows
LETTERS = 60  # of a cell of the table
COMMA_NUMBER = re.compile(r"-?\d+,\d{1,2}")
FLOATED = re.compile(r"\d+\.0+")


def preview(path: Path, options: Options) -> int:
    """Print the first rows of a file as the records they would be. Return 1 when one of those looked at is refused."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    reading = read_file(path, options)
    block = next((one for one in reading.blocks if len(one)), None)
    if block is None:
        console.print(f"{path.name} has no rows.", markup=False)
        return 0
    records = to_records(block, options)[:LOOKED_AT]
    errors = {place: text for place, record in enumerate(records) if (text := _check(record, block, place))}
    table = Table("line", "who", "what", "when", "properties", "", title=path.name, title_justify="left")
    for place, record in enumerate(records[:ROWS]):
        table.add_row(*(_cut(one) for one in _describe(record, block.lines[place], errors.get(place, "fine"))))
    console.print(table)
    said = [*reading.notes, *find_oddities(records, options)]
    for reason, count in Counter(errors.values()).most_common(5):
        first = next(block.lines[place] for place, text in errors.items() if text == reason)
        said.append(f"{count} of the first {len(records)} rows would be refused, first line {first}: {reason}")
    for sentence in said or ["nothing looks odd."]:
        console.print(sentence, markup=False, soft_wrap=True)
    return 1 if errors else 0


def _check(record: Any, block: Block, place: int) -> str:
    """Return why a row would be refused, "" when it would not."""
    if place in block.wrong:
        return block.wrong[place].error
    try:
        read_record(record, time.time(), system=True)
    except Rejected as error:
        return forget_place(error.error)
    return ""


def _describe(record: Any, line: int, verdict: str) -> tuple[str, ...]:
    if not isinstance(record, dict):
        return str(line), "", "", "", "", verdict
    who = " ".join(f"{kind}={record[kind]}" for kind in IDENTITY_KINDS if record.get(kind) is not None)
    data = record.get("evtData", record.get("profileData", record.get("tokenData")))
    moment = record.get("ts")
    is_number = isinstance(moment, int | float)
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(moment)) if is_number else str(moment or "")
    properties = msgspec.json.encode(data, enc_hook=str).decode()
    return str(line), who, str(record.get("evtName") or record["type"]), when, properties, verdict


def _cut(text: str) -> str:
    from rich.markup import escape

    return escape(text if len(text) <= LETTERS else text[: LETTERS - 1] + "…")


def find_oddities(records: list[Any], options: Options) -> Iterator[str]:
    """Yield sentences about what is taken, but perhaps not meant so."""
    rows = [one for one in records if isinstance(one, dict)]
    data = [one.get("evtData", one.get("profileData")) or {} for one in rows]
    named = [str(one[kind]) for one in rows for kind in IDENTITY_KINDS if one.get(kind) is not None]
    if floated := next((one for one in named if FLOATED.fullmatch(one)), None):
        yield f"the identity {floated} looks like a number that a table kept as a fraction; it is taken as this text."
    if len(rows) > 20 and len({*named}) == 1:
        yield f"all rows are about one person, {named[0]}."
    if options.kind == "event" and rows and all(one.get("ts") is None for one in rows):
        yield "no row has a time (ts), so all events would be of now."
    if options.kind == "profile" and rows and not any("Email" in one or "Phone" in one for one in data):
        yield "no row has Email or Phone: mails and SMS reach nobody by these profiles."
    for key in dict.fromkeys(key for one in data if isinstance(one, dict) for key in one):
        values = [one[key] for one in data if isinstance(one, dict) and key in one]
        if comma := next((one for one in values if isinstance(one, str) and COMMA_NUMBER.fullmatch(one)), None):
            yield f"{key}: {comma} is taken as a text, not as a number; numbers have a point."
        kinds = {"text" if isinstance(one, str) else "number" for one in values if isinstance(one, str | int | float)}
        if len(kinds) > 1 and options.kind != "token":
            yield f"{key} has numbers and texts."
