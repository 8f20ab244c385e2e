"""Numbers of many campaigns and requests at once, by tag group and by label."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from tocsin.api.context import Context
from tocsin.api.endpoint import get
from tocsin.api.http import answer
from tocsin.stats.results import add_up, count_labels, count_tag_groups


async def show_tag_groups(context: Context, request: Request) -> Response:
    account = await context.authenticate(request)
    groups = await count_tag_groups(context.ledger, context.facts, account.id)
    total = add_up(groups.values())
    return answer({"status": "success", "tag_groups": groups, "total": total})


async def show_labels(context: Context, request: Request) -> Response:
    account = await context.authenticate(request)
    found = await count_labels(context.ledger, context.facts, account.id)
    return answer({"status": "success", "labels": found})


ENDPOINTS = [get("/1/tag_groups.json", show_tag_groups), get("/1/labels.json", show_labels)]
