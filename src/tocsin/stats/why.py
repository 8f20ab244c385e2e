"""Why: what became of one person in one campaign, what decided, what they were shown and what came back."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec
from sqlalchemy import Connection, select

from tocsin.account import Account
from tocsin.audience.explain import Explanation, explain_person
from tocsin.audience.members import draw_user
from tocsin.campaign.compile_pool import CompilePool
from tocsin.campaign.runs import find_campaign, read_stored_spec
from tocsin.campaign.spec import Spec
from tocsin.delivery.forecast import Fate, find_coming, foresee_all, list_fates
from tocsin.delivery.snapshot import PlannedRun
from tocsin.outcome import OUTCOME_OF, SUPPRESSED, State, reason_of
from tocsin.settings import Settings
from tocsin.stats.conversions import SENT, Grouping, count_conversions
from tocsin.stats.delivered import DeliveredMessage, find_messages, find_unsettled, tell
from tocsin.stats.preview import look_at, show_messages
from tocsin.stats.results import show_conversions
from tocsin.store import schema
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger


class PersonalAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why somebody got a campaign or not. verdict: in a sentence. explained_at: the question was asked as of then,
    about the profile and events of now. would: what becomes of them in the run that is to come, as things are. shown:
    what they see, by platform."""

    verdict: str
    explained_at: int
    explanation: Explanation
    messages: list[DeliveredMessage] = []
    would: list[dict[str, Any]] = []
    shown: dict[str, dict[str, Any]] = {}
    conversions: dict[str, float] = {}


class _CampaignOfUser(msgspec.Struct, frozen=True):
    """What the ledger knows before the facts are asked. began: when the last run began. coming: the next one."""

    spec: Spec
    began: float | None
    coming: PlannedRun | None
    unsettled: list[DeliveredMessage]


async def explain_campaign(
    ledger: Ledger,
    facts: Facts,
    account: Account,
    campaign_id: int,
    user: int,
    now: float,
    settings: Settings,
    compile_pool: CompilePool,
) -> PersonalAnswer:
    """Return why a user got a campaign or not. Raise Problem for a campaign that this account has not, and 429 when too
    many contents of the account are being looked at."""
    known = await ledger.read(lambda connection: _look_up(connection, account.id, campaign_id, user))
    spec, began = known.spec, known.began or now
    which = "campaign = {campaign:UInt32}", {"campaign": campaign_id}
    messages = await find_messages(ledger, facts, account, user, known.unsettled, *which)
    explanation = await explain_person(facts, account, spec.where, user, began)
    fates: list[Fate] = []
    if known.coming is not None:
        fates = await foresee_all(ledger, facts, account, known.coming, spec, now, settings, draw_user(user))
    wanted = {one.platform: one.variant for one in fates} | {one.platform: one.variant for one in reversed(messages)}
    if explanation.why.met and not wanted:
        wanted = dict.fromkeys(spec.platforms, spec.variants[0].name if spec.variants else "")
    seen = await ledger.read(
        lambda connection: look_at(connection, account, campaign_id, spec, settings, user, wanted, now)
    )
    return PersonalAnswer(
        verdict=_judge(messages, fates, explanation, begun=known.began is not None),
        explained_at=int(began),
        explanation=explanation,
        messages=messages,
        would=list_fates(fates),
        shown=await compile_pool.run(account.id, partial(show_messages, seen, now)),
        conversions=await _count_converted(facts, account, campaign_id, spec, user),
    )


def _look_up(connection: Connection, account_id: str, campaign_id: int, user: int) -> _CampaignOfUser:
    found = find_campaign(connection, account_id, campaign_id)
    runs = select(schema.run.c.id).where(schema.run.c.campaign_id == campaign_id)
    return _CampaignOfUser(
        read_stored_spec(connection, account_id, campaign_id),
        found.frozen_at,
        find_coming(connection, account_id, campaign_id),
        find_unsettled(connection, user, schema.chunk.c.run_id.in_(runs)),
    )


async def _count_converted(facts: Facts, account: Account, campaign_id: int, spec: Spec, user: int) -> dict[str, float]:
    if spec.conversion_goal is None:
        return {}
    own = Grouping(messages=f"{SENT} AND user = {{user:UInt32}}", values={"user": user})
    found = await count_conversions(facts, account, {campaign_id: spec.conversion_goal}, own)
    return show_conversions(spec.conversion_goal, found.get((campaign_id, "")))


def _judge(
    messages: Sequence[DeliveredMessage], fates: Sequence[Fate], explanation: Explanation, *, begun: bool
) -> str:
    """Return the answer in a sentence."""
    if messages:
        return "; ".join(dict.fromkeys(tell(one) for one in messages if one.chunk == messages[0].chunk or not begun))
    if fates:
        words = (
            "would be sent to" if one.state is State.CLAIMED else f"would get nothing: {_name(one)}" for one in fates
        )
        return f"in the audience of the run that is to come: {'; '.join(dict.fromkeys(words))}"
    if not explanation.why.met:
        return "not in the audience"
    return "meant by the question now, but in no run: they came later, or never had a device or address for it"


def _name(fate: Fate) -> str:
    return reason_of(fate.state) if fate.state in SUPPRESSED else OUTCOME_OF[fate.state].value
