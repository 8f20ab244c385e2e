"""`/l/…` and `/o/…`: the links of a mail, and the picture that says it was opened. Nobody logs in: the signed id is the
permission, and what is not signed leads nowhere.

A reader never waits for our counting: they are where they wanted to go, also when it was not counted.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools

from starlette.requests import Request
from starlette.responses import Response

from tocsin.api.context import Context
from tocsin.api.endpoint import Endpoint
from tocsin.api.http import WrittenResponse
from tocsin.api.unsubscribe import refuse_visitor
from tocsin.content.html_links import is_web, read_from_query
from tocsin.delivery.mail_id import LINK_PATH, PIXEL_ENDING, PIXEL_PATH, MailId, MailPurpose
from tocsin.errors import Problem
from tocsin.feedback.machines import is_quick, judge_visit
from tocsin.feedback.reports import Way

QUERY_BYTES = 16 * 1024  # of a target as it is written in a link
DAY = 86_400.0
NOT_OURS = "This is not a link of a mail this server sent."
HEADERS = [
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-robots-tag", b"noindex"),
]
PIXEL = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")  # 1 × 1, transparent
SHOWN = WrittenResponse(200, PIXEL, [*HEADERS, (b"content-type", b"image/gif")])


async def follow(context: Context, request: Request) -> Response:
    """Lead to a link's target, and count the click. Raises Problem 404 for a link that this server did not make."""
    query = request.scope["query_string"]
    url = read_from_query(query.decode("latin-1")) if len(query) <= QUERY_BYTES else ""
    target, now = url.encode("latin-1"), context.clock()
    mail = await _read(context, "link", request.path_params["mail_id"], target, now)
    if not is_web(url):
        raise Problem(NOT_OURS, code=404, status=404)
    if judge_visit(request.method, request.scope["headers"]):
        await _record(context, "link", "machine_clicked", mail, now)
    elif is_quick(now - mail.sent_at):
        context.quick_clicks.take(mail[:2], target, functools.partial(_count_quick, context, mail, now))
    else:
        await _record(context, "link", "clicked", mail, now)
    return WrittenResponse(302, b"", [*HEADERS, (b"location", target)])


async def show_pixel(context: Context, request: Request) -> Response:
    """Return the picture, and count the view. Raises Problem 404 for one that this server did not make."""
    now = context.clock()
    mail = await _read(context, "open", request.path_params["name"].removesuffix(PIXEL_ENDING), b"", now)
    machine = judge_visit(request.method, request.scope["headers"])
    await _record(context, "pixel", "machine_viewed" if machine else "viewed", mail, now)
    return SHOWN


async def _read(context: Context, purpose: MailPurpose, letters: str, target: bytes, now: float) -> MailId:
    try:
        return await context.signed_ids.read_mail(letters, purpose, target)
    except Problem:
        context.reports.note("link" if purpose == "link" else "pixel", "forged", now)
        raise Problem(NOT_OURS, code=404, status=404) from None


def _count_quick(context: Context, mail: MailId, now: float, machine: bool) -> None:
    context.reports.start("link", "machine_clicked" if machine else "clicked", mail.chunk_id, mail.position, now)


async def _record(context: Context, way: Way, kind: str, mail: MailId, now: float) -> None:
    """Record what was done with a mail, and wait for that a moment."""
    if now - mail.sent_at > context.settings.report_days * DAY:
        context.reports.note(way, "stale", now)
        return
    stored = context.reports.start(way, kind, mail.chunk_id, mail.position, now)
    if stored is not None:
        with contextlib.suppress(asyncio.CancelledError, Exception):  # the log has what went wrong
            await stored


ENDPOINTS = [
    Endpoint(f"{LINK_PATH}{{mail_id}}", {"GET": follow, "HEAD": follow}, on_problem=refuse_visitor, paced=True),
    Endpoint(f"{PIXEL_PATH}{{name}}", {"GET": show_pixel, "HEAD": show_pixel}, paced=True),
]
