"""What the world sends back about mails: unsubscribes and bounces. Nobody logs in: the signed id is the permission."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
from litestar import Response, post, route
from litestar.handlers import HTTPRouteHandler

from tocsin.api.context import Context
from tocsin.api.http import HttpRequest, answer, count_success, read_body
from tocsin.api.unsubscribe_page import FORM_BYTES, is_one_click, show_done, show_problem, show_question
from tocsin.errors import Problem
from tocsin.feedback.bounce_report import LIMIT, read_report
from tocsin.feedback.mail import Feedback


def feedback_routes(context: Context) -> Sequence[HTTPRouteHandler]:
    feedback = Feedback(context.ledger, context.facts, context.secret)

    @route("/u/{push_id:str}", http_method=["GET", "HEAD"], status_code=200, exception_handlers={Problem: show_problem})
    async def ask(push_id: str) -> Response[bytes]:
        sent = await feedback.find_mail(push_id)
        return show_question(sent.account.name)

    @post("/u/{push_id:str}", status_code=200, exception_handlers={Problem: show_problem})
    async def unsubscribe(request: HttpRequest, push_id: str) -> Response[bytes]:
        body = await read_body(request, FORM_BYTES)
        sent = await feedback.find_mail(push_id)
        if not is_one_click(request.headers.get("content-type", ""), body):
            raise Problem("The body must be the form List-Unsubscribe=One-Click (RFC 8058)")
        await feedback.unsubscribe(push_id, context.clock())
        count_success(request)
        return show_done(sent.account.name)

    @post("/bounces", status_code=200)
    async def take_bounce(request: HttpRequest) -> Response[bytes]:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "message/rfc822":
            raise Problem("Content-Type must be message/rfc822")
        report = await asyncio.to_thread(read_report, await read_body(request, LIMIT))
        taken = await feedback.take_report(report, context.clock())
        count_success(request)
        return answer({"status": "success", **msgspec.structs.asdict(taken)})

    return [ask, unsubscribe, take_bounce]
