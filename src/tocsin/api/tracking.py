"""`/track/…`: what devices report about a message. Nobody logs in: the signed id is the permission."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from tocsin.api.context import Context
from tocsin.api.endpoint import post
from tocsin.api.http import answer, read_json
from tocsin.errors import Problem
from tocsin.feedback.interactions import INTERACTIONS, record_interaction

BODY_BYTES = 4096


async def track(context: Context, request: Request) -> Response:
    """Record that a message was viewed or clicked. Raises Problem 404 for any other kind."""
    kind = request.path_params["kind"]
    if kind not in INTERACTIONS:
        raise Problem("Not Found", code=404, status=404)
    body = await read_json(request, BODY_BYTES)
    push_id = body.get("id")
    if not isinstance(push_id, str):
        raise Problem("id must be the wzrk_pid of a message (at $.id)")
    stores = (context.ledger, context.facts, context.secret)
    await record_interaction(*stores, kind, push_id, context.clock(), context.settings.report_days)
    return answer({"status": "success"})


ENDPOINTS = [post("/track/{kind}", track)]
