"""What would become of a draft: how many of its audience would be held back and why, and how long it would take."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tocsin.api.bodies import HELD
from tocsin.api.context import Context
from tocsin.api.why import foresee_run, plan_first_run
from tocsin.audience.members import count_strangers
from tocsin.dashboard.connection import while_connected
from tocsin.dashboard.draft import place_mistake
from tocsin.dashboard.outlook import read_draft
from tocsin.dashboard.page import Frame, Visitor, render
from tocsin.dashboard.visitor import FormFields, read_signed_form, require_member
from tocsin.errors import Problem


class Prospect(msgspec.Struct, frozen=True):
    """A forecast as `forecast.json` answers it. strangers: people of the audience who never had an address there.
    trouble: why there is none."""

    forecast: dict[str, Any]
    strangers: int = 0
    trouble: str = ""


async def show_forecast(context: Context, request: Request) -> Response:
    """Show the forecast of a draft, as a part of its page."""
    visitor, _ = await require_member(context, request, "marketer")
    form = await read_signed_form(context, request, visitor)
    try:
        context.reads.take(visitor.account.id, request.scope[HELD])
        prospect = await while_connected(request, foresee_draft(context, visitor, form))
    except Problem as problem:
        prospect = Prospect({}, trouble=place_mistake(problem).sentence)
    return render("new_forecast.html", frame=Frame(visitor, context.clock()), prospect=prospect)


async def foresee_draft(context: Context, visitor: Visitor, form: FormFields) -> Prospect:
    """Return what would become of a draft that began now, by the code that delivers; unfinished, of what is known of
    it. Raise Problem for an audience that is not clear, when too many are asked for, and at the request's deadline."""
    account, now = visitor.account, context.clock()
    found = await read_draft(context, account, form, now)
    spec = found.spec
    if spec is None:
        raise Problem(found.mistake.sentence if found.mistake else "")
    stores = (context.ledger, context.facts)
    forecast = await foresee_run(*stores, account, spec, plan_first_run(spec), now, context.settings)
    strangers = await count_strangers(context.facts, account, spec.where, spec.platforms, now, spec.limit_run())
    return Prospect(forecast, strangers)
