"""What the sandbox's tests drive it with: libcurl, a bare HTTP/2 client on jh2, and tokens minted with PyJWT."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import jwt
import pycurl
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jh2.config import H2Configuration
from jh2.connection import H2Connection
from jh2.settings import SettingCodes

from tocsin.sandbox import Sandbox

HEADERS, GOAWAY = 0x1, 0x7
"""Frame types of RFC 9113."""


@dataclass
class Answer:
    """A response; header names are lower-case."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Curl:
    """One libcurl handle, which keeps its connections between calls. version: a `pycurl.CURL_HTTP_VERSION_…`.

    patience: seconds one request may take.
    """

    def __init__(self, ca: Path, version: int = pycurl.CURL_HTTP_VERSION_2TLS) -> None:
        self._handle = pycurl.Curl()
        self.ca = ca
        self._version = version
        self.patience = 10.0
        self.proxy = ""

    async def ask(self, method: str, url: str, headers: Sequence[str] = (), body: bytes | None = None) -> Answer:
        """Sends one request in a thread; raises pycurl.error where there is no answer."""
        return await asyncio.to_thread(self._ask, method, url, headers, body)

    def _ask(self, method: str, url: str, headers: Sequence[str], body: bytes | None) -> Answer:
        handle, answer, content = self._handle, Answer(0), BytesIO()

        def header(line: bytes) -> None:
            name, colon, value = line.decode("latin-1").partition(":")
            if colon:
                answer.headers[name.strip().lower()] = value.strip()

        handle.reset()
        handle.setopt(pycurl.URL, url)
        handle.setopt(pycurl.CAINFO, str(self.ca))
        handle.setopt(pycurl.PROXY, self.proxy)
        handle.setopt(pycurl.HTTP_VERSION, self._version)
        handle.setopt(pycurl.TIMEOUT_MS, int(self.patience * 1000))
        handle.setopt(pycurl.HTTPHEADER, ["Expect:", *headers])
        if body is not None:
            handle.setopt(pycurl.POSTFIELDS, body)
        handle.setopt(pycurl.CUSTOMREQUEST, method)
        handle.setopt(pycurl.HEADERFUNCTION, header)
        handle.setopt(pycurl.WRITEFUNCTION, content.write)
        handle.perform()
        answer.status, answer.body = handle.getinfo(pycurl.RESPONSE_CODE), content.getvalue()
        return answer

    def renew(self) -> None:
        """Forgets the connections."""
        self._handle.close()
        self._handle = pycurl.Curl()

    def close(self) -> None:
        self._handle.close()


class Wire:
    """A bare HTTP/2 connection that shows every event, for what libcurl hides."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.h2 = H2Connection(config=H2Configuration(client_side=True, header_encoding="utf-8"))
        self.events: list[Any] = []

    @classmethod
    @asynccontextmanager
    async def to(cls, endpoint: str, ca: str, protocols: Sequence[str] = ("h2",)) -> AsyncIterator[Wire]:
        """A connection to `endpoint`, closed at the end of the block. protocols: of ALPN, which none leaves out."""
        context = ssl.create_default_context(cadata=ca)
        if protocols:
            context.set_alpn_protocols(list(protocols))
        parts = urlsplit(endpoint)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, ssl=context)
        wire = cls(reader, writer)
        wire.h2.initiate_connection()
        wire.flush()
        try:
            yield wire
        finally:
            writer.transport.abort()

    def send(self, headers: list[tuple[str, str]], body: bytes, *, end: bool = True) -> int:
        """Sends a request on a new stream, without its end where asked; gives the stream."""
        stream = int(self.h2.get_next_available_stream_id())
        self.h2.send_headers(stream, headers)
        self.h2.send_data(stream, body, end_stream=end)
        self.flush()
        return stream

    def send_over_limit(self, headers: list[tuple[str, str]], body: bytes) -> int:
        """Sends a request though the peer's stream limit forbids it, as a client does before it knows the limit."""
        allowed = self.h2.remote_settings.max_concurrent_streams
        self.h2.remote_settings[SettingCodes.MAX_CONCURRENT_STREAMS] = 100
        self.h2.remote_settings.acknowledge()
        stream = self.send(headers, body)
        self.h2.remote_settings[SettingCodes.MAX_CONCURRENT_STREAMS] = allowed
        self.h2.remote_settings.acknowledge()
        return stream

    def send_reset(self, headers: list[tuple[str, str]], body: bytes) -> None:
        """Sends a request and its cancellation in one piece."""
        stream = int(self.h2.get_next_available_stream_id())
        self.h2.send_headers(stream, headers)
        self.h2.send_data(stream, body, end_stream=True)
        self.h2.reset_stream(stream)
        self.flush()

    def flush(self) -> None:
        self._writer.write(self.h2.data_to_send())

    async def until(self, kind: type, stream: int | None = None) -> Any:
        """The first event of `kind` (on `stream`) that has come or comes."""
        while True:
            for event in self.events:
                if isinstance(event, kind) and stream in (None, getattr(event, "stream_id", None)):
                    return event
            data = await asyncio.wait_for(self._reader.read(65536), 5)
            if not data:
                raise ConnectionError("The connection ended.")
            self.events += self.h2.receive_data(data)
            self.flush()

    async def frames_until(self, kind: int, stream: int) -> list[tuple[int, int, bytes]]:
        """Type, stream and payload of the frames that come, up to the first of `kind` on `stream`."""
        frames: list[tuple[int, int, bytes]] = []
        while not frames or frames[-1][:2] != (kind, stream):
            head = await asyncio.wait_for(self._reader.readexactly(9), 5)
            payload = await asyncio.wait_for(self._reader.readexactly(int.from_bytes(head[:3], "big")), 5)
            frames.append((head[3], int.from_bytes(head[5:], "big"), payload))
        return frames


@asynccontextmanager
async def running(folders: pytest.TempPathFactory) -> AsyncIterator[Sandbox]:
    """A fresh sandbox on free ports with the same credentials for the whole session."""
    sandbox = await Sandbox.start(folders.getbasetemp() / "sandbox", 0)
    (folders.getbasetemp() / "ca.pem").write_text(sandbox.credentials["ca"])
    try:
        yield sandbox
    finally:
        await sandbox.stop()


@cache
def _private_key(pem: str) -> RSAPrivateKey:
    key = load_pem_private_key(pem.encode(), None)
    assert isinstance(key, RSAPrivateKey)
    return key


def assertion(account: dict[str, str], **changes: object) -> str:
    """A service account's assertion, as Google's clients make it; `changes` replace claims."""
    now = int(time.time())
    scope = "https://www.googleapis.com/auth/firebase.messaging"
    claims = {"iss": account["client_email"], "scope": scope, "aud": "https://oauth2.googleapis.com/token"}
    return jwt.encode(
        {**claims, "iat": now, "exp": now + 3600, **changes},
        _private_key(account["private_key"]),
        "RS256",
        headers={"kid": account["private_key_id"]},
    )


def grant_form(signed: str) -> bytes:
    """The form of the JWT bearer grant."""
    return urlencode({"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": signed}).encode()


def provider_token(apns: dict[str, str], age: float = 0, **header: str) -> str:
    """An APNs provider token issued `age` seconds ago."""
    claims = {"iss": apns["team_id"], "iat": int(time.time() - age)}
    return jwt.encode(claims, apns["key"], "ES256", headers={"kid": apns["key_id"], **header})
