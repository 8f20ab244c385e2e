"""The OpenAPI document: every route and nothing else, true about requests, answers and statuses; its page to read."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest
from click.testing import CliRunner
from conftest import THOROUGH, Caller, Server, people
from support.browser import join, unique
from support.schema_values import SchemaValues

from tocsin.api.openapi.document import EXAMPLES, make_document
from tocsin.api.openapi.operations import OPERATIONS
from tocsin.app import ENDPOINTS
from tocsin.cli import tocsin

DOCUMENT = Path(__file__).parent / "document"
SPEC = make_document(ENDPOINTS)
COMPONENTS = SPEC["components"]["schemas"]
CALLS = [(path, method) for path, methods in SPEC["paths"].items() for method in methods]
REQUESTS = 10_000 if THOROUGH else 400
# Their examples name a campaign, a webhook or a bounce that this account has not.
OF_NOBODY = {
    *(f"/1/targets/{name}.json" for name in ("stop", "result", "compare", "why", "sample", "forecast")),
    *(f"/1/webhooks/{name}.json" for name in ("remove", "rotate", "enable", "test", "replay")),
    "/1/suppressions/lift.json",
}
# The document's example of a request, and the file that has it letter for letter.
QUOTED = {
    "/1/targets/create.json": ("create", "create-answer"),
    "/1/send/push.json": ("push", "send-answer"),
    "/1/send/email.json": ("email", "send-answer"),
    "/1/targets/stop.json": ("stop", "stop-answer"),
    "/1/targets/result.json": ("result", "result-answer"),
}


@pytest.fixture
def whole(sending: Caller) -> Iterator[Caller]:
    """An account that may be asked for anything; its webhooks do not outlive it, for the commands of other tests have
    not the key of their secrets."""
    yield sending
    for one in sending.post("/1/webhooks/list.json", {})[1]["webhooks"]:
        assert sending.post("/1/webhooks/remove.json", {"id": one["id"]})[0] == 200


def check_answer(path: str, method: str, status: int, value: Any) -> None:
    """An answer has a status that its operation names, and the fields of that status' struct, no others."""
    operation = SPEC["paths"][path][method]
    assert str(status) in operation["responses"], (path, method, status, value)
    if status == 200:
        msgspec.convert(value, OPERATIONS[path][method.upper()].answer)
    else:
        assert set(value) <= {"status", "error", "code"}
        assert value["status"] == "fail"


def test_every_route_is_described() -> None:
    """Each method of each route of the API is in the document, and nothing else; HEAD does what GET does."""
    routes = {
        (one.path, method.lower())
        for one in ENDPOINTS
        if one.path.startswith(("/1/", "/2/"))
        for method in one.methods
        if method != "HEAD"
    }
    assert set(CALLS) == routes
    assert {(path, method.lower()) for path, methods in OPERATIONS.items() for method in methods} == routes
    names = [operation["operationId"] for methods in SPEC["paths"].values() for operation in methods.values()]
    assert len(set(names)) == len(names)


