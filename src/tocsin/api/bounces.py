"""`/bounces`: mails that came back. Nobody logs in: the signed id in the mail is the permission."""

from __future__ import annotations

import asyncio

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tocsin.api.context import Context
from tocsin.api.endpoint import post
from tocsin.api.http import answer
from tocsin.errors import Problem
from tocsin.feedback.bounce_report import LIMIT, read_report


async def take_bounce(context: Context, request: Request) -> Response:
    """Apply one mail that came back. Raises Problem 400 for a body that is no report of ours, 404 for a foreign id."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "message/rfc822":
        raise Problem("Content-Type must be message/rfc822")
    report = await asyncio.to_thread(read_report, await context.read_body(request, limit=LIMIT))
    taken = await context.feedback.take_report(report, context.clock())
    return answer({"status": "success", **msgspec.structs.asdict(taken)})


ENDPOINTS = [post("/bounces", take_bounce)]
