"""One sandbox: seven listeners that share the fault scripts and the counts."""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
import signal
import socket
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tocsin.sandbox.accepted import AcceptedLog
from tocsin.sandbox.apns import ApnsRules
from tocsin.sandbox.apns_token import ProviderTokens
from tocsin.sandbox.control import ControlApi
from tocsin.sandbox.credentials import TOPIC, Credentials, read_credentials
from tocsin.sandbox.faults import Faults, Vendor
from tocsin.sandbox.fcm import TOKEN_PATH, FcmRules
from tocsin.sandbox.fcm_grant import Bearers, FcmGrant
from tocsin.sandbox.http1 import Http1
from tocsin.sandbox.http2 import Http2
from tocsin.sandbox.listener import HOST, Listener, MakeProtocol, Negotiated, bind
from tocsin.sandbox.proxy import Entrance
from tocsin.sandbox.refusals import RefusalLog
from tocsin.sandbox.smtp import SmtpConnection, SmtpState
from tocsin.sandbox.smtp_login import Login
from tocsin.sandbox.vendor import VendorConnection, VendorRules
from tocsin.sandbox.web_push import WebPushRules
from tocsin.sandbox.web_push_key import Subscriptions, encode, point_of
from tocsin.sandbox.webhook import WebhookRules
from tocsin.sandbox.wns import CHANNEL_PATH, WnsRules
from tocsin.sandbox.wns_grant import ENTRA_PATH, WnsGrant

_PORTS = ("control", "fcm", "apns", "wns", "smtp", "webhook", "vapid")


class Sandbox:
    """A running sandbox, from `start` to `stop`.

    ports: the port of `control`, `fcm`, `apns`, `wns`, `smtp`, `webhook` and `vapid`. url: of the control API.
    credentials: the answer of `GET /credentials`. record, faults, subscriptions: what the control API reads, changes
    and makes, for use in the same process.
    """

    def __init__(self, sockets: dict[str, socket.socket], credentials: Credentials) -> None:
        self.ports = {name: int(sock.getsockname()[1]) for name, sock in sockets.items()}
        self.url = f"http://{HOST}:{self.ports['control']}"
        self.credentials = _describe(credentials, self.ports)
        key = _public_key(credentials.vapid_key)
        assert isinstance(key, EllipticCurvePublicKey)
        self.subscriptions = Subscriptions(_derive_key("web push", credentials), point_of(key))
        self.record = AcceptedLog()
        self.faults = Faults()
        self._refusals = RefusalLog()
        self._sockets = sockets
        self._credentials = credentials
        self._listeners: list[Listener] = []

    @classmethod
    async def start(cls, data: Path | None = None, port: int = 8200) -> Sandbox:
        """Serve on loopback: the control API on `port`, the vendors on the six ports after it; 0 takes free ones.

        data: the folder that keeps the credentials from one start to the next; None makes new ones.
        Raise Misconfigured when a port is in use or the credentials cannot be read.
        """
        sockets: dict[str, socket.socket] = {}
        try:
            for offset, name in enumerate(_PORTS):
                sockets[name] = bind(port + offset if port else 0)
            sandbox = cls(sockets, await asyncio.to_thread(read_credentials, data))
        except BaseException:
            for sock in sockets.values():
                sock.close()
            raise
        await sandbox._listen()
        return sandbox

    async def stop(self) -> None:
        """Close the listeners and drop every connection."""
        for listener in self._listeners:
            await listener.close()
        self._listeners.clear()

    def line(self) -> str:
        """Return the line to print when the sandbox is ready."""
        vendors = ", ".join(f"{name} {self.ports[name]}" for name in _PORTS[1:])
        return f"sandbox ready on {self.url} ({vendors})"

    async def _listen(self) -> None:
        """Open the seven listeners."""
        credentials, bearers, grant = self._credentials, Bearers(), WnsGrant(self._credentials)
        login = Login(credentials.smtp_username, credentials.smtp_password)
        smtp = SmtpState(credentials.tls(), login, self.faults, self.record, self._refusals)

        def revoke_tokens() -> None:
            bearers.forget()
            grant.forget()

        control = ControlApi(self.faults, self.record, self.credentials, revoke_tokens, self.subscriptions)
        push = WebPushRules(self.subscriptions, self.credentials["vapid"]["endpoint"])

        def enter(listener: Listener) -> asyncio.Protocol:
            return Entrance(listener, self.ports, self._refusals, lambda: Http1(listener, control))

        await self._open(
            "webhook", ("http/1.1",), self._http1("webhook", WebhookRules(_derive_key("webhook", credentials)))
        )
        await self._open("fcm", ("h2", "http/1.1"), self._fcm_protocol(bearers))
        await self._open("apns", ("h2",), self._apns_protocol())
        await self._open("wns", ("http/1.1",), self._http1("wns", WnsRules(grant, self.credentials["wns"]["endpoint"])))
        await self._open("vapid", ("h2", "http/1.1"), self._both("vapid", push))
        await self._open("smtp", None, lambda listener: SmtpConnection(listener, smtp))
        await self._open("control", None, enter)

    async def _open(self, name: str, protocols: tuple[str, ...] | None, make: MakeProtocol) -> None:
        """Open a listener; without ALPN `protocols` its connections begin in the clear."""
        tls = None if protocols is None else self._credentials.tls(protocols)
        self._listeners.append(await Listener.open(self._sockets[name], tls, make))

    def _connect(self, vendor: Vendor, rules: VendorRules) -> VendorConnection:
        return VendorConnection(vendor, rules, self.faults, self.record, self._refusals)

    def _http1(self, vendor: Vendor, rules: VendorRules) -> MakeProtocol:
        return lambda listener: Http1(listener, self._connect(vendor, rules))

    def _fcm_protocol(self, bearers: Bearers) -> MakeProtocol:
        """FCM over HTTP/2, and over HTTP/1.1 for clients that ask for it or send no ALPN."""
        key = _public_key(self._credentials.fcm_key)
        assert isinstance(key, RSAPublicKey)
        token_uri = self.credentials["fcm"]["service_account"]["token_uri"]
        grant = FcmGrant(key, self._credentials.fcm_key_id, self._credentials.fcm_client_email, token_uri, bearers)
        return self._both("fcm", FcmRules(grant, bearers))

    def _both(self, vendor: Vendor, rules: VendorRules) -> MakeProtocol:
        """HTTP/2, and HTTP/1.1 for clients that ask for it or send no ALPN."""

        def make(listener: Listener) -> asyncio.Protocol:
            http1 = functools.partial(self._http1(vendor, rules), listener)
            return Negotiated(
                {"h2": lambda: Http2(listener, self._connect(vendor, rules)), "http/1.1": http1, "": http1}
            )

        return make

    def _apns_protocol(self) -> MakeProtocol:
        """APNs over HTTP/2 only, also with prior knowledge (no ALPN), and with rules of its own for each connection."""
        key = _public_key(self._credentials.apns_key)
        assert isinstance(key, EllipticCurvePublicKey)
        tokens = ProviderTokens(key, self._credentials.apns_key_id, self._credentials.apns_team_id)

        def make(listener: Listener) -> asyncio.Protocol:
            def http2() -> asyncio.Protocol:
                return Http2(listener, self._connect("apns", ApnsRules(tokens)))

            return Negotiated({"h2": http2, "": http2})

        return make


