"""An identity provider on loopback: OpenID Connect's code flow, as strict as its documents, with tokens that a test can
spoil."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

CLIENT, SECRET = "tocsin", "s3cret & more"
Claims = dict[str, Any]


class Key:
    """A key that signs, and what is published of it."""

    def __init__(self, kid: str):
        self.kid, self.private = kid, rsa.generate_private_key(public_exponent=65537, key_size=2048)

    @property
    def published(self) -> dict[str, Any]:
        shown: dict[str, Any] = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self.private.public_key()))
        return shown | {"kid": self.kid, "use": "sig", "alg": "RS256"}

    def sign(self, claims: Claims, **header: Any) -> str:
        pem = self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return jwt.encode(claims, pem, algorithm="RS256", headers={"kid": self.kid} | header)


class IdentityProvider:
    """Listens on a port of its own. email, verified: of whoever logs in. write: makes a token of its claims."""

    def __init__(self) -> None:
        self.key = Key("one")
        self.keys = [self.key]
        self.email, self.verified = "", True
        self.refusal = ""
        self.write: Callable[[Claims], str] = self._write
        self.asked: list[str] = []
        self._codes: dict[str, dict[str, str]] = {}
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                provider.asked.append(parts.path)
                if parts.path == "/log-in":
                    self.send_response(302)
                    self.send_header("Location", provider.log_in(parts.query))
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                else:
                    self.answer(200, provider.describe()[parts.path])

            def do_POST(self) -> None:
                provider.asked.append(self.path)
                form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                flat = {name: values[0] for name, values in form.items()}
                self.answer(*provider.redeem(flat, self.headers.get("Authorization", "")))

            def answer(self, status: int, value: Any) -> None:
                body = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.issuer = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def _write(self, claims: Claims) -> str:
        return self.key.sign(claims)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def describe(self) -> dict[str, Any]:
        return {
            "/.well-known/openid-configuration": {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/log-in",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/keys",
                "response_types_supported": ["code"],
            },
            "/keys": {"keys": [key.published for key in self.keys]},
        }

    def log_in(self, query: str) -> str:
        """Where somebody who logs in is sent."""
        asked = {name: values[0] for name, values in parse_qs(query).items()}
        assert (asked["response_type"], asked["client_id"], asked["code_challenge_method"]) == ("code", CLIENT, "S256")
        assert {"openid", "email"} <= set(asked["scope"].split())
        if self.refusal:
            return f"{asked['redirect_uri']}?{urlencode({'error': self.refusal, 'state': asked['state']})}"
        code = secrets.token_urlsafe(16)
        self._codes[code] = asked
        return f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state'], 'iss': self.issuer})}"

    def redeem(self, form: dict[str, str], authorization: str) -> tuple[int, dict[str, Any]]:
        """The answer of the token endpoint: a code is good once, for who began and knows the verifier."""
        pair = base64.b64encode(f"{CLIENT}:{SECRET.replace(' ', '+').replace('&', '%26')}".encode()).decode()
        if authorization != f"Basic {pair}":
            return 401, {"error": "invalid_client"}
        asked = self._codes.pop(form.get("code", ""), None)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).decode()
        if asked is None or asked["redirect_uri"] != form["redirect_uri"]:
            return 400, {"error": "invalid_grant"}
        if asked["code_challenge"] != challenge.rstrip("=") or form["grant_type"] != "authorization_code":
            return 400, {"error": "invalid_grant"}
        now = int(time.time())
        claims = {"iss": self.issuer, "aud": CLIENT, "sub": "7", "iat": now, "exp": now + 300, "nonce": asked["nonce"]}
        claims |= {"email": self.email, "email_verified": self.verified}
        return 200, {"access_token": "a", "token_type": "Bearer", "id_token": self.write(claims)}
