"""The numbers of a page as CSV, one number a line, for spreadsheets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tocsin.api.context import Context
from tocsin.dashboard.campaigns import find_detail
from tocsin.dashboard.formatting import iso_time
from tocsin.dashboard.page import PRIVATE, SECURITY
from tocsin.dashboard.queries import Detail, read_groups
from tocsin.dashboard.visitor import log_in
from tocsin.stats.report.formats import write_csv

HEAD = ("part", "name", "measure", "value")

Line = tuple[str, str, str, float]


async def show_campaign_csv(context: Context, request: Request) -> Response:
    """Answer with the numbers of a campaign's page."""
    visitor = await log_in(context, request)
    found = await find_detail(context, visitor.account, request, context.clock())
    return _answer(_list_numbers(found), f"campaign-{found.line.id}")


async def show_groups_csv(context: Context, request: Request) -> Response:
    """Answer with the numbers of the tag groups."""
    visitor = await log_in(context, request)
    groups = await read_groups(context.ledger, context.facts, visitor.account.id)
    return _answer((line for name, numbers in groups.rows for line in _spell("tag group", name, numbers)), "tag-groups")


def _list_numbers(found: Detail) -> Iterator[Line]:
    yield from _spell("campaign", found.line.name, msgspec.structs.asdict(found.line.figures) | found.conversions)
    for name, figures in found.by_platform:
        yield from _spell("platform", name, figures)
    for name, numbers in found.variants.items():
        yield from _spell("variant", name, numbers)
    for reason in found.reasons:
        yield "reason", reason.words, "recipients", reason.count
    for bar in found.chart.shown if found.chart else ():
        yield from _spell("time", iso_time(bar.at), bar.counts)


def _spell(part: str, name: str, numbers: Any) -> Iterator[Line]:
    values: Mapping[str, float] = numbers if isinstance(numbers, Mapping) else msgspec.structs.asdict(numbers)
    for measure, value in values.items():
        yield part, name, measure, value


def _answer(lines: Iterable[Line], name: str) -> Response:
    headers = SECURITY | PRIVATE | {"Content-Disposition": f'attachment; filename="{name}.csv"'}
    return Response(write_csv(HEAD, lines).encode("utf-8", "replace"), 200, headers, "text/csv")
