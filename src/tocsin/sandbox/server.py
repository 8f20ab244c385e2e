"""One sandbox: six listeners, one record, one set of fault scripts."""

from __future__ import annotations

import asyncio
import base64
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
from tocsin.sandbox.faults import Faults
from tocsin.sandbox.fcm import TOKEN_PATH, FcmRules
from tocsin.sandbox.fcm_grant import Bearers, FcmGrant
from tocsin.sandbox.http1 import Http1
from tocsin.sandbox.http2 import Http2
from tocsin.sandbox.listener import HOST, Listener, Negotiated, bind
from tocsin.sandbox.smtp import SmtpConversation, SmtpState
from tocsin.sandbox.smtp_login import Login
from tocsin.sandbox.vendor import VendorConnection
from tocsin.sandbox.webhook import WebhookRules
from tocsin.sandbox.wns import CHANNEL_PATH, WnsRules
from tocsin.sandbox.wns_grant import ENTRA_PATH, WnsGrant

_PORTS = ("control", "fcm", "apns", "wns", "smtp", "webhook")


class Sandbox:
    """A running sandbox; `start` makes one, `stop` ends it.

    ports: the port of `control`, `fcm`, `apns`, `wns`, `smtp` and `webhook`. url: the control API. credentials: what
    `GET /credentials` answers. record and faults: what the control API shows, for those in the same process.
    """

    def __init__(self, sockets: dict[str, socket.socket], kept: Credentials) -> None:
        self.ports = {name: int(taken.getsockname()[1]) for name, taken in sockets.items()}
        self.url = f"http://{HOST}:{self.ports['control']}"
        self.credentials = _shown(kept, self.ports)
        self.record = AcceptedLog()
        self.faults = Faults()
        self._sockets = sockets
        self._kept = kept
        self._listeners: list[Listener] = []

    @classmethod
    async def start(cls, data: Path | None = None, port: int = 8200) -> Sandbox:
        """Serves on loopback: the control API on `port`, the vendors on the five ports after it; 0 takes free ones.

        data: the folder that keeps the credentials from one start to the next; None makes new ones.
        Raises Misconfigured where a port is taken or the credentials cannot be read.
        """
        sockets: dict[str, socket.socket] = {}
        try:
            for offset, name in enumerate(_PORTS):
                sockets[name] = bind(port + offset if port else 0)
            sandbox = cls(sockets, await asyncio.to_thread(read_credentials, data))
        except BaseException:
            for taken in sockets.values():
                taken.close()
            raise
        await sandbox._listen()
        return sandbox

    async def stop(self) -> None:
        """Closes the listeners and drops every connection."""
        for listener in self._listeners:
            await listener.close()
        self._listeners.clear()

    def line(self) -> str:
        """What is printed when the sandbox is ready."""
        vendors = ", ".join(f"{name} {self.ports[name]}" for name in _PORTS[1:])
        return f"sandbox ready on {self.url} ({vendors})"

    async def _listen(self) -> None:
        kept, sockets = self._kept, self._sockets
        bearers, grant = Bearers(), WnsGrant(self._kept)
        fcm, wns, tokens = self._fcm_rules(bearers), self._wns_rules(grant), self._provider_tokens()
        fcm_tls, apns_tls, wns_tls = kept.tls(("h2", "http/1.1")), kept.tls(("h2",)), kept.tls(("http/1.1",))
        post = SmtpState(kept.tls(), Login(kept.smtp_username, kept.smtp_password), self.faults, self.record)

        def revoke() -> None:
            bearers.forget()
            grant.forget()

        control = ControlApi(self.faults, self.record, self.credentials, revoke)

        def for_fcm(listener: Listener) -> asyncio.Protocol:
            return Negotiated(
                {
                    "h2": lambda: Http2(listener, VendorConnection("fcm", fcm, self.faults, self.record)),
                    "http/1.1": lambda: Http1(listener, VendorConnection("fcm", fcm, self.faults, self.record)),
                    "": lambda: Http1(listener, VendorConnection("fcm", fcm, self.faults, self.record)),
                }
            )

        def for_apns(listener: Listener) -> asyncio.Protocol:
            return Negotiated(
                {"h2": lambda: Http2(listener, VendorConnection("apns", ApnsRules(tokens), self.faults, self.record))}
            )

        def for_wns(listener: Listener) -> asyncio.Protocol:
            return Http1(listener, VendorConnection("wns", wns, self.faults, self.record))

        hook, hook_tls = WebhookRules(_webhook_key(kept)), kept.tls(("http/1.1",))

        def for_webhook(listener: Listener) -> asyncio.Protocol:
            return Http1(listener, VendorConnection("webhook", hook, self.faults, self.record))

        self._listeners = [
            await Listener.open(sockets["webhook"], hook_tls, for_webhook),
            await Listener.open(sockets["fcm"], fcm_tls, for_fcm),
            await Listener.open(sockets["apns"], apns_tls, for_apns),
            await Listener.open(sockets["wns"], wns_tls, for_wns),
            await Listener.open(sockets["smtp"], None, lambda listener: SmtpConversation(listener, post)),
            await Listener.open(sockets["control"], None, lambda listener: Http1(listener, control)),
        ]

    def _fcm_rules(self, bearers: Bearers) -> FcmRules:
        key = _public_key(self._kept.fcm_key)
        assert isinstance(key, RSAPublicKey)
        token_uri = self.credentials["fcm"]["service_account"]["token_uri"]
        grant = FcmGrant(key, self._kept.fcm_key_id, self._kept.fcm_client_email, token_uri, bearers)
        return FcmRules(grant, bearers)

    def _wns_rules(self, grant: WnsGrant) -> WnsRules:
        return WnsRules(grant, self.credentials["wns"]["endpoint"])

    def _provider_tokens(self) -> ProviderTokens:
        key = _public_key(self._kept.apns_key)
        assert isinstance(key, EllipticCurvePublicKey)
        return ProviderTokens(key, self._kept.apns_key_id, self._kept.apns_team_id)


