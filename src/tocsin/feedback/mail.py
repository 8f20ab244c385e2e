"""Unsubscribes, bounces and complaints about mails, applied to the mailbox and recorded as events of the user.

Each names its mail by the signed id, which only the recipient and the mail servers on the way have seen. It permits
changes to that recipient alone: an address in a report is compared with the recipient's, never used by itself.

An opt-out changes the ledger, then the facts store's copy, and is recorded as an event last: a repeat after a crash
finds no event and does the rest. A bounce is recorded first, since a soft one counts itself; a repeat finds the event
and suppresses the address all the same.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from weakref import WeakValueDictionary

import msgspec
import structlog
from sqlalchemy import Connection, select

from tocsin import metrics
from tocsin.campaign.runs import find_groups
from tocsin.channels import CHANNELS
from tocsin.delivery.push_id import Purpose
from tocsin.delivery.recipients import mark_gone
from tocsin.errors import Problem
from tocsin.feedback.bounce_report import Recipient, Report
from tocsin.feedback.interactions import SentMessage, find_sent
from tocsin.feedback.signed_id import SignedIds
from tocsin.feedback.suppression import DAY, SOFT_BOUNCES, SOFT_DAYS, lift_bounce
from tocsin.ingest import event_row, hash_id, refresh_profiles, refresh_sharers
from tocsin.ingest.consent import opt_out_of_email
from tocsin.ingest.profile import wants
from tocsin.ingest.record import read_email
from tocsin.ingest.subscription import UNSUBSCRIBED, AddressChange, Reason, find_bounced, find_unsubscribed
from tocsin.ingest.subscription_group import leave_groups
from tocsin.providers.contract import Address
from tocsin.store import schema
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

log = structlog.get_logger()

BOUNCED, COMPLAINED = "Mail Bounced", "Mail Complained"
REPORT_DAYS = 90  # after a mail was sent, what comes back is believed
LINK_DAYS = 3 * 365  # laws ask for 30 or 60; the longer a link works, the fewer people call it spam
CAME_BACK = (
    "You subscribed again after this mail was sent, so its link does nothing. To leave, use the link in a newer mail."
)
NOT_OURS = "This is not the id of a mail this server sent."

ReportResult = Literal["hard", "soft", "refused", "complaint", "ignored"]


class AppliedReport(msgspec.Struct, frozen=True):
    """What a report did. suppressed: the address gets no more mail, by this report or an earlier one."""

    result: ReportResult
    suppressed: bool = False


class Feedback:
    """Applies unsubscribes and reports, for every account."""

    def __init__(self, ledger: Ledger, facts: Facts, signed_ids: SignedIds):
        self._ledger = ledger
        self._facts = facts
        self._signed_ids = signed_ids
        # Mail clients post twice at once: one at a time for each user, so the second finds the event of the first.
        self._locks: WeakValueDictionary[tuple[str, int], asyncio.Lock] = WeakValueDictionary()

    async def find_link(self, push_id: str, now: float) -> SentMessage:
        """Return the mail of an unsubscribe link. Raise Problem 404 for any other id, and 410 for the link of a mail
        that is too old, or whose recipient left and came back since: that was their later word."""
        sent = await self._find_mail(push_id, "unsubscribe")
        sent.require_younger(LINK_DAYS, now)
        returned, wanted = await self._ledger.read(lambda connection: _read_return(connection, sent))
        if wanted and returned > sent.sent_by:
            raise Problem(CAME_BACK, code=410, status=410)
        return sent

    async def _find_mail(self, push_id: str, *purposes: Purpose) -> SentMessage:
        """Return the mail of an id that was signed for one of these purposes. Raise Problem 404 for any other id, a
        push's too."""
        try:
            sent = await find_sent(self._ledger, self._facts, self._signed_ids, push_id, *purposes)
        except Problem:
            sent = None
        if sent is None or sent.channel != "email" or not sent.user:
            raise Problem(NOT_OURS, code=404, status=404)
        return sent

    async def list_groups(self, sent: SentMessage) -> Sequence[str]:
        """Return the subscription groups of the campaign that a mail is of, which its link leaves; none for all
        e-mail."""
        return await self._ledger.read(lambda one: find_groups(one, sent.account.id, sent.campaign_id))

    async def unsubscribe(self, push_id: str, now: float, *, everything: bool = False) -> None:
        """Opt the recipient of this mail out of the campaign's subscription groups, or of e-mail where it has none or
        `everything` is meant (RFC 8058); a repeat changes nothing. Raise Problem 404 for an id that is no link's, 410
        for one of a mail from before they came back, or a very old one."""
        sent = await self.find_link(push_id, now)
        why = {"Reason": "one-click unsubscribe"}
        if not everything and (groups := await self.list_groups(sent)):
            await self._leave(sent, groups, now, why)
        else:
            await self._opt_out(sent, now, "link", why)
        metrics.FEEDBACK.labels(result="unsubscribed").inc()

    async def take_report(self, report: Report, now: float) -> AppliedReport:
        """Apply a bounce or complaint and return what it did. Raise Problem 400 when it names no mail, and 404 when it
        names none of ours, 410 when it is about one of long ago."""
        applied = await self._apply(report, now)
        metrics.FEEDBACK.labels(result=applied.result).inc()
        return applied

    async def free_address(self, account_id: str, address: str, by: str = "API") -> int:
        """Let an address that bounced get mail again; see `lift_bounce`."""
        return await lift_bounce(self._ledger, self._facts, account_id, address, by)

    async def _apply(self, report: Report, now: float) -> AppliedReport:
        if report.kind == "other":
            return AppliedReport("ignored")
        sent = await self._find_reported(report)
        sent.require_younger(REPORT_DAYS, now)
        if report.kind == "bounce":
            return await self._bounce(sent, report, now)
        if report.feedback != "abuse":  # RFC 5965: fraud, virus; RFC 6430: not-spam. No complaints.
            return AppliedReport("ignored")
        return await self._complain(sent, report, now)

    async def _complain(self, sent: SentMessage, report: Report, now: float) -> AppliedReport:
        await self._opt_out(sent, now, "complaint", {"Type": "spam", "Reason": "complaint: abuse"})
        async with self._lock(sent):
            if not await self._is_recorded(sent, COMPLAINED):
                address = await self._ledger.read(lambda connection: _read_recipient(connection, sent)[0])
                await self._record(sent, COMPLAINED, now, {"Identity": address, "Feedback type": report.feedback})
        return AppliedReport("complaint", suppressed=True)

    async def _find_reported(self, report: Report) -> SentMessage:
        if not report.ids:
            raise Problem("The report does not say which mail it is about: there is no id of ours in it")
        for one in report.ids:
            try:
                return await self._find_mail(one, "bounce", "unsubscribe")
            except Problem:
                continue
        raise Problem(NOT_OURS, code=404, status=404)

    async def _bounce(self, sent: SentMessage, report: Report, now: float) -> AppliedReport:
        address, _ = await self._ledger.read(lambda connection: _read_recipient(connection, sent))
        failure = report.worst(address)
        if failure is None or not failure.judgement:
            return AppliedReport("ignored")
        # A recipient may have another address by now; the report says nothing about that one.
        named = [read_email(one) for one in report.addresses]
        present = bool(address) and (not named or address in named)
        async with self._lock(sent):
            if not await self._is_recorded(sent, BOUNCED):
                await self._record(sent, BOUNCED, now, _bounce_props(failure, address if present else failure.address))
            dead = failure.judgement == "hard"
            if failure.judgement == "soft" and present:
                dead = await self._count_soft(sent, address, now) >= SOFT_BOUNCES
            if present and dead:
                await self._suppress(sent, address, failure, now)
        return AppliedReport(failure.judgement, suppressed=present and dead)

    async def _suppress(self, sent: SentMessage, address: str, failure: Recipient, now: float) -> None:
        """Mark the address as dead, once, and copy its user to the facts store."""
        code = f"{failure.judgement} bounce {failure.status}".strip()

        def mark(connection: Connection) -> None:
            if not find_bounced(connection, sent.account.id, [address]):
                gone = {sent.user: [(0, Address(kind="email", value=address), code)]}
                mark_gone(connection, sent.account.id, gone, now, sent.campaign_id)

        await self._ledger.write(mark)
        await refresh_profiles(self._ledger, self._facts, sent.account.id, [sent.user])
        await self._refresh(sent, address)

    async def _refresh(self, sent: SentMessage, address: str) -> None:
        """Copy everybody who has an address to the facts store again."""
        change = AddressChange("email", address, opts_out=True)
        await refresh_sharers(self._ledger, self._facts, sent.account.id, [change])

    async def _opt_out(self, sent: SentMessage, now: float, reason: Reason, why: Mapping[str, Any]) -> None:
        async with self._lock(sent):
            address, wanted = await self._ledger.read(lambda connection: _read_recipient(connection, sent))
            recorded = await self._is_recorded(sent, UNSUBSCRIBED)
            if recorded and not wanted:
                return
            copies, left = await self._ledger.write(
                lambda connection: opt_out_of_email(connection, sent.account.id, sent.user, reason, now)
            )
            await self._facts.insert("profile", copies)
            if left:
                await self._refresh(sent, left)
            if not recorded:
                props = _unsubscribe_props(sent, address) | dict(why)
                row = event_row(sent.account, UNSUBSCRIBED, sent.user, now, sent.event_id, props)
                await self._facts.insert("event", [row])

    async def _leave(self, sent: SentMessage, groups: Sequence[str], now: float, why: Mapping[str, Any]) -> None:
        """Let the recipient's mailbox leave subscription groups."""
        event_id = hash_id(sent.event_id, *groups)
        async with self._lock(sent):
            copies, address = await self._ledger.write(
                lambda connection: leave_groups(connection, sent.account.id, sent.user, groups, now)
            )
            await self._facts.insert("profile", copies)
            if address:
                await self._refresh(sent, address)
            if not await self._is_recorded(sent, UNSUBSCRIBED, event_id):
                props = _unsubscribe_props(sent, address) | dict(why) | {"Subscription groups": list(groups)}
                row = event_row(sent.account, UNSUBSCRIBED, sent.user, now, event_id, props)
                await self._facts.insert("event", [row])

    async def _record(self, sent: SentMessage, name: str, now: float, props: Mapping[str, Any]) -> None:
        row = event_row(sent.account, name, sent.user, now, sent.event_id, sent.props | dict(props))
        await self._facts.insert("event", [row])

    async def _is_recorded(self, sent: SentMessage, name: str, event_id: int | None = None) -> bool:
        rows = await self._facts.query(
            "SELECT 1 FROM event WHERE account = {account:String} AND name = {name:String} AND user = {user:UInt32} "
            "AND id = {id:UInt64} LIMIT 1",
            {"account": sent.account.id, "name": name, "user": sent.user, "id": event_id or sent.event_id},
        )
        return bool(rows)

    async def _count_soft(self, sent: SentMessage, address: str, now: float) -> int:
        """Count the mails to this address that bounced softly in the last SOFT_DAYS days."""
        rows = await self._facts.query(
            "SELECT uniqExact(id) FROM event WHERE account = {account:String} AND name = {name:String} "
            "AND user = {user:UInt32} AND at > toDateTime({since:UInt32}, 'UTC') "
            "AND JSONExtractString(raw, 'Type') = 'soft' AND JSONExtractString(raw, 'Identity') = {address:String}",
            {
                "account": sent.account.id,
                "name": BOUNCED,
                "user": sent.user,
                "since": max(0, int(now) - int(SOFT_DAYS * DAY)),
                "address": address,
            },
        )
        return int(rows[0][0])

    def _lock(self, sent: SentMessage) -> asyncio.Lock:
        return self._locks.setdefault((sent.account.id, sent.user), asyncio.Lock())


