"""The vendors on loopback: strict fakes of FCM, APNs, WNS, an SMTP relay, a receiver of webhooks, browsers.

They speak the vendors' protocols over TLS, check every request against the vendors' documented rules, answer in the
vendors' formats, and fail as fault scripts say (`faults`). They count what they accept and what they accept twice
(`accepted`), and deliver nothing. A control API over plain HTTP reads and configures them (`control`). Nothing here
shares code with the clients: the import contract forbids it.
"""

from __future__ import annotations

from tocsin.sandbox.server import Sandbox, serve

__all__ = ["Sandbox", "serve"]
