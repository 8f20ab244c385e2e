"""Server-rendered pages over the same functions as the API."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from tocsin.api.context import Context
from tocsin.api.endpoint import Endpoint, Handler
from tocsin.dashboard import (
    administration,
    api_reference,
    campaigns,
    client_apps,
    composing,
    credentials,
    entrance,
    forecasts,
    invitations,
    live,
    outcomes,
    people,
    person_rights,
    policies,
    segments,
    single_sign_on,
    spreadsheet,
)
from tocsin.dashboard.page import redirect, refuse_page, serve_static
from tocsin.errors import Problem

BUG = Problem("This page could not be made. The server's log says why.", code=500, status=500)


async def move_to_overview(_context: Context, _request: Request) -> Response:
    return redirect("/dashboard/", 308)


async def show_static(_: Context, request: Request) -> Response:
    return serve_static(request.path_params["name"])


def page(path: str, look: Handler | None = None, post: Handler | None = None) -> Endpoint:
    """Return the endpoint of a page. look: what GET and HEAD do."""
    handlers = ({"GET": look, "HEAD": look} if look else {}) | ({"POST": post} if post else {})
    return Endpoint(path, handlers, refuse_page, BUG, right="read")


# Open to a session, or to a passcode that may read.
READING_PAGES = [
    page("/dashboard/", campaigns.show_overview),
    page("/dashboard/campaigns/{campaign_id}", campaigns.show_campaign),
    page("/dashboard/campaigns/{campaign_id}/numbers.csv", spreadsheet.show_campaign_csv),
    page("/dashboard/tag-groups", campaigns.show_groups),
    page("/dashboard/tag-groups/numbers.csv", spreadsheet.show_groups_csv),
    page("/dashboard/segments", segments.show_segments),
    page("/dashboard/segments/count", segments.count),
    page("/dashboard/system", administration.show_system),
]
# Open to a session only, or to everybody.
MEMBER_PAGES = [
    page("/docs", api_reference.show_reference),
    page("/dashboard", move_to_overview),
    page("/dashboard/login", entrance.show_log_in, entrance.enter),
    page("/dashboard/oidc", single_sign_on.begin),
    page("/dashboard/oidc/callback", single_sign_on.finish),
    page("/dashboard/logout", post=entrance.leave),
    page("/dashboard/account", post=entrance.switch),
    page("/dashboard/campaigns/{campaign_id}/stream", live.stream_campaign),
    page("/dashboard/campaigns/{campaign_id}/stop", campaigns.ask_to_stop, campaigns.stop),
    page("/dashboard/campaigns/{campaign_id}/resume", campaigns.ask_to_resume, campaigns.resume),
    page("/dashboard/tag-groups/held", post=campaigns.settle_held),
    page("/dashboard/new", composing.show_form, composing.take_form),
    page("/dashboard/drafts/delete", post=composing.delete_draft),
    page("/dashboard/new/check", post=composing.check),
    page("/dashboard/new/forecast", post=forecasts.show_forecast),
    page("/dashboard/new/mail", post=composing.show_mail_preview),
    page("/dashboard/new/values", composing.suggest),
    page("/dashboard/segments/delete", post=segments.delete),
    page("/dashboard/campaigns/{campaign_id}/people", outcomes.show_outcomes),
    page("/dashboard/people", people.show_people),
    page("/dashboard/people/lately", people.show_lately),
    page("/dashboard/people/export", person_rights.download),
    page("/dashboard/people/delete", person_rights.ask_to_delete, person_rights.delete),
    page("/dashboard/settings", administration.show_settings),
    page("/dashboard/settings/providers/{name}", credentials.show_provider, credentials.take_provider),
    page("/dashboard/forgot", invitations.show_forgot, invitations.send_reset),
    page("/dashboard/ticket", invitations.show_ticket, invitations.take_ticket),
    page("/dashboard/settings/members", post=administration.invite_member),
    page("/dashboard/settings/members/remove", post=invitations.remove),
    page("/dashboard/settings/members/links", post=administration.change_invitation),
    page("/dashboard/settings/policies", policies.show_policies, policies.set_policies),
    page("/dashboard/settings/apps", client_apps.show_apps, client_apps.change_apps),
    page("/dashboard/settings/passcodes", post=administration.change_passcodes),
    page("/dashboard/start", administration.show_first_steps, administration.take_step),
    page("/dashboard/static/{name}", show_static),
]
PAGES = [*READING_PAGES, *MEMBER_PAGES]
