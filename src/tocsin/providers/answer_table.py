"""What the providers' tables of answers share: a row, the receipt it makes, and the receipt for no answer at all."""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import msgspec

from tocsin.errors import Misconfigured
from tocsin.outcome import Outcome
from tocsin.providers.contract import Receipt, Scope
from tocsin.providers.http.transfer import VendorAnswer, is_loopback
from tocsin.settings import hide_passwords

DETAIL = 300  # characters of the vendor's message that a receipt keeps


class AnswerRule(msgspec.Struct, frozen=True):
    """A row of a vendor's table. wait: seconds, where the vendor names none. scope, suspect: as in `Receipt`."""

    outcome: Outcome
    scope: Scope = Scope.MESSAGE
    wait: float | None = None
    suspect: bool = False

    def receipt(self, code: str, detail: str = "", retry_after: float | None = None) -> Receipt:
        """Return the receipt for one answer; the vendor's own `retry_after` replaces the row's wait, where it has
        one."""
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
    """Return a row for a vendor that is down or busy and did not take the message. wait: seconds."""
    return AnswerRule(Outcome.UNAVAILABLE, scope, wait)


def throttled(wait: float, scope: Scope) -> AnswerRule:
    """Return a row for a vendor's rate limit on this device or credential. wait: seconds."""
    return AnswerRule(Outcome.THROTTLED, scope, wait)


def judge_failure(answer: VendorAnswer, wait: float) -> Receipt:
    """Return the receipt when no answer came. «unsent»: `UNAVAILABLE` for the whole lane, because the next message
    would meet the same trouble. Anything else is `UNKNOWN`; whether it is sent again is the campaign's setting."""
    if answer.failure == "unsent":
        return unavailable(wait, Scope.LANE).receipt("unsent", answer.detail)
    return UNKNOWN.receipt("unknown", answer.detail)


def is_astray(status: int) -> bool:
    """Return whether a status says that a request for one vendor did not come to it: a redirect, a method that is not
    taken there, or a proxy that wants a log-in. The next message would be answered the same."""
    return 300 <= status < 400 or status in (405, 407)


def judge_status(status: int, code: str, detail: str, wait: float, retry_after: float | None) -> Receipt:
    """Return the receipt for a status that the vendor's table does not have: 5xx and 408, which has not read the
    message (RFC 9110 15.5.9), are `UNAVAILABLE`, 429 `THROTTLED` (RFC 6585 4), anything else `REFUSED`. wait: seconds,
    for a 5xx."""
    if status >= 500 or status == 408:
        return unavailable(wait).receipt(code, detail, retry_after)
    if status == 429:
        return throttled(TOO_MANY_WAIT, Scope.LANE).receipt(code, detail, retry_after)
    return REFUSED.receipt(code, detail)


def wrong_kind(name: str) -> Receipt:
    """Return the receipt for a message that was routed to a provider of another kind."""
    return REFUSED.receipt("wrong kind", f"{name} cannot carry this message")


def read_retry_after(answer: VendorAnswer) -> float | None:
    """Return the seconds in `Retry-After` (RFC 9110 10.2.3). Its date form is held against the `Date` of the same
    answer, so that only the vendor's clock counts; None for one without, and for what is neither."""
    value = answer.headers.get("retry-after", "")
    if value.isascii() and value.isdigit() and len(value) < 8:
        return float(value)
    then, now = _read_date(value), _read_date(answer.headers.get("date", ""))
    return None if then is None or now is None else max(then - now, 0.0)


def _read_date(text: str) -> float | None:
    """Return a date of HTTP in epoch seconds, None for what is none."""
    try:
        return parsedate_to_datetime(text[:64]).timestamp()
    except (ValueError, TypeError, OverflowError, OSError):
        return None


def clip(text: str) -> str:
    """Return at most 300 characters of a stranger's text, on one line; what a terminal would obey, and the NUL that
    PostgreSQL refuses, are spaces."""
    printable = text if text.isprintable() else "".join(sign if sign.isprintable() else " " for sign in text)
    return " ".join(printable.split())[:DETAIL]


def check_endpoint(option: str, url: str) -> str:
    """Return the URL without its last slash. Raises Misconfigured unless it is https, or http on this machine."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # a bracket that is not closed, a port that is no number
        raise Misconfigured(f"{option} has to be an https URL, not {hide_passwords(url)!r}.") from None
    if not parts.hostname or parts.username or parts.password or (parts.scheme != "https" and not is_loopback(url)):
        raise Misconfigured(f"{option} has to be an https URL, not {hide_passwords(url)!r}.")
    return url.rstrip("/")


def is_at(endpoint: str, url: str) -> bool:
    """Return whether a URL leads to the scheme, host and port of `endpoint`."""
    ours, theirs = urlsplit(endpoint), urlsplit(url)
    ports = [parts.port or (443 if parts.scheme == "https" else 80) for parts in (ours, theirs)]
    return (ours.scheme, ours.hostname, ports[0]) == (theirs.scheme, theirs.hostname, ports[1])


def move_to(endpoint: str, url: str) -> str:
    """Return the same path and query at `endpoint`; the URL itself when it leads there already."""
    return url if is_at(endpoint, url) else endpoint + url.partition("://")[2][len(urlsplit(url).netloc) :]


def check_ca(pem: str) -> str:
    """Return the PEM text. Raises Misconfigured when it holds no certificate."""
    if pem and "-----BEGIN CERTIFICATE-----" not in pem:
        raise Misconfigured("ca has to be a file of PEM certificates.")
    return pem
