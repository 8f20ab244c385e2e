"""The keys, certificates and passwords of one sandbox, kept in the data folder when there is one."""

from __future__ import annotations

import datetime
import ipaddress
import os
import secrets
import ssl
import string
import tempfile
import uuid
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tocsin.errors import Misconfigured

PROJECT = "tocsin-sandbox"
TOPIC = "dev.tocsin.sandbox"
FILE = "sandbox.json"

VENDOR_HOSTS = {
    "fcm": ("fcm.googleapis.com", "oauth2.googleapis.com"),
    "apns": ("api.push.apple.com", "api.sandbox.push.apple.com", "api.development.push.apple.com"),
    "wns": ("login.microsoftonline.com", "login.live.com", "*.notify.windows.com"),
    "vapid": ("updates.push.services.mozilla.com", "web.push.apple.com"),
}
"""The vendors' own names, in the certificate for senders whose library asks for nobody else."""

_YEARS = datetime.timedelta(days=3650)


class Credentials(msgspec.Struct, frozen=True):
    """What the clients and the listeners of one sandbox need, as PEM or plain text.

    fcm_key is the service account's RSA-2048 key, apns_key the ES256 key of a .p8 file, vapid_key the key a sender of
    web pushes signs with; files of earlier versions have none. The key of the certificate
    authority is not kept: it signs one certificate and no other.
    """

    ca: str
    server_chain: str
    server_key: str
    fcm_key: str
    fcm_key_id: str
    fcm_client_id: str
    apns_key: str
    apns_key_id: str
    apns_team_id: str
    wns_client_id: str
    wns_package_sid: str
    wns_client_secret: str
    smtp_username: str
    smtp_password: str
    vapid_key: str = ""

    @property
    def fcm_client_email(self) -> str:
        """Return the service account's address, the `iss` of its assertions."""
        return f"sender@{PROJECT}.iam.gserviceaccount.com"

    def service_account(self, token_uri: str) -> dict[str, str]:
        """Return the content of the service account file, with `token_uri` on this sandbox."""
        return {
            "type": "service_account",
            "project_id": PROJECT,
            "private_key_id": self.fcm_key_id,
            "private_key": self.fcm_key,
            "client_email": self.fcm_client_email,
            "client_id": self.fcm_client_id,
            "token_uri": token_uri,
            "universe_domain": "googleapis.com",
        }

    def tls(self, protocols: tuple[str, ...] = ()) -> ssl.SSLContext:
        """Return a server context (TLS 1.2 or newer) that offers the ALPN `protocols`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        with tempfile.TemporaryDirectory(prefix="tocsin-sandbox-") as folder:  # 0700; ssl reads files only
            chain, key = Path(folder, "chain.pem"), Path(folder, "key.pem")
            chain.write_text(self.server_chain, encoding="ascii")
            key.write_text(self.server_key, encoding="ascii")
            context.load_cert_chain(chain, key)
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return context


def read_credentials(data: Path | None) -> Credentials:
    """Return the credentials kept in `data`, made there at the first call; new ones each time when `data` is None.

    Raise Misconfigured when the file cannot be read.
    """
    if data is None:
        return make_credentials()
    path = data / FILE
    if path.exists():
        try:
            found = msgspec.json.decode(path.read_bytes(), type=Credentials)
        except (OSError, msgspec.DecodeError) as error:
            raise Misconfigured(f"{path} is not a sandbox's credentials ({error}); remove it for new ones.") from None
        if found.vapid_key:
            return found
        made = msgspec.structs.replace(found, vapid_key=make_vapid_key())
        _write(path, made)
        return made
    data.mkdir(parents=True, exist_ok=True)
    made = make_credentials()
    _write(path, made)
    return made


def _write(path: Path, made: Credentials) -> None:
    temporary = path.with_suffix(f".{os.getpid()}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(made)))
    temporary.rename(path)


def make_credentials() -> Credentials:
    """Return new credentials, with a certificate of ten years for 127.0.0.1, localhost and the vendors' names from a
    new authority."""
    ca, chain, key = _certificates()
    letters = string.ascii_uppercase + string.digits
    return Credentials(
        ca=ca,
        server_chain=chain,
        server_key=key,
        fcm_key=_pem(rsa.generate_private_key(public_exponent=65537, key_size=2048)),
        fcm_key_id=secrets.token_hex(20),
        fcm_client_id="".join(secrets.choice(string.digits) for _ in range(21)),
        apns_key=_pem(ec.generate_private_key(ec.SECP256R1())),
        apns_key_id="".join(secrets.choice(letters) for _ in range(10)),
        apns_team_id="".join(secrets.choice(letters) for _ in range(10)),
        wns_client_id=str(uuid.uuid4()),
        wns_package_sid="ms-app://s-1-15-2-" + "-".join(str(secrets.randbelow(2**32)) for _ in range(7)),
        wns_client_secret=secrets.token_urlsafe(24),
        smtp_username="campaigns",
        smtp_password=secrets.token_urlsafe(18),
        vapid_key=make_vapid_key(),
    )


def make_vapid_key() -> str:
    """Return a new key for VAPID, as PEM."""
    return _pem(ec.generate_private_key(ec.SECP256R1()))


def _certificates() -> tuple[str, str, str]:
    """Return the PEM of the authority's certificate, of the server's certificate, and of the server's key."""
    now = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Tocsin sandbox authority")])
    authority = (
        _certificate(authority_name, authority_name, authority_key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    key = ec.generate_private_key(ec.SECP256R1())
    hosts = ["localhost", *(host for names in VENDOR_HOSTS.values() for host in names)]
    names = [*map(x509.DNSName, hosts), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    server = (
        _certificate(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]), authority_name, key.public_key(), now
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(issuer, critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    return authority.public_bytes(pem).decode(), server.public_bytes(pem).decode(), _pem(key)


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, start: datetime.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + _YEARS)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