def test_references_lead_somewhere() -> None:
    """Every `$ref` names a struct that is there, and each struct is named."""

    def refs(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                yield value["$ref"]
            yield from (ref for one in value.values() for ref in refs(one))
        elif isinstance(value, list):
            yield from (ref for one in value for ref in refs(one))

    assert {one.rpartition("/")[2] for one in refs(SPEC)} == set(COMPONENTS)


def test_the_document_is_served(server: Server) -> None:
    """Without a log-in, whole, and once: who has it already is told so."""
    nobody = Caller(server.port)
    status, value, headers = nobody.call("GET", "/openapi.json")
    assert (status, value) == (200, SPEC)
    assert headers["access-control-allow-origin"] == "*"
    for given in (headers["etag"], f'"other", W/{headers["etag"]}', "*"):
        status, value, again = nobody.call("GET", "/openapi.json", headers={"If-None-Match": given})
        assert (status, value, again["etag"]) == (304, b"", headers["etag"])
    assert nobody.call("GET", "/openapi.json", headers={"If-None-Match": '"other"'})[0] == 200


def test_the_command_prints_it() -> None:
    """`tocsin openapi` needs no server and no data."""
    done = CliRunner().invoke(tocsin, ["openapi"])
    assert (done.exit_code, json.loads(done.stdout)) == (0, SPEC)


@pytest.mark.parametrize("path", QUOTED)
def test_examples_are_the_documents(path: str) -> None:
    """Where the mission's document has an example, it is that one."""
    given = [json.loads((DOCUMENT / f"{name}.json").read_bytes()) for name in QUOTED[path]]
    assert given == [EXAMPLES[path]["request"], EXAMPLES[path]["answer"]]
    shown = SPEC["paths"][path]["post"]
    assert shown["requestBody"]["content"]["application/json"]["example"] == given[0]
    assert shown["responses"]["200"]["content"]["application/json"]["example"] == given[1]


def test_examples_are_true(whole: Caller) -> None:
    """Each example is a request that is understood, and each answer shown has the fields of its struct."""
    whole.upload(*EXAMPLES["/1/upload"]["request"]["d"])
    for path, example in EXAMPLES.items():
        if "answer" in example:
            check_answer(path, "post", 200, example["answer"])
        if path.startswith("/1/segments/"):
            whole.post("/1/segments/save.json", EXAMPLES["/1/segments/save.json"]["request"])
        status, value = whole.post(path, example["request"])
        check_answer(path, "post", status, value)
        assert status == 200 or path in OF_NOBODY, (path, value)


def test_answers_are_as_described(whole: Caller) -> None:
    """Of an account that has something of everything, every answer has the fields of its struct."""
    whole.upload(*people(6, kinds=("fcm",)), {"type": "event", "identity": "user-0", "evtName": "Charged"})
    content = {"title": "Hi", "body": "there"}
    halves = [{"name": name, "percentage": 50, "content": content} for name in ("A", "B")]
    goal = {"event_name": "Charged", "revenue_property": "Amount"}
    made = {"variants": halves, "conversion_goal": goal, "labels": ["a"], "devices": ["android"]}
    campaign = whole.create(**made, content=None)
    whole.result(campaign)
    whole.create(when="20980101 10:00")
    gone = {"d": [{"type": "email", "value": "user-1@example.com", "status": "Unsubscribe"}]}
    whole.post("/1/subscribe", gone)
    whole.post("/1/send/push.json", {"to": {"Identity": ["user-0"]}, "content": content, "tag_group": "t"})
    where = {"event_name": "Charged", "from": "-30d", "to": "today"}
    whole.post("/1/segments/save.json", {"name": "gold", "where": where})
    days = {"from": 20200101, "to": 20981231}
    groups = {"a": {"property_type": "profile_fields", "name": "Name"}}
    asked: list[tuple[str, Any, str]] = [
        ("/1/targets/result.json", {"id": campaign}, "variants"),
        ("/1/targets/compare.json", {"id": campaign}, "differences"),
        ("/1/targets/list.json", {**days, "limit": 1}, "total_pages"),
        ("/1/message/report.json", days, "messages"),
        ("/1/suppressions/list.json", {}, "suppressed"),
        ("/1/segments/list.json", {}, "segments"),
        ("/1/segments/get.json", {"name": "gold"}, "segment"),
        ("/1/segments/explain.json", {"where": where}, "sql"),
        ("/1/segments/explain.json", {"segment": "gold", "identity": "user-0"}, "why"),
        ("/1/counts/profiles.json", {"event_name": "Nobody did", "from": "-30d", "to": "today"}, "error"),
        ("/1/counts/top.json", {**where, "groups": groups}, "a"),
        ("/1/now.json", {}, "count"),
        ("/1/upload", {"d": [{"type": "profile"}]}, "unprocessed"),
        ("/1/targets/why.json", {"id": campaign, "identity": "user-0"}, "verdict"),
        ("/1/send/why.json", {"tag_group": "news", "identity": "user-0"}, "verdict"),
        ("/1/targets/sample.json", {"id": campaign}, "outcomes"),
        ("/1/targets/forecast.json", {"id": whole.create(when="20980101 10:00")}, "forecast"),
        ("/1/profile/timeline.json", {"identity": "user-0"}, "moments"),
        ("/1/reports.json", {"by": ["label"]}, "rows"),
        ("/1/webhooks/create.json", {"url": "https://shop.example/"}, "secret"),
        ("/1/webhooks/list.json", {}, "webhooks"),
        ("/1/targets/stop.json", {"id": whole.create(when="20980101 10:00")}, "status"),
    ]
    for path, body, field in asked:
        status, value = whole.post(path, body)
        check_answer(path, "post", status, value)
        assert (status, bool(value[field])) == (200, True), (path, value)
    for kind in ("profiles", "events"):
        cursor = whole.post(f"/1/{kind}.json", where)[1]["cursor"]
        for address in (f"/1/{kind}.json?cursor={cursor}", f"/1/{kind}.json?cursor=x"):
            check_answer(f"/1/{kind}.json", "get", *whole.get(address))
    for path in ("/1/labels.json", "/1/tag_groups.json"):
        check_answer(path, "get", *whole.get(path))
    for path in ("/1/profile.json", "/1/person.json"):
        check_answer(path, "get", *whole.get(f"{path}?identity=user-0"))
    check_answer("/1/delete/profiles.json", "post", *whole.post("/1/delete/profiles.json", {"identity": "user-0"}))
    check_answer("/1/delete/profiles.json", "get", *whole.get("/1/delete/profiles.json"))


def ask(caller: Caller, path: str, method: str, values: SchemaValues) -> int:
    """Sends one request that the document allows, checks its answer, and returns its status."""
    operation = SPEC["paths"][path][method]
    query = {
        one["name"]: value if isinstance(value := values.make(one["schema"]), str) else json.dumps(value)
        for one in operation["parameters"]
        if one["in"] == "query" and values.make({"type": "boolean"})
    }
    shown = operation.get("requestBody", {}).get("content", {}).get("application/json")
    body = values.make(shown["schema"]) if shown else None
    if shown and body and values.make({"type": "boolean"}):  # the example, with one field as it was made
        name = values.make({"enum": sorted(body)})
        body = shown["example"] | {name: body[name]}
    address = path + ("?" + urlencode(query) if query else "")
    status, value, headers = caller.call(method.upper(), address, body)
    if isinstance(value, bytes):
        assert (status, path, (body or {}).get("format") in ("csv", "parquet")) == (200, "/1/reports.json", True)
    else:
        check_answer(path, method, status, value)
    assert status < 500 or (status == 503 and "retry-after" in headers), (path, body, value)
    return int(status)


@pytest.mark.timeout(3600 if THOROUGH else 900)
def test_requests_made_from_the_document(whole: Caller) -> None:
    """What the document allows is never answered 5xx, nor in a way that the document does not say."""
    statuses = Counter[tuple[str, int]]()
    for number in range(REQUESTS // len(CALLS) + 1):
        values = SchemaValues(COMPONENTS, number)
        for path, method in CALLS:
            statuses[path, ask(whole, path, method, values)] += 1
    print(sorted(statuses.items()))
    assert sum(count for (_, status), count in statuses.items() if status == 200) > REQUESTS / 10


def test_the_page(server: Server, caller: Caller) -> None:
    """Open to everybody, without script and foreign host; to somebody logged in with their account in the examples and
    in the navigation."""
    status, page, headers = Caller(server.port).call("GET", "/docs")
    text = page.decode()
    assert status == 200
    assert all(f"<code>{method.upper()} {path}</code>" in text for path, method in CALLS)
    assert all(f'id="{name}"' in text for name in COMPONENTS)
    assert "ABC-DEF-GHIJ" in text
    assert "<script" not in text
    assert not re.search(r'<(?:link|img|iframe|script|form)[^>]+(?:href|src|action)="(?!/|data:)', text)
    assert headers["content-security-policy"].startswith("default-src 'none'; style-src 'self'; script-src 'self'")
    browser = join(server, caller, "viewer", unique("ana", caller))
    status, text = browser.look("/docs")
    assert status == 200
    assert f"X-CleverTap-Account-Id: {caller.account_id}" in text
    assert "ABC-DEF-GHIJ" not in text
    assert '<a href="/docs"' in browser.look("/dashboard/")[1]
