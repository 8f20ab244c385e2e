"""The people of a campaign: some of each outcome, and before it runs, how many would be held back and why."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from tocsin.api.bodies import HELD
from tocsin.api.context import Context
from tocsin.api.why import foresee_run
from tocsin.authenticator.audit import note
from tocsin.dashboard.campaigns import LIST, find_detail
from tocsin.dashboard.forecasts import Prospect
from tocsin.dashboard.page import Frame, render
from tocsin.dashboard.visitor import require_member
from tocsin.delivery.forecast import find_coming
from tocsin.stats.samples import sample_outcomes


async def show_outcomes(context: Context, request: Request) -> Response:
    """Show some people of each outcome of a campaign, and the forecast of its next run."""
    visitor, _ = await require_member(context, request, "marketer")
    account, now = visitor.account, context.clock()
    context.reads.take(account.id, request.scope[HELD])
    found = await find_detail(context, account, request, now)
    campaign_id = found.line.id
    outcomes = await sample_outcomes(context.ledger, context.facts, account, campaign_id)
    run = await context.ledger.read(lambda connection: find_coming(connection, account.id, campaign_id))
    forecast = None
    if run is not None:
        stores = (context.ledger, context.facts)
        forecast = await foresee_run(*stores, account, found.spec, run, now, context.settings)
    said = f"{campaign_id} {found.line.name}"
    await context.ledger.write(lambda one: note(one, account.id, visitor.who, "people of a campaign", said, now))
    frame = Frame(visitor, now, LIST)
    prospect = None if forecast is None else Prospect(forecast)
    return render("outcomes.html", frame=frame, line=found.line, outcomes=outcomes, prospect=prospect)
