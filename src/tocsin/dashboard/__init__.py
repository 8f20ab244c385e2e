"""Server-rendered pages over the same functions as the API."""

from __future__ import annotations

from collections.abc import Sequence

from litestar.handlers import HTTPRouteHandler

from tocsin.api.context import Context


def dashboard_pages(context: Context) -> Sequence[HTTPRouteHandler]:
    return []
