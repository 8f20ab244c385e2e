"""The cells of columns, checked and encoded once for each value that differs, by the functions of `upload`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from tocsin.ingest.column import Column, Texts, Unusual
from tocsin.ingest.event_columns import NOTHING, EncodedEvents, EventColumns
from tocsin.ingest.profile import READERS, to_facts
from tocsin.ingest.property_column import Cell, PropertyColumn, encode_property
from tocsin.ingest.record import CHOICES, Rejected, read_record
from tocsin.store.props import EXACT, encode_props, encode_raw, escape_key

PLAIN = re.compile(r"[A-Za-z][ !#-\[\]-~]{0,511}")  # a text that is checked, and that JSON and facts hold as it is
# In RE2; an identity or a name, of 480 letters at most as an event's is, that is checked and kept as it is.
PLAIN_NAME = r"\A[!-~][ -~]{0,479}\z"
CHECKED = frozenset((*READERS, "Age", *CHOICES))  # of a profile: their values are not any
WRONG = ("", None)  # in place of what a cell adds to (`raw`, `props`)


class Encoder:
    """Checks and encodes the values of columns. kind: "event" or "profile". nothing: cells that are no property."""

    def __init__(self, now: float, kind: str = "event", nothing: tuple[Any, ...] = NOTHING) -> None:
        self.now = now
        self._nothing = nothing
        self._kind = kind
        self._plain: dict[str, tuple[str, str] | None] = {}

    def encode(self, events: EventColumns) -> tuple[EncodedEvents, list[int]]:
        """Return events with identities as they are stored and properties as facts has them; and the places of those,
        in order, that `read_record` would refuse, or may refuse. Raises Unusual for what a column cannot hold."""
        import pyarrow as pa
        import pyarrow.compute as pc

        fine: Any = pa.scalar(True)
        named: Any = pa.scalar(False)
        keys = {}
        for kind, column in events.keys.items():
            keys[kind] = texts = column.change_odd(PLAIN_NAME, lambda cell, kind=kind: self.read_text(kind, cell))  # type: ignore[misc]
            fine = pc.and_(fine, _test(texts, lambda text: text is not WRONG))
            named = pc.or_(named, _test(texts, lambda text: text is not None))
        names = events.names.change_odd(PLAIN_NAME, lambda cell: self.read_text("evtName", cell) or WRONG)
        fine = pc.and_(fine, _test(names, lambda text: text is not WRONG))
        fine = pc.and_(fine, pc.and_(named, events.at.is_valid()))
        props, right = self.encode_properties(events.props, events.read_cell)
        fine = pc.and_(fine, right)
        refused = [] if pc.all(fine).as_py() else pc.indices_nonzero(pc.invert(fine)).to_pylist()
        return EncodedEvents(events.rows, keys, events.at, names, props), refused

    def encode_properties(
        self, columns: Mapping[str, Column], read_cell: Callable[[Any], Any]
    ) -> tuple[dict[str, PropertyColumn], Any]:
        """Return properties as both stores have them, and an Arrow array, or scalar, of whether those of each row are
        right. Raises Unusual for what a column cannot hold."""
        import pyarrow as pa
        import pyarrow.compute as pc

        fine: Any = pa.scalar(True)
        props = {}
        spelled = read_cell("1") == 1
        for key, column in columns.items():
            address = self._kind == "profile" and key in READERS
            name = (f'"{key}":', "") if address else self._name(key)
            given = (key, column, self._read_property(key, read_cell), name and name[0])
            props[key] = cells = encode_property(*given, spelled=spelled, address=address)
            if cells.wrong is not None:
                fine = pc.and_(fine, pc.invert(cells.wrong).take(cells.codes))
        return props, fine

    def _read_property(self, key: str, read_cell: Callable[[Any], Any]) -> Callable[[Any], Cell | None]:
        """Return what encodes a cell of a property."""
        paths = {escape_key(key), f"#{escape_key(key)}"}

        def read(cell: Any) -> Cell | None:
            raw, props = self.encode_cell(key, None if cell in self._nothing else read_cell(cell))
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

    def encode_cell(self, key: str, value: Any) -> tuple[str, str | None]:
        """Return what a value adds to (`raw`, `props`), "" for None; WRONG for one that is refused."""
        if value is None:
            return "", ""
        if (names := self._name(key)) is not None:
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

    def takes(self, key: str) -> bool:
        """Return whether there may be a property by this name."""
        return self._name(key) is not None or (self._kind == "profile" and key in CHECKED)

    def _name(self, key: str) -> tuple[str, str] | None:
        """Return a property's key in `raw` and in `props`, None where it is refused or its values are checked."""
        if key not in self._plain:
            self._plain[key] = None
            raw, props = WRONG if self._kind == "profile" and key in CHECKED else self.encode_cell(key, 1)
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
