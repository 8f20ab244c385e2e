"""The control API: counts, messages, faults and credentials, as JSON over plain HTTP/1.1 on loopback."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta

from tocsin.errors import Problem
from tocsin.sandbox.accepted import AcceptedLog
from tocsin.sandbox.faults import Fault, Faults, Vendor
from tocsin.sandbox.http import Head, VendorReply, VendorRequest, json_reply
from tocsin.sandbox.web_push_key import Subscriptions, decode


class _MessagesQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    vendor: Vendor | Literal[""] = ""
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    after: Annotated[int, Meta(ge=0)] = 0


class _SubscriptionsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    count: Annotated[int, Meta(ge=1, le=1000)] = 1
    browser: Literal["chrome", "firefox", "safari"] = "firefox"
    marker: Annotated[str, Meta(pattern=r"^[a-z-]{0,32}$")] = ""
    public_key: Annotated[str, Meta(max_length=100)] = ""


class ControlApi:
    """Answers the requests of every connection to the control port."""

    def __init__(
        self,
        faults: Faults,
        record: AcceptedLog,
        credentials: Mapping[str, Any],
        revoke: Callable[[], None],
        subscriptions: Subscriptions,
    ) -> None:
        self.streams = 1
        self._faults = faults
        self._record = record
        self._credentials = credentials
        self._revoke = revoke
        self._subscriptions = subscriptions
        self._routes = {
            ("GET", "/counts"): self._counts,
            ("GET", "/messages"): self._messages,
            ("GET", "/refused"): self._refused,
            ("DELETE", "/messages"): self._forget_messages,
            ("GET", "/faults"): self._show_faults,
            ("POST", "/faults"): self._add_faults,
            ("DELETE", "/faults"): self._forget_faults,
            ("GET", "/credentials"): self._show_credentials,
            ("GET", "/ca.pem"): lambda query, body: _file(credentials["ca"]),
            ("GET", "/service_account.json"): lambda query, body: json_reply(
                200, credentials["fcm"]["service_account"]
            ),
            ("GET", "/apns.p8"): lambda query, body: _file(credentials["apns"]["key"]),
            ("GET", "/vapid.pem"): lambda query, body: _file(credentials["vapid"]["key"]),
            ("DELETE", "/tokens"): self._revoke_tokens,
            ("POST", "/subscriptions"): self._make_subscriptions,
        }

    def draw_fault(self, head: Head) -> Fault | None:
        """See RequestHandler. The control API has no faults."""
        return None

    def goaway_data(self, fault: Fault) -> bytes:
        """See RequestHandler."""
        return b""

    def note_break(self, why: str) -> None:
        """See RequestHandler."""

    def reply(self, request: VendorRequest) -> VendorReply:
        """See RequestHandler. A Problem is answered as `{"error": …}`."""
        path, _, query = request.head.target.partition("?")
        if request.head.header("origin") is not None:  # of a page in a browser: it must not set faults or read keys
            return json_reply(403, {"error": "A web page may not ask this."})
        route = self._routes.get((request.head.method, path))
        if route is None:
            known = any(path == other for _, other in self._routes)
            return json_reply(405 if known else 404, {"error": f"There is no {request.head.method} {path} here."})
        try:
            return route(query, request.body)
        except Problem as problem:
            return json_reply(problem.status, {"error": problem.error})

    def _counts(self, query: str, body: bytes) -> VendorReply:
        return json_reply(200, self._record.counts)

    def _messages(self, query: str, body: bytes) -> VendorReply:
        try:
            page = msgspec.convert(dict(parse_qsl(query, keep_blank_values=True)), _MessagesQuery, strict=False)
        except msgspec.ValidationError as error:
            raise Problem(f"The query does not fit: {error}.") from None
        content = self._record.page(page.vendor or None, page.after, page.limit)
        return VendorReply(200, (("content-type", "application/json; charset=UTF-8"),), content)

    def _refused(self, query: str, body: bytes) -> VendorReply:
        return json_reply(200, {"messages": list(self._record.refused)})

    def _forget_messages(self, query: str, body: bytes) -> VendorReply:
        self._record.forget()
        return json_reply(200, self._record.counts)

    def _show_faults(self, query: str, body: bytes) -> VendorReply:
        return json_reply(200, {"faults": self._faults.shown()})

    def _add_faults(self, query: str, body: bytes) -> VendorReply:
        try:
            given = msgspec.json.decode(body, type=Fault | list[Fault])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Problem(f"The fault script does not fit: {error}.") from None
        self._faults.add([given] if isinstance(given, Fault) else given)
        return self._show_faults(query, body)

    def _forget_faults(self, query: str, body: bytes) -> VendorReply:
        self._faults.forget()
        return self._show_faults(query, body)

    def _revoke_tokens(self, query: str, body: bytes) -> VendorReply:
        self._revoke()
        return json_reply(200, {})

    def _make_subscriptions(self, query: str, body: bytes) -> VendorReply:
        try:
            asked = msgspec.json.decode(body or b"{}", type=_SubscriptionsQuery)
            key = decode(asked.public_key) if asked.public_key else b""
        except (msgspec.DecodeError, ValueError) as error:
            raise Problem(f"The subscriptions do not fit: {error}.") from None
        made = [self._subscriptions.make(asked.browser, asked.marker, key) for _ in range(asked.count)]
        return json_reply(200, {"subscriptions": made})

    def _show_credentials(self, query: str, body: bytes) -> VendorReply:
        return json_reply(200, self._credentials)


def _file(text: str) -> VendorReply:
    return VendorReply(200, (("content-type", "text/plain; charset=UTF-8"),), text.encode())
