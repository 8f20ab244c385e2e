"""One engine for HTTP/2, HTTP/1.1 and SMTP: libcurl, many transfers in flight on one event loop."""

from __future__ import annotations


class Transport:
    """Placeholder written by the providers slice."""
