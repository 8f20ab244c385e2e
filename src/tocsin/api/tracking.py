"""`/track/…`: what devices report about a message. Nobody logs in: the signed id is the permission."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from tocsin.api.context import Context
from tocsin.api.endpoint import Endpoint
from tocsin.api.http import answer
from tocsin.errors import Problem
from tocsin.feedback.interactions import INTERACTIONS

BODY_BYTES = 4096
# A page of a site may ask, and need not read the answer. It is always the same.
TAKEN = answer({"status": "success"}, {"Cross-Origin-Resource-Policy": "cross-origin"})


async def track(context: Context, request: Request) -> Response:
    """Record that a message was viewed or clicked. Raises Problem 404 for any other kind."""
    kind = request.path_params["kind"]
    if kind not in INTERACTIONS:
        raise Problem("Not Found", code=404, status=404)
    if request.method == "POST":
        push_id = (await context.read_json(request, limit=BODY_BYTES)).get("id")
    else:
        push_id = request.query_params.get("id")
    if not isinstance(push_id, str):
        raise Problem("id must be the wzrk_pid of a message (at $.id)")
    if request.method == "HEAD":  # asks, and reports nothing
        return TAKEN
    now = context.clock()
    try:
        message = await context.signed_ids.read(push_id, "track")
    except Problem:
        context.reports.note("track", "forged", now)
        raise
    await context.reports.take("track", kind, *message, now)
    return TAKEN


# GET is how the service worker of a browser reports.
ENDPOINTS = [Endpoint("/track/{kind}", {"POST": track, "GET": track, "HEAD": track}, paced=True)]
