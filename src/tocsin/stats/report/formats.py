"""A report as JSON, CSV or Parquet."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime
from typing import Any, Literal

import msgspec

from tocsin.stats.report.report import NUMBER_NAMES, ZERO, CampaignReport, ReportNumbers

Format = Literal["json", "csv", "parquet"]
MEDIA_TYPES: dict[Format, str] = {
    "json": "application/json;charset=utf-8",
    "csv": "text/csv;charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
}
# Where a spreadsheet takes a text for a formula (OWASP, CSV injection): at its beginning, and, in one that divides at
# semicolons or tabs and so takes a quoted line break for the end of a row, where a cell would begin there.
FORMULA = re.compile(r'(^|[;\t\r\n])([ "]*)(?=[=+\-@\t\r＝＋－＠])')
NUMBERS = ("campaign", "run")


def show_report(report: CampaignReport) -> dict[str, Any]:
    """Return a report as `reports.json` answers it."""
    rows = [dict(zip(list_columns(report), row, strict=True)) for row in _flatten(report)]
    shown = {"by": report.by, "rows": rows, "total": msgspec.to_builtins(report.total)}
    return shown if report.earlier_total is None else shown | {"earlier_total": report.earlier_total}


def write_report(report: CampaignReport, form: Format) -> bytes:
    """Return a report in a format."""
    if form == "json":
        return msgspec.json.encode({"status": "success", **show_report(report)})
    if form == "csv":
        return write_csv(list_columns(report), _flatten(report)).encode()
    return _write_parquet(report)


def list_columns(report: CampaignReport) -> list[str]:
    """Return the names of the columns: those of the group, the numbers, and those of the earlier campaign."""
    earlier = () if report.earlier_total is None else tuple(f"earlier_{name}" for name in NUMBER_NAMES)
    return [*report.by, *NUMBER_NAMES, *earlier]


def _flatten(report: CampaignReport) -> Iterator[Sequence[Any]]:
    """Yield the rows as the values of `list_columns`."""
    for row in report.rows:
        earlier = () if report.earlier_total is None else _list_numbers(row.earlier or ZERO)
        yield (*row.key, *_list_numbers(row.numbers), *earlier)


def _list_numbers(numbers: ReportNumbers) -> tuple[Any, ...]:
    return msgspec.structs.astuple(numbers)


def write_csv(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return rows as CSV, in which no spreadsheet computes a text."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow([_defuse(name) for name in head])
    writer.writerows([_defuse(value) for value in row] for row in rows)
    return text.getvalue()


def _defuse(value: Any) -> Any:
    """Return a text that no spreadsheet computes; a number stays what it is."""
    return FORMULA.sub(r"\1'\2", value) if isinstance(value, str) else value


def _write_parquet(report: CampaignReport) -> bytes:
    """Return Parquet: ids and counts are int64, `day` a date, `hour` a moment in UTC, what has none null."""
    import pyarrow
    import pyarrow.parquet

    names = list_columns(report)
    columns: list[list[Any]] = [list(values) for values in zip(*_flatten(report), strict=True)] or [[] for _ in names]
    kinds: dict[str, Any] = dict.fromkeys(names, pyarrow.int64())
    kinds |= {name: pyarrow.float64() for name in names if name.endswith("revenue")}
    kinds |= {name: pyarrow.string() for name in report.by if name not in NUMBERS}
    for number, name in enumerate(report.by):
        if name == "day":
            kinds[name] = pyarrow.date32()
            columns[number] = [date.fromisoformat(one) if one else None for one in columns[number]]
        elif name == "hour":
            kinds[name] = pyarrow.timestamp("ms", "UTC")
            columns[number] = [datetime.fromisoformat(one) if one else None for one in columns[number]]
    schema = pyarrow.schema(list(kinds.items()))
    arrays = [pyarrow.array(values, kinds[name]) for name, values in zip(names, columns, strict=True)]
    file = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays(arrays, schema=schema), file)
    written: bytes = file.getvalue().to_pybytes()
    return written
