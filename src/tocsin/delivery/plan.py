"""The delivery plan of a chunk: its content, how large its windows are, its quiet hours and caps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec
import structlog
from sqlalchemy import Connection, bindparam, func, literal, select, union_all

from tocsin import queue
from tocsin.account import Account
from tocsin.campaign.addressees import find_recipients, list_keys
from tocsin.campaign.quiet_hours import Quiet, to_quiet
from tocsin.campaign.runs import read_stored_spec
from tocsin.campaign.send import StoredRequest
from tocsin.campaign.spec import Spec
from tocsin.channels import CHANNELS
from tocsin.delivery.batch import BatchContext
from tocsin.delivery.frequency_cap import CapRule, name_message
from tocsin.delivery.push_id import Secrets
from tocsin.delivery.recipients import Person, load_people
from tocsin.policy import Cap, Policy, Tracking, read_policy
from tocsin.providers import BY_NAME
from tocsin.providers.contract import Credential
from tocsin.providers.credential import open_credential
from tocsin.queue import Chunk
from tocsin.settings import Settings
from tocsin.store import schema
from tocsin.store.props import fold

log = structlog.get_logger()

NOTHING = Tracking(opens=False, clicks=False)
_UNREAD = Quiet({}, "account", "delay")
WINDOW_BYTES = 16 * 1024 * 1024  # of content rendered and in flight for one chunk


class DeliveryPlan(msgspec.Struct, frozen=True):
    """What holds for every message of a chunk.

    personal: the content reads profiles. window: recipients in flight. rule: None when no cap applies. label: names the
    content; each variant of a campaign has its own. groups: subscription groups, folded; who left one gets nothing.
    """

    context: BatchContext
    every_device: bool
    personal: bool
    window: int
    quiet: Quiet | None = None
    rule: CapRule | None = None
    label: str = ""
    groups: frozenset[str] = frozenset()


class LookUp(msgspec.Struct, frozen=True):
    """What is read before a claim. named: recipients of new requests, by chunk, and the request without their names."""

    account: Account
    credentials: Sequence[Credential]
    plans: Sequence[tuple[Chunk, DeliveryPlan]]
    named: Mapping[int, tuple[Sequence[tuple[int, str]], str]]
    people: dict[int, Person]

    def name(self, chunk: Chunk, now: float) -> None:
        """Give a new request its recipients, in place of the names it came with."""
        if (found := self.named.get(chunk.id)) is not None:
            recipients, chunk.request = found
            queue.name_recipients(chunk, recipients, now)


class AccountSettings(NamedTuple):
    """What an account has set. sdk_id: of its apps; "" when it has none."""

    policy: Policy
    credentials: Sequence[Credential]
    sdk_id: str


_POLICY, _PROVIDER, _APP = "policy", "provider", "app"
_stored, _provider = schema.policy, schema.provider
_OF_ACCOUNT = union_all(
    select(literal(_POLICY), _stored.c.name, _stored.c.value, literal(0.0), literal(0)).where(
        _stored.c.account_id == bindparam("account")
    ),
    select(literal(_PROVIDER), *(_provider.c[name] for name in ("name", "settings", "changed_at", "trusted"))).where(
        _provider.c.account_id == bindparam("account")
    ),
    select(literal(_APP), func.min(schema.app.c.sdk_id), literal(""), literal(0.0), literal(0)).where(
        schema.app.c.account_id == bindparam("account")
    ),
)


def load_settings(connection: Connection, account_id: str, secret_key: str) -> AccountSettings:
    """Return what an account has set, by one question: a request that comes alone would wait for each."""
    policies, credentials, sdk_id = list[tuple[str, str]](), list[Credential](), ""
    for kind, name, value, changed_at, trusted in connection.execute(_OF_ACCOUNT, {"account": account_id}):
        if kind == _POLICY:
            policies.append((name, value))
        elif kind == _PROVIDER:
            credentials.append(open_credential(account_id, name, value, changed_at, trusted, secret_key))
        else:
            sdk_id = name or ""
    return AccountSettings(read_policy(policies), credentials, sdk_id)


class Planner:
    """Makes the plans of the chunks of one account that were leased together, from few questions."""

    def __init__(self, connection: Connection, account_id: str, settings: Settings, secret: Secrets) -> None:
        self._connection = connection
        self._account_id = account_id
        self._settings = settings
        self._secret = secret
        self._set: AccountSettings | None = None
        self._quiet: Quiet | None = _UNREAD
        self._requests: dict[int, StoredRequest] = {}

    def look_up(self, chunks: Sequence[Chunk], channel: str, account: Account | None) -> LookUp:
        """Read the credentials; plan new chunks of a channel, find who their requests name, and read about as many of
        these people as one window has. account: None when it is not known yet."""
        plans: list[tuple[Chunk, DeliveryPlan]] = []
        for chunk in chunks:
            try:
                plans.append((chunk, self.plan(chunk)))
            except Exception:  # one that cannot be read must not hold up the others
                log.exception("a chunk cannot be delivered", chunk=chunk.id)
        named: dict[int, tuple[Sequence[tuple[int, str]], str]] = {}
        people: dict[int, Person] = {}
        if asked := [chunk for chunk, _ in plans if chunk.request is not None and not chunk.users]:
            found = self.find_recipients(asked)
            kept = [self._read_request(chunk).without_names() for chunk in asked]
            named = {chunk.id: pair for chunk, pair in zip(asked, zip(found, kept, strict=True), strict=True)}
            users = sorted({user for pairs in found for user, platform in pairs if platform})
            window = users[: self._settings.window]
            people = load_people(self._connection, self._account_id, window, [CHANNELS[channel]])
        account = account or Account.load(self._connection, self._account_id)
        return LookUp(account, self._read_settings().credentials, plans, named, people)

    def plan(self, chunk: Chunk) -> DeliveryPlan:
        """Return the plan of a chunk: from its request, or from its campaign; with the account's caps and quiet
        hours."""
        if chunk.request is not None:
            request = self._read_request(chunk)
            quiet = self._find_quiet(None, respect=request.respect_frequency_caps)
            plan = self._make(
                *(chunk, bytes(request.content), f"s{chunk.id}", request.send_to_all_devices, quiet),
                self._find_tracking(chunk, opens=request.track_opens, clicks=request.track_clicks),
            )
            return self._with_caps(chunk, plan, respect=request.respect_frequency_caps)
        return self.plan_campaign(chunk, read_stored_spec(self._connection, chunk.account_id, chunk.campaign_id))

    def plan_campaign(self, chunk: Chunk, spec: Spec) -> DeliveryPlan:
        """Return the plan of a chunk of a campaign, which need not be in the ledger."""
        respect, own = spec.respect_frequency_caps, spec.frequency_cap
        quiet = self._find_quiet(None if spec.when is None else spec.when.quiet, respect=respect)
        content = next((one.content for one in spec.variants if one.name == chunk.variant), spec.content)
        encoded = msgspec.json.encode(content)
        plan = self._make(
            *(chunk, encoded, str(chunk.campaign_id), spec.send_to_all_devices, quiet),
            self._find_tracking(chunk, opens=spec.track_opens, clicks=spec.track_clicks),
        )
        plan = msgspec.structs.replace(plan, groups=frozenset(map(fold, spec.subscription_groups)))
        return self._with_caps(chunk, plan, respect=respect, own=own, throttled=spec.respect_throttle)

    def list_platforms(self) -> list[str]:
        """Return the platforms that the account has a provider for."""
        return [BY_NAME[one.name].platform for one in self._read_settings().credentials]

    def find_recipients(self, chunks: Sequence[Chunk]) -> list[list[tuple[int, str]]]:
        """Return who the identities of `/1/send` chunks of one channel are, by chunk; see `find_recipients`."""
        asked = [list_keys(self._read_request(chunk).to) for chunk in chunks]
        return find_recipients(self._connection, self._account_id, asked, chunks[0].channel)

    def _read_request(self, chunk: Chunk) -> StoredRequest:
        """Return what a `/1/send` chunk was asked for; it is decoded once."""
        if (found := self._requests.get(chunk.id)) is None:
            found = self._requests[chunk.id] = msgspec.json.decode(chunk.request or "", type=StoredRequest)
        return found

    def _with_caps(
        self, chunk: Chunk, plan: DeliveryPlan, *, respect: bool, own: Cap | None = None, throttled: bool = False
    ) -> DeliveryPlan:
        cap = self._read_settings().policy.caps.get(chunk.channel)
        rule = CapRule(
            account_id=chunk.account_id,
            channel=chunk.channel,
            message=name_message(chunk),
            campaign_id=chunk.campaign_id,
            account=cap if respect and cap is not None and (cap.most or cap.dwell_minutes) else None,
            campaign=own if respect else None,
            throttle=cap.throttle if throttled and cap is not None else None,
        )
        if rule.account is None and rule.campaign is None and rule.throttle is None:
            return plan
        return msgspec.structs.replace(plan, rule=rule)

    def _find_quiet(self, own: Quiet | None, *, respect: bool) -> Quiet | None:
        """Return the quiet hours that hold: a campaign's own, else the account's, for what keeps to its caps."""
        if own is not None or not respect:
            return own
        if self._quiet is _UNREAD:
            asked = self._read_settings().policy.dnd
            self._quiet = None if asked is None else to_quiet(asked)
        return self._quiet

    def _find_tracking(self, chunk: Chunk, *, opens: bool, clicks: bool) -> Tracking:
        """Return what of a chunk's mails is counted: what the account, the campaign and a public address allow."""
        if chunk.channel != "email" or not self._settings.public_url:
            return NOTHING
        mine = self._read_settings().policy.tracking
        return Tracking(opens=opens and mine.opens, clicks=clicks and mine.clicks)

    def _read_settings(self) -> AccountSettings:
        if self._set is None:
            self._set = load_settings(self._connection, self._account_id, self._settings.secret_key)
        return self._set

    def _make(
        self, chunk: Chunk, content: bytes, name: str, every_device: bool, quiet: Quiet | None, tracking: Tracking
    ) -> DeliveryPlan:
        day = datetime.fromtimestamp(chunk.started_at, UTC).strftime("%Y%m%d")
        context = BatchContext(
            account_id=chunk.account_id,
            chunk_id=chunk.id,
            content=content,
            campaign=f"{name}_{day}",
            collapse=f"tocsin-{name}",
            expires_at=chunk.expires_at,
            public_url=self._settings.public_url,
            secret=self._secret,
            sdk_id=self._read_settings().sdk_id,
            opens=tracking.opens,
            clicks=tracking.clicks,
            collapsible=chunk.run_id is not None or chunk.resend,
        )
        window = max(1, WINDOW_BYTES // (len(content) * 8 + 1))
        personal = b"{{" in content or b"{%" in content
        return DeliveryPlan(context, every_device, personal, window, quiet, label=context.collapse + chunk.variant)