def _webhook_key(kept: Credentials) -> bytes:
    return hashlib.sha256(b"webhook" + kept.wns_client_secret.encode()).digest()


def _public_key(pem: str) -> object:
    """The public half of a key the sandbox made itself, which need not be tested for primality at every start."""
    return load_pem_private_key(pem.encode(), None, unsafe_skip_rsa_key_validation=True).public_key()


def _shown(kept: Credentials, ports: dict[str, int]) -> dict[str, Any]:
    """What a client needs to use the sandbox, as the control API gives it out."""
    fcm, apns, wns = (f"https://{HOST}:{ports[name]}" for name in ("fcm", "apns", "wns"))
    return {
        "ca": kept.ca,
        "fcm": {"endpoint": fcm, "service_account": kept.service_account(fcm + TOKEN_PATH)},
        "apns": {
            "endpoint": apns,
            "key": kept.apns_key,
            "key_id": kept.apns_key_id,
            "team_id": kept.apns_team_id,
            "topic": TOPIC,
        },
        "wns": {
            "endpoint": wns,
            "token_endpoint": wns + ENTRA_PATH,
            "client_id": kept.wns_client_id,
            "package_sid": kept.wns_package_sid,
            "client_secret": kept.wns_client_secret,
            "channel_prefix": f"{wns}{CHANNEL_PATH}?token=",
        },
        "smtp": {
            "host": HOST,
            "port": ports["smtp"],
            "username": kept.smtp_username,
            "password": kept.smtp_password,
        },
        "webhook": {
            "sms": f"https://{HOST}:{ports['webhook']}/sms",
            "webpush": f"https://{HOST}:{ports['webhook']}/webpush",
            "secret": "whsec_" + base64.b64encode(_webhook_key(kept)).decode(),
        },
    }


async def serve(data: Path | None, port: int = 8200) -> None:
    """Runs a sandbox until SIGTERM or SIGINT; prints one line when it is ready."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    sandbox = await Sandbox.start(data, port)
    print(sandbox.line(), flush=True)
    await stopped.wait()
    await sandbox.stop()
