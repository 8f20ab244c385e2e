"""The CleverTap surface: routes, authentication, one error shape. No rule of the business lives here."""

from __future__ import annotations

from collections.abc import Sequence

from litestar import Litestar
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler

from tocsin.api.context import Context
from tocsin.api.door import App, Door
from tocsin.api.feedback import feedback_routes
from tocsin.api.http import on_bug, on_http_error, on_problem
from tocsin.api.records import operator_routes, record_routes
from tocsin.api.segments import segment_routes
from tocsin.api.subscriptions import subscription_routes
from tocsin.api.targets import target_routes
from tocsin.errors import Problem


def build_api(context: Context, pages: Sequence[HTTPRouteHandler] = ()) -> App:
    """The ASGI application: the API, the operator's routes, and the dashboard's `pages`."""
    routes = Litestar(
        [
            *record_routes(context),
            *target_routes(context),
            *segment_routes(context),
            *feedback_routes(context),
            *subscription_routes(context),
            *operator_routes(context),
            *pages,
        ],
        exception_handlers={Problem: on_problem, HTTPException: on_http_error, Exception: on_bug},
        openapi_config=None,
        request_max_body_size=None,  # api/wire.py counts, and answers in our shape
        logging_config=None,
    )
    return Door(context, routes)


__all__ = ["Context", "build_api"]