def _read_recipient(connection: Connection, sent: SentMessage) -> tuple[str, bool]:
    """Return the present address of the mail's recipient, "" for none, and whether they want e-mail there."""
    table = schema.user
    where = (table.c.account_id == sent.account.id, table.c.id == sent.user)
    found = connection.scalar(select(table.c.profile).where(*where))
    profile = msgspec.json.decode(found) if found is not None else {}
    address = read_email(profile.get("Email"))
    left = bool(address and find_unsubscribed(connection, sent.account.id, "email", [address]))
    return address, wants(profile, CHANNELS["email"]) and not left


def _read_return(connection: Connection, sent: SentMessage) -> tuple[float, bool]:
    """Return when the mail's recipient came back to e-mail, -inf for never, and whether they want it now."""
    table = schema.returned
    mine = (table.c.account_id == sent.account.id, table.c.user_id == sent.user)
    since = connection.scalar(select(table.c.since).where(*mine))
    return -math.inf if since is None else float(since), _read_recipient(connection, sent)[1]


def _bounce_props(failure: Recipient, address: str) -> dict[str, Any]:
    return {
        "Identity": address,
        "Type": failure.judgement,
        "Status": failure.status,
        "Diagnostic": failure.diagnostic,
    }


def _unsubscribe_props(sent: SentMessage, address: str) -> dict[str, Any]:
    """Return the properties of «Channel Unsubscribed», under the names of CleverTap's event."""
    return {
        "Campaign ID": sent.campaign_id,
        "Campaign Type": "Email",
        "Group": sent.tag_group,
        "Identity": address,
        "Variant": sent.variant or "default",
        "Subscription Type": "profile",
    }
