"""A campaign's page while it runs: its numbers are sent as they change, over one connection (server-sent events)."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import AsyncIterator

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from tocsin.account import Account
from tocsin.api.broadcasts import Read
from tocsin.api.context import Context
from tocsin.api.held import Held
from tocsin.authenticator.session import MemberSession, find_session
from tocsin.dashboard.campaigns import CALM_SECONDS, LIST, find_id
from tocsin.dashboard.page import PRIVATE, SECURITY, Frame, Visitor, render_text
from tocsin.dashboard.queries import Detail, read_detail, read_spec_of
from tocsin.dashboard.texts import ENGLISH
from tocsin.dashboard.visitor import require_member
from tocsin.errors import Problem

EVENTS = "text/event-stream"
UNBUFFERED = {"X-Accel-Buffering": "no"}  # asks nginx and those who copy it to pass each event on at once
LIVE_SECONDS = 1.0  # between two readings of a campaign that runs
RETRY_SECONDS = 5  # for whom there is no place: they come back, which is polling
REMEMBERED = 8  # readings that the rate is taken over
OVER = "event: over\ndata:\n\n"
BEAT = ": still here\n\n"


async def stream_campaign(context: Context, request: Request) -> Response:
    """Send the part of a campaign's page that changes, until the campaign has ended or its viewer has logged out."""
    visitor, session = await require_member(context, request, "viewer")
    account_id, campaign_id = visitor.account.id, find_id(request)
    if await read_spec_of(context.ledger, account_id, campaign_id) is None:
        raise Problem(ENGLISH.no_such_campaign, code=404, status=404)
    if request.method == "HEAD":  # it would hold a place among those who watch
        return Response(headers=SECURITY | PRIVATE, media_type=EVENTS)
    events = _send_events(context, visitor, session, campaign_id)
    return StreamingResponse(events, 200, SECURITY | PRIVATE | UNBUFFERED, EVENTS)


async def _send_events(
    context: Context, visitor: Visitor, session: MemberSession, campaign_id: int
) -> AsyncIterator[str]:
    account_id, last = visitor.account.id, ""
    watched = context.broadcasts.watch((account_id, campaign_id), _read_again(context, visitor.account, campaign_id))
    with contextlib.closing(Held()) as held:
        try:
            context.broadcasts.places.take(account_id, held)
            crowded = False
        except Problem:
            crowded = True
        async with contextlib.aclosing(watched):
            async for found in watched:
                if not await _is_logged_in(context, session):
                    yield _write_event(last + render_text("logged_out.html")) + OVER
                    return
                html = last if found is None else _render(context, visitor, found)
                yield BEAT if html == last else _write_event(html, RETRY_SECONDS if crowded else None)
                last = html
                if found is not None and found.over:
                    yield OVER
                    return
                if crowded:
                    return


def _read_again(context: Context, account: Account, campaign_id: int) -> Read:
    """Return what reads a campaign, with the rate since the last few readings."""
    before: deque[tuple[float, int]] = deque(maxlen=REMEMBERED)

    async def read() -> tuple[Detail, float]:
        now = context.clock()
        found = await read_detail(context.ledger, context.facts, account, campaign_id, now)
        if found is None:
            raise Problem(ENGLISH.no_such_campaign, code=404, status=404)
        before.append((now, found.line.figures.final))
        (since, count), *_ = before
        seconds = now - since
        rate = (found.line.figures.final - count) / seconds if seconds > 0 else None
        pause = LIVE_SECONDS if found.line.busy else CALM_SECONDS
        return msgspec.structs.replace(found, rate=rate), pause

    return read


async def _is_logged_in(context: Context, session: MemberSession) -> bool:
    """Return whether a session still is what it was when its stream began. That it has one does not keep it alive."""
    now = context.clock()
    found = await context.ledger.read(lambda connection: find_session(connection, session.token, now))
    return found is not None and (found.account.id, found.role) == (session.account.id, session.role)


def _render(context: Context, visitor: Visitor, found: Detail) -> str:
    return render_text("campaign_live.html", frame=Frame(visitor, context.clock(), LIST), found=found)


def _write_event(html: str, retry: int | None = None) -> str:
    """Return a piece of a page as an event; retry: after so many seconds a connection that was closed is made again."""
    lines = [f"data: {line}\n" for line in html.splitlines() if line.strip()]
    again = [] if retry is None else [f"retry: {retry * 1000}\n"]
    return "".join([*again, *lines, "\n"])
