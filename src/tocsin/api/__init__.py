"""The CleverTap surface: routes, authentication, one error shape. No rule of the business lives here."""

from __future__ import annotations

from tocsin.api import (
    apps,
    bounces,
    exports,
    mail_tracking,
    operator,
    pages,
    people,
    reports,
    segments,
    sends,
    subscriptions,
    tallies,
    targets,
    tracking,
    unsubscribe,
    unsupported,
    upload,
    webhooks,
    why,
)
from tocsin.api.context import Context
from tocsin.api.endpoint import Endpoint, build_router
from tocsin.api.openapi import describe_endpoints

_DESCRIBED: tuple[Endpoint, ...] = (
    *sends.ENDPOINTS,
    *upload.ENDPOINTS,
    *targets.ENDPOINTS,
    *why.ENDPOINTS,
    *segments.ENDPOINTS,
    *exports.ENDPOINTS,
    *people.ENDPOINTS,
    *tallies.ENDPOINTS,
    *reports.ENDPOINTS,
    *subscriptions.ENDPOINTS,
    *tracking.ENDPOINTS,
    *mail_tracking.ENDPOINTS,
    *unsubscribe.ENDPOINTS,
    *unsupported.ENDPOINTS,
    *bounces.ENDPOINTS,
    *apps.ENDPOINTS,
    *pages.ENDPOINTS,
    *webhooks.ENDPOINTS,
    *operator.ENDPOINTS,
)
ENDPOINTS = (*_DESCRIBED, describe_endpoints(_DESCRIBED))

__all__ = ["ENDPOINTS", "Context", "Endpoint", "build_router"]
