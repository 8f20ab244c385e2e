"""The vendors on loopback: strict fakes of FCM, APNs, WNS, an SMTP relay and a receiver of webhooks,
for demos, tests and benchmarks.

They speak the vendors' real protocols over TLS, hold every request against the vendors' documented rules, answer in the
vendors' formats, and go wrong on request (see `faults`). They count what they accept and notice what they accept twice.
They deliver nothing. A control API over plain HTTP shows and steers them. Nothing here shares code with the clients.
"""

from __future__ import annotations

from tocsin.sandbox.server import Sandbox, serve

__all__ = ["Sandbox", "serve"]
