"""An account whose mails come back, and the ids of what a server mailed."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
from conftest import Caller, Server
from sqlalchemy import select, update

from tocsin.account import Account, create_account
from tocsin.delivery.push_id import Purpose, read_push_id, sign_push_id
from tocsin.feedback.bounce_report import read_report
from tocsin.feedback.mail import Feedback
from tocsin.feedback.signed_id import SignedIds
from tocsin.ingest import upload
from tocsin.ingest.subscription import find_bounced
from tocsin.queue import Recipients, Share, insert_run_chunks
from tocsin.store import schema
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger, open_ledger
from tocsin.store.signing_key import SigningKey, find_signing_keys

NOW = 1_800_000_000.0
SECRET = b"s" * 32
IDS = SignedIds([SigningKey(SECRET)])


class Post:
    """An account whose mails come back."""

    def __init__(self, ledger: Ledger, facts: Facts):
        self.ledger, self.facts, self.now = ledger, facts, NOW
        self.account: Account = create_account(ledger, "post", "UTC", NOW)[0]
        self.feedback = Feedback(ledger, facts, IDS)

    async def move_in(self, identity: str, email: str) -> None:
        await self.upload({"type": "profile", "identity": identity, "profileData": {"Email": email}})

    async def upload(self, record: dict[str, Any]) -> None:
        result = await upload(self.ledger, self.facts, self.account, {"d": [record]}, self.now)
        assert result.unprocessed == []

    def mail(self, *users: int, channel: str = "email", campaign: int = 9) -> list[str]:
        """The ids in the unsubscribe links of a campaign's mails to these users; of a push, those that track."""
        platform = "email" if channel == "email" else "android"

        def write(connection: Any) -> int:
            insert_run_chunks(
                connection,
                account_id=self.account.id,
                run_id=1,
                campaign_id=campaign,
                channel=channel,
                shares={Share(expires_at=NOW): Recipients((user, platform) for user in users)},
                now=NOW,
            )
            return int(connection.scalar(select(schema.chunk.c.id).order_by(schema.chunk.c.id.desc()).limit(1)))

        chunk = self.ledger.write_now(write)
        purpose: Purpose = "unsubscribe" if channel == "email" else "track"
        return [sign_push_id(SECRET, chunk, position, purpose) for position in range(len(users))]

    def close(self, push_id: str, at: float) -> None:
        """Ends the chunk of a mail, which so was sent at a time or before."""
        chunk, _ = read_push_id(SECRET, push_id, "unsubscribe")
        table = schema.chunk
        ended = update(table).where(table.c.id == chunk).values(open=0, not_before=at)
        self.ledger.write_now(lambda connection: connection.execute(ended))

    async def take(self, raw: bytes) -> tuple[str, bool]:
        taken = await self.feedback.take_report(read_report(raw), self.now)
        return taken.result, taken.suppressed

    def dead(self, *addresses: str) -> set[str]:
        return self.ledger.read_now(lambda connection: find_bounced(connection, self.account.id, addresses))

    async def reach(self, user: int = 1) -> int:
        """What facts say of a user's e-mail."""
        rows = await self.facts.query(
            "SELECT email FROM profile FINAL WHERE account = {account:String} AND user = {user:UInt32}",
            {"account": self.account.id, "user": user},
        )
        return int(rows[0][0])

    async def events(self, name: str) -> list[dict[str, Any]]:
        """The properties of every event of a name; no FINAL: one that is there twice is there twice."""
        rows = await self.facts.query(
            "SELECT raw FROM event WHERE account = {account:String} AND name = {name:String} ORDER BY at, id",
            {"account": self.account.id, "name": name},
        )
        return [msgspec.json.decode(row[0]) for row in rows]


def mails_of(server: Server, caller: Caller, campaign: int) -> list[str]:
    """The ids in the unsubscribe links of a campaign's mails, in the order of their users."""
    with contextlib.closing(open_ledger(f"sqlite:///{server.data / 'ledger.db'}")) as ledger:
        secret, table = ledger.read_now(find_signing_keys)[0].value, schema.chunk
        query = select(table.c.id, table.c.size).where(
            table.c.account_id == caller.account_id, table.c.campaign_id == campaign
        )
        rows = ledger.read_now(lambda connection: connection.execute(query.order_by(table.c.id)).all())
    return [sign_push_id(secret, row.id, position, "unsubscribe") for row in rows for position in range(row.size)]


CONTENT = {"subject": "Hello", "body": "<p>there</p>", "sender_name": "Tocsin"}


def mail_all(server: Server, caller: Caller) -> tuple[dict[str, int], list[str]]:
    campaign = caller.create(content=CONTENT, target_mode="email", devices=[])
    return caller.result(campaign), mails_of(server, caller, campaign)
