"""The cells of a file's columns, checked and encoded once for each value that differs, by the functions of `upload`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from tocsin.ingest.column import Column
from tocsin.ingest.event_columns import NOTHING, EventColumns
from tocsin.ingest.phone_number import is_normal
from tocsin.ingest.profile import to_facts
from tocsin.ingest.record import CHOICES, Rejected, read_email, read_record
from tocsin.store.props import EXACT, encode_props, encode_raw

PLAIN = re.compile(r"[A-Za-z][ !#-\[\]-~]{0,511}")  # a text that is checked, and that JSON and facts hold as it is
PLAIN_NAME = re.compile(r"[!-~][ -~]{0,511}")  # an identity that is checked and kept as it is
ADDRESSES = ("Email", "Phone")
CHECKED = frozenset((*ADDRESSES, "Age", *CHOICES))  # of a profile: their values are not any
WRONG = ("", None)  # in place of what a cell adds to (`raw`, `props`)


class Encoder:
    """Checks and encodes the values of a file's columns. kind: "event" or "profile"."""

    def __init__(self, now: float, kind: str = "event") -> None:
        self.now = now
        self._kind = kind
        self._plain: dict[str, tuple[str, str] | None] = {}

    def encode(self, events: EventColumns) -> tuple[EventColumns, list[int]]:
        """Return events with identities as they are stored, and of each property what its cell adds to (`raw`,
        `props`); and the places of those, in order, that `read_record` would refuse, or may refuse."""
        import pyarrow as pa
        import pyarrow.compute as pc

        fine: Any = pa.scalar(True)
        named: Any = pa.scalar(False)
        keys, props = {}, {}
        for kind, column in events.keys.items():
            keys[kind] = texts = column.change(lambda cell, kind=kind: self.read_text(kind, cell))  # type: ignore[misc]
            fine = pc.and_(fine, texts.spread([text is not WRONG for text in texts.values], pa.bool_()))
            named = pc.or_(named, texts.spread([text is not None for text in texts.values], pa.bool_()))
        names = events.names.change(lambda cell: self.read_text("evtName", cell) or WRONG)
        fine = pc.and_(fine, names.spread([text is not WRONG for text in names.values], pa.bool_()))
        fine = pc.and_(fine, pc.and_(named, events.at.is_valid()))
        for key, column in events.props.items():
            props[key] = cells = self.encode_cells(key, column, events.read_cell)
            fine = pc.and_(fine, cells.spread([cell is not WRONG for cell in cells.values], pa.bool_()))
        refused = [] if pc.all(fine).as_py() else pc.indices_nonzero(pc.invert(fine)).to_pylist()
        encoded = msgspec.structs.replace(events, keys=keys, names=names, props=props)
        return encoded, refused

    def read_text(self, kind: str, cell: Any) -> Any:
        """Return an identity or name as it is stored, None for none."""
        if cell in NOTHING:
            return None
        if kind != "evtName" and type(cell) is str and PLAIN_NAME.fullmatch(cell):
            return cell
        raw = {"type": "event", "identity": "x", "evtName": "x", kind: cell}
        try:
            record = read_record(raw, self.now, system=True)
        except Rejected:
            return WRONG
        return record.name if kind == "evtName" else record.keys.get(kind)  # type: ignore[union-attr]

    def encode_cells(self, key: str, column: Column, read: Callable[[Any], Any]) -> Column:
        """Return what each cell of a property adds to (`raw`, `props`), WRONG for one that is refused."""
        return column.change(lambda cell: self._encode(key, None if cell in NOTHING else read(cell)))

    def _encode(self, key: str, value: Any) -> tuple[str, str | None]:
        if value is None:
            return "", ""
        if type(value) is str and key in ADDRESSES and self._kind == "profile":
            if key == "Phone" and is_normal(value):
                return f'"Phone":"{value}"', encode_props({key: value})[1:-1]
            if key == "Email" and PLAIN.fullmatch(value) and value[-1] != " " and read_email(value):
                return f'"Email":"{value}"', f'"Email":"\\u001f{value.lower()}\\u001f"'
        elif (names := self._name(key)) is not None:
            raw, path = names
            if type(value) is str and PLAIN.fullmatch(value):
                return f'{raw}"{value}"', f'{path}"\\u001f{value.lower()}\\u001f"'
            if (type(value) is int or type(value) is float) and -EXACT < value < EXACT:
                return raw + msgspec.json.encode(value).decode(), path + msgspec.json.encode(float(value)).decode()
        try:
            props = self._read(key, value)
        except Rejected:
            return WRONG
        return encode_raw(props)[1:-1], encode_props(to_facts(props))[1:-1]

    def _read(self, key: str, value: Any) -> dict[str, Any]:
        """Return what `read_record` makes of a property."""
        if self._kind == "profile":
            profile = {"type": "profile", "identity": "x", "profileData": {key: value}}
            return read_record(profile, self.now).changes  # type: ignore[union-attr]
        event = {"type": "event", "identity": "x", "evtName": "x", "evtData": {key: value}}
        return read_record(event, self.now, system=True).props  # type: ignore[union-attr]

    def _name(self, key: str) -> tuple[str, str] | None:
        """Return a property's key in `raw` and in `props`, None where it is refused or its values are checked."""
        if key not in self._plain:
            self._plain[key] = None
            raw, props = WRONG if self._kind == "profile" and key in CHECKED else self._encode(key, 1)
            self._plain[key] = None if props is None else (raw[:-1], props[:-3])
        return self._plain[key]

    def explain(self, record: Any) -> Rejected | None:
        """Return why `read_record` refuses a record."""
        try:
            read_record(record, self.now, system=True)
        except Rejected as error:
            return error
        return None
