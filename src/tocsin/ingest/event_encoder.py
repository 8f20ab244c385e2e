"""The cells of a file's columns, checked and encoded once for each value that differs, by the functions of `upload`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from tocsin.ingest.column import Column, Texts
from tocsin.ingest.event_columns import NOTHING, EncodedEvents, EventColumns, Unusual
from tocsin.ingest.phone_number import is_normal
from tocsin.ingest.profile import to_facts
from tocsin.ingest.property_column import Cell, encode_property
from tocsin.ingest.record import CHOICES, Rejected, read_email, read_record
from tocsin.store.props import EXACT, encode_props, encode_raw, escape_key

PLAIN = re.compile(r"[A-Za-z][ !#-\[\]-~]{0,511}")  # a text that is checked, and that JSON and facts hold as it is
# In RE2; an identity or a name, of 480 letters at most as an event's is, that is checked and kept as it is.
PLAIN_NAME = r"\A[!-~][ -~]{0,479}\z"
ADDRESSES = ("Email", "Phone")
CHECKED = frozenset((*ADDRESSES, "Age", *CHOICES))  # of a profile: their values are not any
WRONG = ("", None)  # in place of what a cell adds to (`raw`, `props`)


class Encoder:
    """Checks and encodes the values of a file's columns. kind: "event" or "profile"."""

    def __init__(self, now: float, kind: str = "event") -> None:
        self.now = now
        self._kind = kind
        self._plain: dict[str, tuple[str, str] | None] = {}

    def encode(self, events: EventColumns) -> tuple[EncodedEvents, list[int]]:
        """Return events with identities as they are stored and properties as facts has them; and the places of those,
        in order, that `read_record` would refuse, or may refuse. Raises Unusual for what a column cannot hold."""
        import pyarrow as pa
        import pyarrow.compute as pc

        fine: Any = pa.scalar(True)
        named: Any = pa.scalar(False)
        keys, props = {}, {}
        for kind, column in events.keys.items():
            keys[kind] = texts = column.change_odd(PLAIN_NAME, lambda cell, kind=kind: self.read_text(kind, cell))  # type: ignore[misc]
            fine = pc.and_(fine, _test(texts, lambda text: text is not WRONG))
            named = pc.or_(named, _test(texts, lambda text: text is not None))
        names = events.names.change_odd(PLAIN_NAME, lambda cell: self.read_text("evtName", cell) or WRONG)
        fine = pc.and_(fine, _test(names, lambda text: text is not WRONG))
        fine = pc.and_(fine, pc.and_(named, events.at.is_valid()))
        spelled = events.read_cell("1") == 1
        for key, column in events.props.items():
            names_of = self._name(key)
            name = None if names_of is None else names_of[0]
            props[key] = cells = encode_property(key, column, self._read_property(key, events), name, spelled=spelled)
            if cells.wrong is not None:
                fine = pc.and_(fine, pc.invert(cells.wrong).take(cells.codes))
        refused = [] if pc.all(fine).as_py() else pc.indices_nonzero(pc.invert(fine)).to_pylist()
        return EncodedEvents(events.rows, keys, events.at, names, props), refused

    def _read_property(self, key: str, events: EventColumns) -> Callable[[Any], Cell | None]:
        """Return what encodes a cell of a property."""
        paths = {escape_key(key), f"#{escape_key(key)}"}

        def read(cell: Any) -> Cell | None:
            raw, props = self._encode(key, None if cell in NOTHING else events.read_cell(cell))
            if props is None:
                return None
            found: dict[str, Any] = msgspec.json.decode(f"{{{props}}}")
            if not found.keys() <= paths:
                raise Unusual
            return raw, found

        return read

    def read_text(self, kind: str, cell: Any) -> Any:
        """Return an identity or name as it is stored, None for none."""
        if cell in NOTHING:
            return None
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


def _test(column: Column, is_so: Callable[[Any], bool]) -> Any:
    """Return for each row whether its value is so; texts are."""
    import pyarrow as pa

    if isinstance(column.values, Texts):
        return pa.scalar(True)
    return column.spread([is_so(value) for value in column.values], pa.bool_())
