"""Why: what became of one person in one campaign, what decided, what they were shown and what came back."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec
from sqlalchemy import Connection, LargeBinary, bindparam, func, select, text

from tocsin import queue
from tocsin.account import Account
from tocsin.audience.explain import Explanation, explain_person
from tocsin.audience.members import draw_user
from tocsin.campaign.compile_pool import CompilePool
from tocsin.campaign.runs import find_campaign, read_stored_spec
from tocsin.campaign.spec import Spec
from tocsin.channels import PLATFORM_CODES
from tocsin.delivery.forecast import Fate, find_coming, foresee_all, list_fates
from tocsin.delivery.snapshot import PlannedRun
from tocsin.feedback.interactions import EVENTS
from tocsin.outcome import OUTCOME_OF, SUPPRESSED, State, reason_of
from tocsin.settings import Settings
from tocsin.stats.conversions import SENT, Grouping, count_conversions
from tocsin.stats.preview import look_at, show_messages
from tocsin.stats.results import show_conversions
from tocsin.store import schema
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

MESSAGES = 20  # of one person in one campaign: a recurring one has many runs
UNSETTLED = {State.WAITING: "waiting", State.CLAIMED: "with the vendor"}
_KIND_OF_EVENT = {event: kind for kind, event in EVENTS.items()}


class DeliveredMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One recipient of a run. state: the outcome, or «waiting» or «with the vendor». reason: why a suppressed one got
    nothing. code: what the vendor said to the last attempt. tries: attempts that failed. at: when it became final.
    not_before: when one who waits is tried again. came_back: when it was first viewed and clicked."""

    chunk: int
    position: int
    platform: str
    variant: str = ""
    state: str
    reason: str = ""
    code: str = ""
    tries: int = 0
    at: int = 0
    not_before: int = 0
    came_back: dict[str, int] = {}


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
    messages = await _find_messages(ledger, facts, account, campaign_id, user, known.unsettled)
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
    return _CampaignOfUser(
        read_stored_spec(connection, account_id, campaign_id),
        found.frozen_at,
        find_coming(connection, account_id, campaign_id),
        _find_unsettled(connection, campaign_id, user),
    )


def _find_unsettled(connection: Connection, campaign_id: int, user: int) -> list[DeliveredMessage]:
    """Return a user's messages in open chunks, whose outcomes facts may not have yet. The database looks for the user:
    a chunk's bytes come only when they are in it, or when four bytes of two others look like them."""
    chunk, needle = schema.chunk, struct.pack("<I", user)
    runs = select(schema.run.c.id).where(schema.run.c.campaign_id == campaign_id)
    asked = select(chunk.c.id).where(chunk.c.run_id.in_(runs), schema.chunk_is_open)
    if connection.dialect.name == "postgresql":
        within = text("position(:needle IN users) > 0").bindparams(bindparam("needle", needle, LargeBinary))
        asked = asked.where(within)
    else:
        asked = asked.where(func.instr(chunk.c.users, needle) > 0)
    found: list[DeliveredMessage] = []
    for chunk_id in connection.scalars(asked.order_by(chunk.c.id.desc()).limit(MESSAGES)).all():
        one = queue.load(connection, chunk_id)
        if one is not None and user in one.users:
            found.append(_describe(one, one.users.index(user)))
    return found


def _describe(chunk: queue.Chunk, position: int) -> DeliveredMessage:
    state, note = State(chunk.states[position]), chunk.notes.get(position) or queue.Note()
    return DeliveredMessage(
        chunk=chunk.id,
        position=position,
        platform=PLATFORM_CODES[chunk.platforms[position]],
        variant=chunk.variant,
        state=UNSETTLED[state] if state in UNSETTLED else OUTCOME_OF[state].value,
        reason=reason_of(state) if state in SUPPRESSED else "",
        code=note.code,
        tries=note.tries,
        at=0 if state in UNSETTLED else int(note.at or chunk.started_at),
        not_before=int(note.not_before) if state is State.WAITING else 0,
    )


async def _find_messages(
    ledger: Ledger, facts: Facts, account: Account, campaign_id: int, user: int, unsettled: Sequence[DeliveredMessage]
) -> list[DeliveredMessage]:
    """Return a user's messages, the newest first, with what came back of them."""
    rows = await facts.query(
        "SELECT chunk, position, platform, variant, outcome, code, toUnixTimestamp(at) FROM outcome FINAL "
        "WHERE account = {account:String} AND campaign = {campaign:UInt32} AND user = {user:UInt32} "
        "ORDER BY chunk DESC, position LIMIT {most:UInt16}",
        {"account": account.id, "campaign": campaign_id, "user": user, "most": MESSAGES},
    )
    tries = await ledger.read(
        lambda one: {key: _count_tries(one, *key) for key in ((int(r[0]), int(r[1])) for r in rows)}
    )
    found = {(one.chunk, one.position): one for one in unsettled}
    for chunk, position, platform, variant, outcome, code, at in rows:
        held_back = outcome == "suppressed"
        found[int(chunk), int(position)] = DeliveredMessage(
            chunk=int(chunk),
            position=int(position),
            platform=str(platform),
            variant=str(variant),
            state=str(outcome),
            reason=str(code) if held_back else "",
            code="" if held_back else str(code),
            tries=tries[int(chunk), int(position)],
            at=int(at),
        )
    back = await _find_reports(facts, account, user, list(found))
    newest = sorted(found.values(), key=lambda one: (-one.chunk, one.position))
    return [msgspec.structs.replace(one, came_back=back.get(one.chunk * 65536 + one.position, {})) for one in newest]


def _count_tries(connection: Connection, chunk_id: int, position: int) -> int:
    chunk = queue.load(connection, chunk_id)
    note = None if chunk is None else chunk.notes.get(position)
    return 0 if note is None else note.tries


async def _find_reports(
    facts: Facts, account: Account, user: int, messages: Sequence[tuple[int, int]]
) -> dict[int, dict[str, int]]:
    """Return when messages were first viewed and clicked, by the id of their events."""
    rows = await facts.query(
        "SELECT id, name, toUnixTimestamp(min(at)) FROM event WHERE account = {account:String} "
        "AND name IN {names:Array(String)} AND user = {user:UInt32} AND id IN {ids:Array(UInt64)} GROUP BY id, name",
        {
            "account": account.id,
            "names": list(EVENTS.values()),
            "user": user,
            "ids": [chunk * 65536 + position for chunk, position in messages],
        },
    )
    found: dict[int, dict[str, int]] = {}
    for event, name, at in rows:
        found.setdefault(int(event), {})[_KIND_OF_EVENT[name]] = int(at)
    return found


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
        return "; ".join(dict.fromkeys(_tell(one) for one in messages if one.chunk == messages[0].chunk or not begun))
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


def _tell(one: DeliveredMessage) -> str:
    match one.state:
        case "accepted":
            return f"in the audience: the vendor took the message for {one.platform}"
        case "suppressed":
            return f"in the audience, held back: {one.reason}"
        case "waiting" | "with the vendor":
            return f"in the audience, {one.state}" + (f", the vendor said {one.code}" if one.code else "")
        case _:
            return f"in the audience, {one.state}: {one.code}" if one.code else f"in the audience, {one.state}"
