"""The cells of a file's columns, checked and encoded once for each value that differs, by the functions of `upload`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from tocsin.ingest.event_columns import NOTHING, EventColumns
from tocsin.ingest.profile import to_facts
from tocsin.ingest.record import Rejected, read_record
from tocsin.store.props import EXACT, encode_props, encode_raw

MEMORY = 200_000  # values of a column that are remembered from block to block
PLAIN = re.compile(r"[A-Za-z][ !#-\[\]-~]{0,511}")  # a text that is checked, and that JSON and facts hold as it is


class Encoder:
    """Checks and encodes the values of a file's columns; each once, as long as there are not too many."""

    def __init__(self, now: float) -> None:
        self.now = now
        self._plain: dict[str, tuple[str, str] | None] = {}
        self._cells: dict[str, dict[Any, tuple[str, str] | None]] = {}
        self._texts: dict[str, dict[Any, str | None]] = {}

    def find_refused(self, events: EventColumns) -> list[int]:
        """Return the places of the events that `read_record` would refuse, or may refuse, in order."""
        count = len(events.at)
        refused: set[int] = set()
        named = [False] * count
        for kind, column in events.keys.items():
            texts = self._read_texts(kind, column)
            refused.update(place for place, cell in enumerate(column) if cell not in NOTHING and texts[cell] is None)
            named = [one or cell not in NOTHING for one, cell in zip(named, column, strict=True)]
        texts = self._read_texts("evtName", events.names)
        refused.update(place for place, cell in enumerate(events.names) if cell in NOTHING or texts[cell] is None)
        refused.update(place for place, one in enumerate(named) if not one)
        refused.update(place for place, at in enumerate(events.at) if at is None)
        for key, column in events.props.items():
            cells = self.read_cells(key, column, events.read_cell)
            bad = {cell for cell in set(column) if cells[cell] is None}
            if bad:
                refused.update(place for place, cell in enumerate(column) if cell in bad)
        return sorted(refused)

    def read_identities(self, kind: str, column: Sequence[Any]) -> list[str | None]:
        """Return identities as they are stored."""
        texts = self._read_texts(kind, column)
        return [None if cell in NOTHING else texts[cell] for cell in column]

    def _read_texts(self, kind: str, column: Sequence[Any]) -> dict[Any, str | None]:
        known = self._texts.setdefault(kind, {})
        if len(known) > MEMORY:
            known.clear()
        for cell in set(column) - known.keys() - NOTHING:
            raw = {"type": "event", "identity": "x", "evtName": "x", kind: cell}
            try:
                record = read_record(raw, self.now, system=True)
            except Rejected:
                known[cell] = None
                continue
            known[cell] = record.name if kind == "evtName" else record.keys[kind]  # type: ignore[union-attr]
        return known

    def read_cells(self, key: str, column: Sequence[Any], read: Callable[[Any], Any]) -> dict[Any, Any]:
        """Return what each cell of a property adds to (`raw`, `props`), None for one that is refused."""
        known = self._cells.setdefault(key, {})
        if len(known) > MEMORY:
            known.clear()
        for cell in set(column) - known.keys():
            known[cell] = self._encode(key, None if cell in NOTHING else read(cell))
        return known

    def _encode(self, key: str, value: Any) -> tuple[str, str] | None:
        if value is None:
            return "", ""
        if (names := self._name(key)) is not None:
            raw, path = names
            if (type(value) is int or type(value) is float) and -EXACT < value < EXACT:
                return raw + msgspec.json.encode(value).decode(), path + msgspec.json.encode(float(value)).decode()
            if type(value) is str and PLAIN.fullmatch(value):
                return f'{raw}"{value}"', f'{path}"\\u001f{value.lower()}\\u001f"'
        event = {"type": "event", "identity": "x", "evtName": "x", "evtData": {key: value}}
        try:
            record = read_record(event, self.now, system=True)
        except Rejected:
            return None
        props = record.props  # type: ignore[union-attr]
        return encode_raw(props)[1:-1], encode_props(to_facts(props))[1:-1]

    def _name(self, key: str) -> tuple[str, str] | None:
        """Return a property's key in `raw` and in `props`, None when it is refused as one."""
        if key not in self._plain:
            self._plain[key] = None
            found = self._encode(key, 1)
            self._plain[key] = found and (found[0][:-1], found[1][:-3])
        return self._plain[key]

    def explain(self, record: Any) -> Rejected | None:
        """Return why `read_record` refuses a record."""
        try:
            read_record(record, self.now, system=True)
        except Rejected as error:
            return error
        return None
