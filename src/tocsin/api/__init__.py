"""The CleverTap surface: routes, authentication, one error shape. No rule of the business lives here."""

from __future__ import annotations

from tocsin.api import (
    bounces,
    mail_tracking,
    operator,
    reports,
    segments,
    sends,
    subscriptions,
    targets,
    tracking,
    unsubscribe,
    upload,
)
from tocsin.api.context import Context
from tocsin.api.endpoint import Endpoint, build_router

ENDPOINTS: tuple[Endpoint, ...] = (
    *sends.ENDPOINTS,
    *upload.ENDPOINTS,
    *targets.ENDPOINTS,
    *segments.ENDPOINTS,
    *reports.ENDPOINTS,
    *subscriptions.ENDPOINTS,
    *tracking.ENDPOINTS,
    *mail_tracking.ENDPOINTS,
    *unsubscribe.ENDPOINTS,
    *bounces.ENDPOINTS,
    *operator.ENDPOINTS,
)

__all__ = ["ENDPOINTS", "Context", "Endpoint", "build_router"]
