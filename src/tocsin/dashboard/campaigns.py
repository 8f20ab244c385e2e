"""The list of campaigns, and one of them: its numbers, and how it is stopped."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

import msgspec
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from tocsin.account import Account
from tocsin.api.context import Context
from tocsin.authenticator.audit import note
from tocsin.campaign.runs import list_campaigns, stop_campaign
from tocsin.campaign.spec import LATEST_ID
from tocsin.dashboard.drafts import DRAFTS, KeptDraft, list_drafts
from tocsin.dashboard.page import Frame, redirect, render
from tocsin.dashboard.queries import (
    FIRST_PAGE,
    STATES,
    Detail,
    Groups,
    Overview,
    WantedCampaigns,
    read_detail,
    read_groups,
    read_overview,
)
from tocsin.dashboard.texts import ENGLISH
from tocsin.dashboard.visitor import is_live, log_in, read_signed_form, require_member
from tocsin.delivery import hold
from tocsin.errors import Problem
from tocsin.queue import count_in_flight

BUSY_SECONDS, CALM_SECONDS = 2, 15  # between two loads of a page
COMING_SECONDS = 600  # a list is followed while a campaign of it begins so soon
SHARE = 5  # times as long as a reading took, a page does not ask for the next one
SHARED_SECONDS = 1.0  # old at most is what a page that follows its list gets: one reading for all who do
LIST, GROUPS = "campaigns", "groups"
DRAFT, DRAFTS_SHOWN = "draft", 3  # the state that drafts are listed by; how many the first page shows
LAST_PAGE = 1_000_000
SEARCH_LETTERS = 512


class Lists(msgspec.Struct, frozen=True):
    """What the first page shows. groups: None where they are not asked for. took: the seconds of the reading."""

    found: Overview | None
    groups: Groups | None
    took: float

    @property
    def busy(self) -> bool:
        return any(one.busy for one in (self.found, self.groups) if one is not None)

    def find_pause(self, now: float) -> int:
        """Return the seconds after which a page asks again by itself, longer where reading takes long; 0 where nothing
        runs, and nothing is about to."""
        if self.busy:
            return max(BUSY_SECONDS, math.ceil(SHARE * self.took))
        coming = self.found is not None and self.found.is_coming(now + COMING_SECONDS)
        return max(CALM_SECONDS, math.ceil(SHARE * self.took)) if coming else 0


async def show_overview(context: Context, request: Request) -> Response:
    """Show the newest campaigns and the tag groups, or the campaigns that are looked for."""
    visitor, now = await log_in(context, request), context.clock()
    wanted = _read_wanted(request)
    only_drafts, account_id = wanted.state == DRAFT, visitor.account.id

    async def read() -> Lists:
        began = time.monotonic()
        stores, groups = (context.ledger, context.facts), None
        if wanted.filtered or wanted.page > 1:
            found = await read_overview(*stores, account_id, now, wanted)
        else:
            found, groups = await asyncio.gather(
                read_overview(*stores, account_id, now, wanted), read_groups(*stores, account_id)
            )
        return Lists(found, groups, time.monotonic() - began)

    if is_live(request):
        lists = await context.broadcasts.share((LIST, account_id, wanted), read, SHARED_SECONDS)
        return _render_lists("overview_live.html", request, Frame(visitor, now), lists, wanted=wanted)
    kept: list[KeptDraft] = []
    if visitor.session and visitor.may("marketer") and (only_drafts or wanted == FIRST_PAGE):
        most = DRAFTS if only_drafts else DRAFTS_SHOWN
        kept = await context.ledger.read(lambda connection: list_drafts(connection, account_id, most))
    lists = await read()
    frame = Frame(visitor, now, LIST, BUSY_SECONDS if lists.busy else CALM_SECONDS)
    return _render_lists("overview.html", request, frame, lists, wanted=wanted, drafts=kept)


async def show_groups(context: Context, request: Request) -> Response:
    """Show the numbers of the sends by identity."""
    visitor, now = await log_in(context, request), context.clock()
    account_id = visitor.account.id

    async def read() -> Lists:
        began = time.monotonic()
        return Lists(None, await read_groups(context.ledger, context.facts, account_id), time.monotonic() - began)

    if is_live(request):
        lists = await context.broadcasts.share((GROUPS, account_id), read, SHARED_SECONDS)
        return _render_lists("groups_live.html", request, Frame(visitor, now), lists)
    lists = await read()
    held = await context.ledger.read(lambda connection: hold.count_requests(connection, account_id))
    frame = Frame(visitor, now, GROUPS, BUSY_SECONDS if lists.busy else CALM_SECONDS)
    return _render_lists("groups.html", request, frame, lists, held=held)


def _render_lists(name: str, request: Request, frame: Frame, lists: Lists, **values: Any) -> Response:
    follow = lists.find_pause(frame.now) if frame.visitor.session else 0
    shown: dict[str, Any] = {"found": lists.found, "groups": lists.groups, "follow": follow, **values}
    return render(name, frame=frame, server=server_of(request), **shown)


async def show_campaign(context: Context, request: Request) -> Response:
    """Show one campaign: what was asked, its numbers, what the vendors said."""
    visitor, now = await log_in(context, request), context.clock()
    found = await find_detail(context, visitor.account, request, now)
    frame = Frame(visitor, now, LIST, BUSY_SECONDS if found.line.busy else CALM_SECONDS)
    asked = request.query_params.get("in_flight", "")
    in_flight = int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 10 else None
    return render("campaign.html", frame=frame, found=found, in_flight=in_flight)


async def _ask(context: Context, request: Request, template: str) -> Response:
    visitor, _ = await require_member(context, request, "marketer")
    now = context.clock()
    found = await find_detail(context, visitor.account, request, now)
    return render(template, frame=Frame(visitor, now, LIST), found=found)


async def ask_to_stop(context: Context, request: Request) -> Response:
    """Ask once more before a campaign is stopped."""
    return await _ask(context, request, "stop.html")


async def stop(context: Context, request: Request) -> Response:
    """Stop a campaign."""
    visitor, _ = await require_member(context, request, "marketer")
    await read_signed_form(context, request, visitor)
    now, account_id = context.clock(), visitor.account.id
    campaign_id, name = await _find_name(context, account_id, request)

    def stop_now(connection: Connection) -> int:
        state = stop_campaign(connection, account_id, campaign_id, now)
        note(connection, account_id, visitor.who, "campaign stopped", f"{campaign_id} {name}", now)
        return count_in_flight(connection, campaign_id) if state == "running" else 0

    in_flight = await context.ledger.write(stop_now)
    context.wakeups.runs.notify()
    return redirect(f"/dashboard/campaigns/{campaign_id}?in_flight={in_flight}")


async def ask_to_resume(context: Context, request: Request) -> Response:
    """Ask once more before a campaign that a restore holds back goes on."""
    return await _ask(context, request, "resume.html")


async def resume(context: Context, request: Request) -> Response:
    """Let a campaign go on that a restore holds back."""
    visitor, _ = await require_member(context, request, "marketer")
    await read_signed_form(context, request, visitor)
    now, account_id = context.clock(), visitor.account.id
    campaign_id, name = await _find_name(context, account_id, request)

    def resume_now(connection: Connection) -> None:
        if hold.resume(connection, account_id, campaign_id):
            note(connection, account_id, visitor.who, "campaign resumed", f"{campaign_id} {name}", now)

    await context.ledger.write(resume_now)
    context.wakeups.notify_all()
    return redirect(f"/dashboard/campaigns/{campaign_id}")


async def settle_held(context: Context, request: Request) -> Response:
    """Let the sends by identity go on that a restore holds back, or end them."""
    visitor, _ = await require_member(context, request, "marketer")
    form = await read_signed_form(context, request, visitor)
    now, account_id, drop = context.clock(), visitor.account.id, form.one("do") == "drop"

    def settle_now(connection: Connection) -> None:
        detail = f"{hold.count_requests(connection, account_id)} requests"
        if drop:
            hold.drop_requests(connection, account_id, now)
        else:
            hold.resume(connection, account_id, 0)
        note(connection, account_id, visitor.who, "held sends " + ("dropped" if drop else "resumed"), detail, now)

    await context.ledger.write(settle_now)
    context.wakeups.notify_all()
    return redirect("/dashboard/tag-groups")


async def find_detail(context: Context, account: Account, request: Request, now: float) -> Detail:
    """Return the campaign of an address. Raises Problem 404, also for another account's, which nobody else may tell
    apart."""
    found = await read_detail(context.ledger, context.facts, account, find_id(request), now)
    if found is None:
        raise Problem(ENGLISH.no_such_campaign, code=404, status=404)
    return found


async def _find_name(context: Context, account_id: str, request: Request) -> tuple[int, str]:
    """Return the id and the name of the campaign of an address, as `find_detail` does, without its numbers."""
    campaign_id = find_id(request)
    found = await context.ledger.read(lambda one: list_campaigns(one, account_id, campaign_ids=[campaign_id]))
    for one in found:
        return one.id, one.name
    raise Problem(ENGLISH.no_such_campaign, code=404, status=404)


def find_id(request: Request) -> int:
    """Return the id of an address. Raises Problem 404 for what is none."""
    text = request.path_params["campaign_id"]
    if text.isascii() and text.isdigit() and len(text) < 11 and int(text) <= LATEST_ID:
        return int(text)
    raise Problem(ENGLISH.no_such_campaign, code=404, status=404)


def server_of(request: Request) -> str:
    """Return this server as the visitor reached it, for the examples they can copy."""
    return f"{request.url.scheme}://{request.url.netloc}"


def read_page(text: str) -> int:
    """Return the number of a page of an address; 1 for what is none."""
    return min(max(int(text), 1), LAST_PAGE) if text.isascii() and text.isdigit() and len(text) < 9 else 1


def _read_wanted(request: Request) -> WantedCampaigns:
    asked = request.query_params
    search, label = (asked.get(name, "").strip()[:SEARCH_LETTERS].replace("\0", "") for name in ("q", "label"))
    state = asked.get("state", "")
    page = read_page(asked.get("page", ""))
    return WantedCampaigns(search=search, label=label, state=state if state in (*STATES, DRAFT) else "", page=page)
