"""`/1/delete/profiles.json`, `/1/demerge/profiles.json`, `/1/disassociate`: people who leave, and names and
numbers that are taken from them."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from tocsin.account import Account
from tocsin.api.context import Context
from tocsin.api.endpoint import Endpoint, post
from tocsin.api.http import answer
from tocsin.authenticator.audit import note
from tocsin.errors import Problem, read_struct
from tocsin.ingest import refresh_profiles
from tocsin.ingest.flaw import to_shown
from tocsin.ingest.identity import IdentityKey, find_users
from tocsin.ingest.leaving import count_leavers, hide_from_log, remove_people, separate_names, take_phones
from tocsin.ingest.profile import READERS
from tocsin.ingest.subscription import RECORDS, AddressChange, find_users_with_addresses
from tocsin.store.ledger import Ledger

MOST = 100  # people of one request, as CleverTap documents
BY_API = "API"  # who did it, in the audit log

Name: Any = Annotated[Annotated[str, Meta(min_length=1, max_length=1024)] | int, Meta(extra={"is": "a text"})]
Names: Any = Name | Annotated[list[Name], Meta(max_length=MOST)] | None


class LeavingJson(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who is to be deleted. guid: CleverTap's word for an objectId."""

    identity: Names = None
    guid: Names = None
    objectId: Names = None  # noqa: N815 - the name in the request

    @property
    def keys(self) -> list[IdentityKey]:
        named = (("identity", self.identity), ("objectId", self.guid), ("objectId", self.objectId))
        found = ((kind, one if isinstance(one, list) else [one]) for kind, one in named if one is not None)
        return list(dict.fromkeys((kind, str(name)) for kind, names in found for name in names))


class SeparatingJson(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    identities: Annotated[list[Name], Meta(min_length=1, max_length=MOST)]


class PhonesJson(msgspec.Struct, frozen=True):
    d: Annotated[list[Any], Meta(min_length=1, max_length=RECORDS)]


async def delete_people(context: Context, request: Request) -> Response:
    """Delete people. Who is not there counts as deleted: a request may come twice."""
    account, body = await context.read(request)
    keys = read_struct(body, LeavingJson).keys
    if not keys:
        raise Problem("Name somebody by identity, guid or objectId (at $.identity)")
    if len(keys) > MOST:
        raise Problem(f"At most {MOST} people may be named in one request (at $.identity)")
    people = await delete_named(context.ledger, account, keys, BY_API, context.clock())
    return answer({"status": "success", "deleted": people})


async def delete_named(ledger: Ledger, account: Account, keys: list[IdentityKey], who: str, now: float) -> int:
    """Delete whom these identities mean, with a line in the audit log. Return how many people that were."""

    hidden = await hide_from_log(ledger, account.id, keys)

    def remove(connection: Connection) -> int:
        people = remove_people(connection, account.id, keys, now, hidden)
        if people:  # who names nobody again and again washes no older lines out of the log
            note(connection, account.id, who, "people deleted", f"{people} of {len(keys)} named", now)
        return people

    return await ledger.write(remove)


async def show_leavers(context: Context, request: Request) -> Response:
    """Tell how many deleted people still count in answers, and how many are erased once more later."""
    account = await context.authenticate(request)
    waiting, settling = await context.ledger.read(lambda connection: count_leavers(connection, account.id))
    return answer({"status": "success", "waiting": waiting, "settling": settling})


async def demerge_people(context: Context, request: Request) -> Response:
    """Take identities from people who have several."""
    account, body = await context.read(request)
    names = list(dict.fromkeys(str(name) for name in read_struct(body, SeparatingJson).identities))
    now = context.clock()

    def separate(connection: Connection) -> set[str]:
        taken = separate_names(connection, account.id, names)
        if taken:
            note(connection, account.id, BY_API, "identities separated", f"{len(taken)} of {len(names)} named", now)
        return taken

    taken = await context.ledger.write(separate)
    alone = "Nobody has this identity beside another one."
    wrong = [{"status": "fail", "code": 400, "error": alone, "record": name} for name in names if name not in taken]
    return _tell(len(taken), wrong)


async def disassociate_phones(context: Context, request: Request) -> Response:
    """Take phone numbers from everybody who has them."""
    account, body = await context.read(request)
    now, asked, wrong = context.clock(), {}, []
    for number, raw in enumerate(read_struct(body, PhonesJson).d, 1):
        phone = READERS["Phone"](raw.get("value")) if isinstance(raw, dict) and raw.get("type") == "phone" else ""
        if phone:
            asked[number] = (phone, raw)
        else:
            wrong.append(_refuse(number, "type must be phone, and value a number with its country.", raw))
    changes = [AddressChange("phone", phone, opts_out=False) for phone, _ in asked.values()]
    found = await find_users_with_addresses(context.facts, account.id, changes) if changes else {}
    users = {user: {one.address for one in mine} for user, mine in found.items()}
    keys = [("Phone", one.address) for one in changes]  # the facts store does not find a number in another spelling
    for (_, phone), user in (await context.ledger.read(lambda one: find_users(one, account.id, keys))).items():
        users.setdefault(user, set()).add(phone)

    def take(connection: Connection) -> set[str]:
        taken = take_phones(connection, account.id, users, now)
        if taken:
            note(connection, account.id, BY_API, "numbers taken", f"{len(taken)} of {len(asked)} named", now)
        return taken

    taken = await context.ledger.write(take)
    await refresh_profiles(context.ledger, context.facts, account.id, sorted(users))
    wrong += [
        _refuse(number, "Nobody has this number.", raw) for number, (one, raw) in asked.items() if one not in taken
    ]
    return _tell(len(body["d"]) - len(wrong), wrong)


def _refuse(number: int, sentence: str, raw: Any) -> dict[str, Any]:
    error = f"{sentence} Skipped record number : {number}"
    return {"status": "fail", "code": 400, "error": error, "record": to_shown(raw)}


def _tell(processed: int, wrong: list[dict[str, Any]]) -> Response:
    status = "success" if not wrong else "partial" if processed else "fail"
    return answer({"status": status, "processed": processed, "unprocessed": wrong})


ENDPOINTS = [
    Endpoint(
        "/1/delete/profiles.json",
        {"POST": delete_people, "GET": show_leavers, "HEAD": show_leavers},
        right="delete",
    ),
    post("/1/demerge/profiles.json", demerge_people, right="delete"),
    post("/1/disassociate", disassociate_phones, right="delete"),
]
