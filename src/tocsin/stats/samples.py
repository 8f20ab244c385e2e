"""A sample of a campaign: some of the people behind each outcome, by the reason or the vendor's code."""

from __future__ import annotations

from typing import Any

import msgspec

from tocsin.account import Account
from tocsin.campaign.runs import find_campaign
from tocsin.stats.export.person import ExportedPerson, read_people
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

EACH, MOST = 5, 50  # people of a group
GROUPS = 50  # the largest; vendors' codes may be many


class SampledOutcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One outcome. reason: why suppressed ones got nothing. code: the vendor's. recipients: how many there are. people:
    an identity of some of them, by its kind."""

    outcome: str
    reason: str = ""
    code: str = ""
    recipients: int
    people: list[dict[str, str]]


async def sample_outcomes(
    ledger: Ledger, facts: Facts, account: Account, campaign_id: int, each: int = EACH
) -> list[SampledOutcome]:
    """Return the outcomes that are recorded of a campaign, the most frequent first, each with some people: the same
    ones each time, drawn by a hash. Raise Problem for a campaign that this account has not."""
    await ledger.read(lambda connection: find_campaign(connection, account.id, campaign_id))
    rows = await facts.query(
        "SELECT outcome, code, count() AS recipients, "
        f"arraySlice(groupArraySorted({MOST})((sipHash64(user), user)), 1, {{each:UInt8}}) AS drawn "
        "FROM outcome FINAL WHERE account = {account:String} AND campaign = {campaign:UInt32} "
        "GROUP BY outcome, code ORDER BY recipients DESC, outcome, code LIMIT {groups:UInt16}",
        {"account": account.id, "campaign": campaign_id, "each": each, "groups": GROUPS},
    )
    users = sorted({int(user) for *_, drawn in rows for _, user in drawn})
    people = await ledger.read(lambda connection: read_people(connection, account.id, users))
    return [
        SampledOutcome(
            outcome=str(outcome),
            reason=str(code) if outcome == "suppressed" else "",
            code="" if outcome == "suppressed" else str(code),
            recipients=int(count),
            people=[
                name_person(people[user]) for user in dict.fromkeys(int(one) for _, one in drawn) if user in people
            ],
        )
        for outcome, code, count, drawn in rows
    ]


def name_person(person: ExportedPerson) -> dict[str, Any]:
    """Return one identity of somebody by its kind: what a caller named them by goes first."""
    order = ("identity", "Email", "objectId", "FBID", "GPID")
    return next(({kind: person.identities[kind][0]} for kind in order if kind in person.identities), {})
