"""Every setting once: name, type, default, sentence. They come from the environment; an unknown one stops us."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
import structlog
from msgspec import Meta

from tocsin.errors import Misconfigured

log = structlog.get_logger()

PREFIX = "TOCSIN_"
# Earlier names, understood until 0.2.
RENAMED = {"TOCSIN_COURIERS": "TOCSIN_SENDERS", "TOCSIN_RAMP_SECONDS": "TOCSIN_SLOW_START_SECONDS"}
LOOPBACK = ("127.0.0.1", "::1", "localhost")
HIDDEN = "…"
# A password may hold anything but @ (SQLAlchemy's rule), and a clumsy one even that: up to the last @.
_LOG_IN = re.compile(r"(://[^/?#@:]*):.*@", re.DOTALL)
_QUERY = re.compile(r"([?&;][^=&#]*(?:pass|pwd|secret|token)[^=&#]*=)[^&#]*", re.IGNORECASE)
# In a header the URL stands between < and >, in a list with commas (RFC 2369), and must not need folding.
PUBLIC_URL = re.compile(r"[!#-+\--;=?-~]{1,300}")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    ledger_url: Annotated[
        str, Meta(description="The ledger. Empty: `sqlite:///DIR/ledger.db`.", extra={"hidden": "password"})
    ] = ""
    facts_url: Annotated[
        str, Meta(description="The facts store. Empty: `chdb:///DIR/facts`.", extra={"hidden": "password"})
    ] = ""
    secret_key: Annotated[
        str,
        Meta(
            description="Keys for the providers' settings, each 32 bytes in base64, with commas between: the first "
            "encrypts, all decrypt. Empty: they are stored in clear text.",
            extra={"hidden": "value"},
        ),
    ] = ""
    public_url: Annotated[
        str,
        Meta(
            description="This server as the world reaches it, such as `https://mail.example.com`; empty: mails have no "
            "unsubscribe link and report nothing."
        ),
    ] = ""
    body_limit: Annotated[
        int, Meta(ge=1, le=1 << 30, description="Largest request body in bytes; a larger one is answered 413.")
    ] = 5 * 1024 * 1024
    body_megabytes: Annotated[
        int, Meta(ge=1, description="Memory that the bodies of all requests may take, in MB; of one account a quarter.")
    ] = 256
    body_seconds: Annotated[float, Meta(gt=0, le=3600, description="Seconds one body may take to arrive.")] = 30.0
    connections: Annotated[
        int, Meta(ge=16, le=65_536, description="Connections served at one time; further ones wait for one to end.")
    ] = 2048
    header_seconds: Annotated[
        float,
        Meta(ge=1, le=3600, description="Seconds a connection may rest, or take for the head of a request."),
    ] = 10.0
    operator_port: Annotated[
        int,
        Meta(
            ge=0,
            le=65_535,
            description="Port of the loopback for health and metrics, of any role; 0: they are beside the API.",
        ),
    ] = 0
    mail_account: Annotated[
        str,
        Meta(
            description="Id of the account whose mail relay carries invitations to the dashboard and links to another "
            "password; they need `TOCSIN_PUBLIC_URL`. Empty: there are none."
        ),
    ] = ""
    password_log_in: Annotated[
        bool,
        Meta(
            description="People log in to the dashboard with e-mail and password. False needs `TOCSIN_OIDC_ISSUER`; "
            "the command line is not asked."
        ),
    ] = True
    oidc_issuer: Annotated[
        str,
        Meta(
            description="Issuer of the identity provider (OpenID Connect) that people log in to the dashboard with, "
            "such as `https://accounts.google.com`; it needs `TOCSIN_PUBLIC_URL`. Empty: none."
        ),
    ] = ""
    oidc_client_id: Annotated[str, Meta(description="What the identity provider calls this server.")] = ""
    oidc_client_secret: Annotated[
        str,
        Meta(description="Its secret there; empty: it has none, and PKCE alone proves it.", extra={"hidden": "value"}),
    ] = ""
    oidc_viewers: Annotated[
        str,
        Meta(
            description="Such as `example.com:ABC-DEF-GHIJ`: whoever logs in with an address of this domain and is no "
            "user yet becomes a viewer of this account. Empty: only who is a user already may log in."
        ),
    ] = ""
    oidc_networks: Annotated[
        str,
        Meta(
            description="Networks of one's own that the identity provider may be in, such as `10.1.0.0/16`, with "
            "commas; without them only public addresses."
        ),
    ] = ""
    sandbox_port: Annotated[
        int,
        Meta(
            ge=0,
            le=65_529,
            description="Port of the loopback on which the dashboard's first steps look for a sandbox; 0: on none.",
        ),
    ] = 8200
    requests_at_once: Annotated[
        int, Meta(ge=4, description="`send` requests under way at one time in a process; of one account a quarter.")
    ] = 1024
    reads_at_once: Annotated[
        int, Meta(ge=1, description="Requests of one account that read, under way at one time in a process.")
    ] = 16
    create_per_second: Annotated[
        float, Meta(gt=0, description="`targets/create.json` requests one account may make in a second.")
    ] = 1.0
    create_at_once: Annotated[
        int, Meta(ge=1, description="`targets/create.json` requests of one account under way at one time.")
    ] = 3
    uploads_at_once: Annotated[
        int, Meta(ge=1, description="`upload` requests of one account under way at one time.")
    ] = 15
    send_requests_per_second: Annotated[
        float, Meta(ge=0, description="`send` requests one account may make in a second; 0: any number.")
    ] = 0.0
    send_people_per_second: Annotated[
        float,
        Meta(
            ge=0,
            description="People one account may name in `send` requests in a second; 0: any, while others leave room.",
        ),
    ] = 0.0
    event_names: Annotated[
        int, Meta(ge=1, le=100_000, description="Names of events one account may have; a further one gets code 528.")
    ] = 512
    event_properties: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000,
            description="Names of properties that the events of one account may have together; else code 522.",
        ),
    ] = 2048
    profile_properties: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000,
            description="Names of properties that the profiles of one account may have together; else code 522.",
        ),
    ] = 1024
    app_requests_per_second: Annotated[
        float, Meta(gt=0, description="Requests of one account's apps in a second and process; else 429.")
    ] = 5000.0
    app_device_per_minute: Annotated[
        int, Meta(ge=1, description="Requests of one device, by its CleverTap ID, in a minute and process; else 429.")
    ] = 240
    report_days: Annotated[
        float,
        Meta(gt=0, le=3650, description="Days after a message in which a view or click of it is taken; else 410."),
    ] = 90.0
    refused_logins: Annotated[
        int,
        Meta(
            ge=1, description="Wrong log-ins in a minute, for one account or from one address; more are answered 429."
        ),
    ] = 20
    query_seconds: Annotated[
        float, Meta(gt=0, le=600, description="Seconds one question to the facts store may take.")
    ] = 30.0
    query_megabytes: Annotated[
        int, Meta(ge=16, description="Memory one question to the facts store may take, in MB.")
    ] = 2048
    require_android_channel: Annotated[
        bool, Meta(description="Refuse an android block without a `wzrk_cid`, as CleverTap has done since 2018.")
    ] = False
    allow_system_events: Annotated[
        bool,
        Meta(description="Let `upload` raise App Launched and the like, for callers without an SDK; else code 513."),
    ] = False
    trace_share: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="Share of `/1/send` requests that are traced, beside those whose caller traces them; see "
            "docs/operations.md.",
        ),
    ] = 1.0
    window: Annotated[
        int, Meta(ge=1, le=1000, description="Recipients that one commit claims; twice as many may wait in a sender.")
    ] = 512
    senders: Annotated[
        int, Meta(ge=0, le=64, description="Processes that send for one worker; 0: it sends by itself.")
    ] = 2
    chunks_at_once: Annotated[
        int, Meta(ge=1, le=64, description="Chunks of campaigns that one worker sends from side by side.")
    ] = 4
    lease_seconds: Annotated[
        float, Meta(gt=1, description="How long a worker may be silent before another takes its chunk.")
    ] = 60.0
    retry_floor: Annotated[
        float, Meta(gt=0, description="Seconds before the first retry at least; FCM asks for 10 or more.")
    ] = 10.0
    retries: Annotated[
        int, Meta(ge=0, le=20, description="Retries of one recipient after the first attempt; then it is expired.")
    ] = 5
    slow_start_seconds: Annotated[
        float,
        Meta(ge=0, le=3600, description="Seconds a lane takes to climb back to its rate after a pause; 0: none."),
    ] = 60.0
    message_hours: Annotated[
        float, Meta(gt=0, le=672, description="Hours after which an undelivered message is given up.")
    ] = 24.0
    late_minutes: Annotated[
        float, Meta(gt=0, description="A run that could not begin for so many minutes is missed, not sent late.")
    ] = 60.0
    webhook_networks: Annotated[
        str,
        Meta(
            description="Networks of one's own that webhooks may be posted to, such as `10.1.0.0/16`, with commas; "
            "without them only public addresses."
        ),
    ] = ""
    webhook_days: Annotated[
        float, Meta(gt=0, le=30, description="Days of failures after which a webhook is disabled.")
    ] = 5.0
    export_folder: Annotated[
        str,
        Meta(
            description="Folder that the accounts of `tocsin export` are written to, as Parquet, or a bucket such as "
            "`s3://bucket/prefix`; empty: none is."
        ),
    ] = ""
    export_endpoint: Annotated[
        str,
        Meta(
            description="URL of an object store other than Amazon's that speaks S3, such as "
            "`https://minio.example.com:9000`; empty: Amazon's."
        ),
    ] = ""
    export_seconds: Annotated[
        float,
        Meta(gt=0, le=3600, description="Seconds of which one file of an export has what was stored, by the clock."),
    ] = 900.0
    drain_seconds: Annotated[
        float, Meta(ge=0, description="How long SIGTERM waits for answers of vendors before it gives up on them.")
    ] = 20.0

    def __repr__(self) -> str:
        shown = (f"{name}={show_value(name, getattr(self, name))!r}" for name in self.__struct_fields__)
        return f"Settings({', '.join(shown)})"


def show_value(field: str, value: object) -> str:
    """Return the value of a setting as it may be shown: without what is secret."""
    text = str(value)
    hidden = _HIDDEN.get(field)
    if hidden == "password":
        return hide_passwords(text)
    return HIDDEN if hidden == "value" and text else text


def hide_passwords(url: str) -> str:
    """Return a URL without its passwords, those in its query too. What could be one is hidden."""
    return _QUERY.sub(rf"\1{HIDDEN}", _LOG_IN.sub(rf"\1:{HIDDEN}@", url))


_HIDDEN = {
    field.name: meta.extra["hidden"]
    for field in msgspec.structs.fields(Settings)
    for meta in getattr(field.type, "__metadata__", ())
    if isinstance(meta, Meta) and meta.extra
}


def read_settings(environment: Mapping[str, str], data: Path) -> Settings:
    """Return the settings of a process: defaults, then the environment, then stores in `data` unless it names others.

    Raises Misconfigured for an unknown `TOCSIN_…` name or a value that does not fit.
    """
    known = {environment_name(field): field for field in Settings.__struct_fields__}
    given: dict[str, str] = {}
    for name, value in rename_old(environment).items():
        if not name.startswith(PREFIX):
            continue
        if name not in known:
            raise Misconfigured(f"{name} is not a setting; `tocsin config` lists them.")
        given[known[name]] = value
    try:
        settings = msgspec.convert(given, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise Misconfigured(f"A setting in the environment does not fit: {error}.") from None
    _check_log_in(settings)
    return msgspec.structs.replace(
        settings,
        ledger_url=settings.ledger_url or f"sqlite:///{data / 'ledger.db'}",
        facts_url=settings.facts_url or f"chdb://{(data / 'facts').resolve()}",
        public_url=_check_public_url(settings.public_url),
    )


def rename_old(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment with every setting under its new name; the log names each old one.

    Where both names are given, the new one counts.
    """
    renamed = dict(environment)
    for old, new in RENAMED.items():
        if old not in renamed:
            continue
        value = renamed.pop(old)
        log.warning("a setting has a new name", old=old, new=new, ignored=new in renamed)
        renamed.setdefault(new, value)
    return renamed


