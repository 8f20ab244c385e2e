"""What the four vendors' tables share: a row, the receipt it makes, and what an answer that never came means."""

from __future__ import annotations

from urllib.parse import urlsplit

import msgspec

from tocsin.errors import Misconfigured
from tocsin.outcome import Outcome
from tocsin.providers.contract import Receipt, Scope
from tocsin.providers.http.transfer import VendorAnswer, is_loopback

DETAIL = 300  # characters of a vendor's sentence that a receipt keeps


class AnswerRule(msgspec.Struct, frozen=True):
    """A row of a vendor's table: how it ends, how far it reaches, seconds to wait when the vendor names none; `suspect`
    as in `Receipt`."""

    outcome: Outcome
    scope: Scope = Scope.MESSAGE
    wait: float | None = None
    suspect: bool = False

    def receipt(self, code: str, detail: str = "", retry_after: float | None = None) -> Receipt:
        """The receipt for one answer; the vendor's own `retry_after` goes before the row's."""
        wait = self.wait if retry_after is None or self.wait is None else retry_after
        return Receipt(
            outcome=self.outcome,
            code=code,
            detail=clip(detail),
            retry_after=wait,
            scope=self.scope,
            suspect=self.suspect,
        )


GONE = AnswerRule(Outcome.GONE)
SUSPECT = AnswerRule(Outcome.GONE, suspect=True)
REFUSED = AnswerRule(Outcome.REFUSED)
WRONG_TEMPLATE = AnswerRule(Outcome.REFUSED, Scope.CAMPAIGN)
DENIED = AnswerRule(Outcome.DENIED, Scope.LANE)
UNKNOWN = AnswerRule(Outcome.UNKNOWN)
TOO_MANY_WAIT = 60.0  # seconds after a 429 that no table knows


def unavailable(wait: float, scope: Scope = Scope.MESSAGE) -> AnswerRule:
    """The vendor is down or busy; the message was not taken."""
    return AnswerRule(Outcome.UNAVAILABLE, scope, wait)


def throttled(wait: float, scope: Scope) -> AnswerRule:
    """The vendor says that this device or this credential is too fast."""
    return AnswerRule(Outcome.THROTTLED, scope, wait)


def judge_failure(answer: VendorAnswer, wait: float) -> Receipt:
    """No answer came. Certainly not taken: the lane is `UNAVAILABLE`, because the next message would meet the same
    wall. Anything else is `UNKNOWN`; whether it is sent again is the campaign's choice, not ours."""
    if answer.failure == "unsent":
        return unavailable(wait, Scope.LANE).receipt("unsent", answer.detail)
    return UNKNOWN.receipt("unknown", answer.detail)


def judge_status(status: int, code: str, detail: str, wait: float, retry_after: float | None) -> Receipt:
    """An answer no table knows: 5xx is the vendor's trouble, 429 means slower (RFC 6585 4), anything else is taken for
    this message's."""
    if status >= 500:
        return unavailable(wait).receipt(code, detail, retry_after)
    if status == 429:
        return throttled(TOO_MANY_WAIT, Scope.LANE).receipt(code, detail, retry_after)
    return REFUSED.receipt(code, detail)


def wrong_kind(name: str) -> Receipt:
    """A message was routed to a provider that cannot carry it."""
    return REFUSED.receipt("wrong kind", f"{name} cannot carry this message")


def read_retry_after(answer: VendorAnswer) -> float | None:
    """Seconds in `Retry-After` (RFC 9110 10.2.3); its date form is rare, has the vendor's clock in it, and is left."""
    value = answer.headers.get("retry-after", "")
    return float(value) if value.isascii() and value.isdigit() and len(value) < 8 else None


def clip(text: str) -> str:
    """At most 300 characters on one line."""
    return " ".join(text.split())[:DETAIL]


def check_endpoint(option: str, url: str) -> str:
    """The URL without its last slash; plain http only on this machine. Raises `Misconfigured`."""
    parts = urlsplit(url)
    if not parts.hostname or parts.username or (parts.scheme != "https" and not is_loopback(url)):
        raise Misconfigured(f"{option} has to be an https URL, not {url!r}.")
    return url.rstrip("/")


def check_ca(pem: str) -> str:
    """The PEM text as it came. Raises `Misconfigured` for something that is not PEM."""
    if pem and "-----BEGIN CERTIFICATE-----" not in pem:
        raise Misconfigured("ca has to be a file of PEM certificates.")
    return pem
