"""Files of JSON: a record a line, or one document with all of them, as CleverTap's exports answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from tocsin.cli.record_file import BAD_ROW, FIELDS, NAMED_ROWS, Block, Options, Reading, Wrong, to_record
from tocsin.cli.record_source import open_bytes, read_position
from tocsin.errors import Misconfigured

BATCH_BYTES = 2 * 1024 * 1024  # below the default limit of a body; records can be wide
DOCUMENT_BYTES = 1024 * 1024 * 1024  # of one document, which is read at once
PLATFORMS = {"iOS": "apns", "Android": "fcm", "Windows": "wns"}  # of `platformInfo` → the type of a token
LISTS = ("records", "d")  # where a document has its records
TOP = {"email": "Email", "name": "Name", "phone": "Phone", "photo": "Photo"}  # beside `profileData` in exports


def read_json(path: Path, options: Options) -> Reading:
    """Return the rows of a JSON file."""
    with open_bytes(path) as source:
        first = next((line for line in source if line.strip(b"\xef\xbb\xbf \t\r\n")), b"")
    rows = _read_document(path) if _is_document(first, path) else _read_lines(path)
    return Reading(path.stat().st_size, _gather(rows, options), [])


def _is_document(first: bytes, path: Path) -> bool:
    """Return whether a file is one document: its first line is a list, has a list of records, or is no value yet."""
    text = first.lstrip(b"\xef\xbb\xbf")
    try:
        value = msgspec.json.decode(text) if text else {}
    except msgspec.DecodeError as error:
        if path.name.lower().removesuffix(".gz").removesuffix(".zst").endswith(".json"):
            return True
        raise Misconfigured(f"{path.name}, line 1: {error}. Nothing was imported.") from None
    return isinstance(value, list) or (isinstance(value, dict) and any(isinstance(value.get(x), list) for x in LISTS))


def _read_document(path: Path) -> Iterator[tuple[int, int, Any]]:
    with open_bytes(path) as source:
        text = source.read(DOCUMENT_BYTES + 1)
    if len(text) > DOCUMENT_BYTES:
        raise Misconfigured(f"{path.name} is one document of more than {DOCUMENT_BYTES} bytes; make JSON lines of it.")
    try:
        value = msgspec.json.decode(text.lstrip(b"\xef\xbb\xbf"))
    except (msgspec.DecodeError, RecursionError) as error:
        raise Misconfigured(f"{path.name}: {error}. Nothing was imported.") from None
    if isinstance(value, dict):
        value = next((value[one] for one in LISTS if isinstance(value.get(one), list)), [value])
    size = path.stat().st_size
    for number, row in enumerate(value, 1):
        yield number, size * number // len(value), row


def _read_lines(path: Path) -> Iterator[tuple[int, int, Any]]:
    with open_bytes(path) as source:
        for number, line in enumerate(source, 1):
            text = line.lstrip(b"\xef\xbb\xbf") if number == 1 else line
            if not text.strip():
                continue
            try:
                row = msgspec.json.decode(text)
            except (msgspec.DecodeError, RecursionError) as error:
                row = Wrong(BAD_ROW, f"This line is no JSON: {error}.")
            yield number, read_position(source), row


def _gather(rows: Iterator[tuple[int, int, Any]], options: Options) -> Iterator[Block]:
    block = _new_block()
    size = 0
    for line, position, row in rows:
        for one in [row] if isinstance(row, Wrong) else unfold(row, options):
            wrong: dict[int, Wrong] = {}
            record = one
            if isinstance(one, Wrong):
                wrong[0], record = one, None
            elif isinstance(one, dict):
                record = to_record(_rename(one, options), options, wrong, 0)
            length = len(msgspec.json.encode(record))
            if block.lines and (len(block) == NAMED_ROWS or size + length > BATCH_BYTES):
                yield block
                block, size = _new_block(), 0
            block.wrong.update({len(block): error for error in wrong.values()})
            block.lines.append(line)  # type: ignore[attr-defined]
            block.records.append(record)
            block.position = position
            size += length
    if block.lines:
        yield block


def _new_block() -> Block:
    block = Block(lines=[], position=0, records=[], wrong={})
    block.source = lambda row: {"record": block.records[row]}
    return block


def _rename(row: dict[str, Any], options: Options) -> dict[str, Any]:
    """Return a row with the fields of `--map`."""
    renamed = {options.mapping.get(key, key): value for key, value in row.items()} if options.mapping else row
    return {key: value for key, value in renamed.items() if key}


def unfold(row: Any, options: Options) -> list[Any]:
    """Return the rows that one row is: of an export of CleverTap the event or the profile in it, or its tokens."""
    if not isinstance(row, dict) or row.get("type") in ("event", "profile", "token"):
        return [row]
    if isinstance(row.get("profile"), dict) and ("event_props" in row or "ts" in row):
        person = row["profile"]
        if options.kind == "event":
            event = {key: person[key] for key in FIELDS if person.get(key)}
            return [event | {"ts": row.get("ts"), "evtData": row.get("event_props") or {}}]
        row = person
    devices = [one for one in row.get("platformInfo") or () if isinstance(one, dict)]
    if options.kind == "token" and ("platformInfo" in row or "push_token" in row):
        return [
            {
                "objectId": one.get("objectId"),
                "id": one["push_token"],
                "type": PLATFORMS.get(str(one.get("platform")), ""),
            }
            for one in devices or [row]
            if one.get("push_token")
        ]
    if options.kind == "profile" and isinstance(row.get("profileData"), dict):
        person = {key: row[key] for key in FIELDS if row.get(key)}
        named = [one["objectId"] for one in devices if one.get("objectId")]
        if "objectId" not in person and named:
            person["objectId"] = named[0]
        data = {TOP[key]: row[key] for key in TOP if row.get(key)} | row["profileData"]
        return [person | {"profileData": data}]
    return [row]