def environment_name(field: str) -> str:
    """Return the name a setting has in the environment."""
    return PREFIX + field.upper()


def _check_log_in(settings: Settings) -> None:
    """Raise Misconfigured for a log-in by an identity provider that cannot work, and when there is no way in."""
    if not settings.oidc_issuer:
        if not settings.password_log_in:
            raise Misconfigured("TOCSIN_PASSWORD_LOG_IN is off and TOCSIN_OIDC_ISSUER is empty: nobody could log in.")
        return
    if not settings.public_url or not settings.oidc_client_id:
        raise Misconfigured("TOCSIN_OIDC_ISSUER needs TOCSIN_OIDC_CLIENT_ID and TOCSIN_PUBLIC_URL.")
    parts = urlsplit(settings.oidc_issuer)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
        raise Misconfigured("TOCSIN_OIDC_ISSUER has to be an https URL.")
    domain, colon, account = settings.oidc_viewers.partition(":")
    if settings.oidc_viewers and not (colon and account and re.fullmatch(r"[a-z0-9.-]+", domain)):
        raise Misconfigured("TOCSIN_OIDC_VIEWERS has to be a domain in small letters and an account: example.com:ID.")


def _check_public_url(url: str) -> str:
    """Return the URL without its last slash.

    Raises Misconfigured for anything but https (RFC 8058) on another machine, and for a URL with a query or a log-in.
    """
    if not url:
        return ""
    try:
        parts = urlsplit(url)
        host, fine = parts.hostname, parts.port != 0
    except ValueError:  # a port that is no number
        host, fine = None, False
    plain = parts.scheme == "http" and host in LOOPBACK if fine else False
    if (
        not (fine and host and PUBLIC_URL.fullmatch(url))
        or not (parts.scheme == "https" or plain)
        or "@" in parts.netloc
        or parts.query
        or parts.fragment
    ):
        raise Misconfigured(
            f"TOCSIN_PUBLIC_URL has to be an https URL without a query, not {hide_passwords(url)[:300]!r}."
        )
    return url.rstrip("/")
