"""What is refused is freed when its caller has the answer. An error that is kept, and whose frames hold what it is kept
in, is a circle: it stays until garbage is looked for, and a hundred thousand of such objects stop everybody for a tenth
of a second."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType, SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from tocsin.account import create_account
from tocsin.api.context import Context
from tocsin.api.endpoint import build_router, get
from tocsin.api.http import read_records
from tocsin.campaign.send import _AskedContent
from tocsin.content.content import Addressing, Content
from tocsin.content.renderer import Renderer
from tocsin.errors import Problem, read_struct
from tocsin.ingest import upload
from tocsin.providers.contract import Address
from tocsin.settings import Settings
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

pytest_plugins = ("engines",)

SLOW = "{% for i in (1..40) %}{% for j in (1..40) %}{{ i | times: j }}{% endfor %}{% endfor %}" * 20


ADDRESSING = Addressing(id="", collapse="", campaign="", push_id="", address=Address("fcm", ""), expires_at=0)


class Asked(msgspec.Struct, forbid_unknown_fields=True):
    name: str


@contextmanager
def _no_circles() -> Iterator[None]:
    """Fail when what is done meanwhile leaves frames that only a collection of garbage frees."""
    gc.collect()
    gc.freeze()  # what is there already is not looked through again
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield
        gc.collect()
        found = [one.f_code.co_qualname for one in gc.garbage if isinstance(one, FrameType)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.unfreeze()
    assert found == []


def _refuse_struct() -> None:
    with suppress(Problem):
        read_struct({"name": 5, "body": ["x"] * 100}, Asked)


def _refuse_template(text: str) -> None:
    content = msgspec.json.encode({"title": "t", "body": text})
    with suppress(Problem):
        _AskedContent(content, "push", False, True).compile()


def _render_in_vain() -> None:
    renderer = Renderer(Content(title="t", body="{{ Profile.Name | divided_by: 0 }}"))
    with suppress(Exception):
        renderer.render("android", {"Name": 1}, ADDRESSING)


@pytest.mark.parametrize(
    "work",
    [
        _refuse_struct,
        lambda: _refuse_template("{% nonsense %}"),
        lambda: _refuse_template(SLOW),
        _render_in_vain,
    ],
    ids=["struct", "syntax", "limit", "render"],
)
def test_a_refusal_leaves_no_circle(work: Callable[[], object]) -> None:
    with _no_circles():
        work()


async def test_a_loose_body_leaves_no_circle() -> None:
    """One that JSON does not allow and that is read all the same."""
    with _no_circles():
        await read_records(b'{"d": [{"type": "profile", "n": NaN}]}')


async def test_an_upload_leaves_no_circle(store: Ledger, facts: Facts) -> None:
    """Whose records are wrong, by themselves or beside what is stored."""
    account = create_account(store, "test", "UTC", 0.0)[0]
    wrong: list[dict[str, Any]] = [
        {"type": "profile", "identity": "a", "profileData": {"Age": {"nested": {"too": "deep"}}}},
        {"type": "event", "identity": "a", "evtName": ""},
        {"type": "token", "objectId": "d", "tokenData": {"type": "wns", "id": "https://elsewhere.example/"}},
        {"type": "nonsense"},
    ]
    names = [
        {"type": "profile", "identity": "a", "profileData": {f"P{n}-{m}": 1 for m in range(200)}} for n in range(9)
    ]
    for records in (wrong, names):
        with _no_circles():
            refused = len((await upload(store, facts, account, {"d": records}, 0.0)).unprocessed)
            for _ in range(3):
                await asyncio.sleep(0)  # until the loop lets go of what it has just called
        assert refused


async def test_an_answer_leaves_no_circle() -> None:
    """Whatever kept the problem on its way to the caller."""

    async def refuse(context: Context, request: Request) -> Response:
        try:
            raise Problem("no")
        except Problem as problem:
            kept = problem
        raise kept

    application = build_router(cast(Context, SimpleNamespace(settings=Settings())), [get("/refused", refuse)])
    sent: list[Any] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(message: Message) -> None:
        sent.append(message)

    async def ask() -> None:
        scope = {"type": "http", "method": "GET", "path": "/refused", "headers": [], "query_string": b""}
        await application(scope, receive, send)

    with _no_circles():
        await ask()
    assert sent[0]["status"] == 400