def _derive_key(purpose: str, credentials: Credentials) -> bytes:
    return hashlib.sha256(purpose.encode() + credentials.wns_client_secret.encode()).digest()


def _public_key(pem: str) -> object:
    """Return the public key. The sandbox made the key itself: the test for primality at every start is left out."""
    return load_pem_private_key(pem.encode(), None, unsafe_skip_rsa_key_validation=True).public_key()


def _describe_point(pem: str) -> str:
    key = _public_key(pem)
    assert isinstance(key, EllipticCurvePublicKey)
    return encode(point_of(key))


def _describe(credentials: Credentials, ports: dict[str, int]) -> dict[str, Any]:
    """Return what a client needs to use the sandbox, as `GET /credentials` answers it."""
    fcm, apns, wns = (f"https://{HOST}:{ports[name]}" for name in ("fcm", "apns", "wns"))
    return {
        "ca": credentials.ca,
        "fcm": {"endpoint": fcm, "service_account": credentials.service_account(fcm + TOKEN_PATH)},
        "apns": {
            "endpoint": apns,
            "key": credentials.apns_key,
            "key_id": credentials.apns_key_id,
            "team_id": credentials.apns_team_id,
            "topic": TOPIC,
        },
        "wns": {
            "endpoint": wns,
            "token_endpoint": wns + ENTRA_PATH,
            "client_id": credentials.wns_client_id,
            "package_sid": credentials.wns_package_sid,
            "client_secret": credentials.wns_client_secret,
            "channel_prefix": f"{wns}{CHANNEL_PATH}?token=",
        },
        "smtp": {
            "host": HOST,
            "port": ports["smtp"],
            "username": credentials.smtp_username,
            "password": credentials.smtp_password,
        },
        "webhook": {
            "sms": f"https://{HOST}:{ports['webhook']}/sms",
            "webpush": f"https://{HOST}:{ports['webhook']}/webpush",
            "secret": "whsec_" + base64.b64encode(_derive_key("webhook", credentials)).decode(),
        },
        "vapid": {
            "endpoint": f"https://{HOST}:{ports['vapid']}",
            "key": credentials.vapid_key,
            "public_key": _describe_point(credentials.vapid_key),
            "subject": "mailto:sandbox@tocsin.example.com",
        },
    }


async def serve(data: Path | None, port: int = 8200) -> None:
    """Run a sandbox until SIGTERM or SIGINT, and print one line when it is ready."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    sandbox = await Sandbox.start(data, port)
    print(sandbox.line(), flush=True)
    await stopped.wait()
    await sandbox.stop()
