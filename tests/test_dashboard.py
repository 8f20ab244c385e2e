"""The pages say what the API says, to nobody but the account, and nothing in them is taken for markup."""

from __future__ import annotations

import base64
import hashlib
import re
import urllib.parse
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from conftest import Caller, Sandbox, Server, people, wait_for

from tocsin.account import Account
from tocsin.audience.description import describe
from tocsin.audience.query import read_where
from tocsin.campaign.spec import read_spec
from tocsin.dashboard.formatting import full_time, short_time, thousands
from tocsin.dashboard.page import Frame, Visitor, render_text
from tocsin.dashboard.queries import CampaignLine, Detail, Figures
from tocsin.dashboard.texts import ENGLISH
from tocsin.stats.comparison import Comparison, Difference, Group, describe_difference, judge
from tocsin.stats.intervals import compare_rates, estimate_rate

PAGES = Path(__file__).parent.parent / "src" / "tocsin" / "dashboard"
# What of a template is not read by people, and what is code wherever they live.
NO_TEXT = (r"{#.*?#}", r"{%.*?%}", r"{{.*?}}", r"<(pre|code|dt)\b.*?</\1>", r"<[^>]*>", r"&\w+;")
COLUMNS = ("audience", "sent", "unknown", "failed", "suppressed", "under way", "viewed", "clicked")
VILLAIN = "<script>alert(1)</script>"
ACCOUNT = Account("a", "a", "UTC")
PUSH = {"name": "x", "target_mode": "push", "where": {}, "when": "now", "devices": ["ios"]}
PUSH |= {"content": {"title": "a", "body": "b"}}
NOTHING = dict.fromkeys(("unknown", "failed", "suppressed", "viewed", "clicked"), 0)


class Tables(HTMLParser):
    """The cells of every table of a page, by its id and row."""

    def __init__(self, page: str):
        super().__init__()
        self.rows: dict[str, list[list[str]]] = {}
        self._table = ""
        self._in_cell = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self._table = dict(attrs)["id"] or ""
            self.rows[self._table] = []
        elif tag == "tr":
            self.rows[self._table].append([])
        elif tag in ("td", "th"):
            self.rows[self._table][-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.rows[self._table][-1][-1] += data

    def numbers(self, table: str, start: str) -> dict[str, int]:
        """The numbers of the row whose first cell begins with `start`."""
        row = next(row for row in self.rows[table] if row[0].strip().startswith(start))
        columns = (*COLUMNS, "converted") if table == "group-table" else COLUMNS
        return {name: int(text.replace(",", "")) for name, text in zip(columns, row[-len(columns) :], strict=True)}


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def look(caller: Caller, path: str = "/dashboard/") -> tuple[int, str, Mapping[str, str]]:
    """A page as a browser logged in to the account gets it."""
    login = basic(caller.account_id, caller.headers["X-CleverTap-Passcode"])
    status, body, headers = Caller(caller.port, login).call("GET", path)
    return status, body.decode(), headers


def see(caller: Caller, path: str = "/dashboard/") -> str:
    status, page, _ = look(caller, path)
    assert status == 200, page
    return page


@pytest.mark.parametrize("path", ["/dashboard/", "/dashboard/campaigns/1"])
def test_log_in_is_required(server: Server, path: str) -> None:
    status, body, headers = Caller(server.port).call("GET", path)

    assert status == 401
    assert headers["www-authenticate"].startswith('Basic realm="Tocsin"')
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert "Please log in" in body.decode()


@pytest.mark.parametrize(
    "header",
    [
        "Basic",
        "Basic !!!",
        "Basic " + base64.b64encode(b"\xff:\xfe").decode(),
        "Bearer abc",
        basic("a\0b", "c")["Authorization"],
    ],
)
def test_log_in_that_cannot_be_read(server: Server, header: str) -> None:
    status, body, _ = Caller(server.port, {"Authorization": header}).call("GET", "/dashboard/")

    assert (status, b"Please log in" in body) == (401, True)


def test_wrong_passcode(caller: Caller) -> None:
    stranger = Caller(caller.port, basic(caller.account_id, "WRONG"))

    status, _, headers = stranger.call("GET", "/dashboard/")

    assert status == 401
    assert "www-authenticate" in headers


def test_headers_of_the_api_are_no_log_in(caller: Caller) -> None:
    """A page is for browsers: only what a browser was told counts."""
    status, _, _ = caller.call("GET", "/dashboard/")

    assert status == 401


def test_address_without_slash_leads_to_the_one_with(server: Server) -> None:
    status, _, headers = Caller(server.port).call("GET", "/dashboard")

    assert (status, headers["location"]) == (308, "/dashboard/")


def test_nothing_yet_says_what_to_do(caller: Caller) -> None:
    page = see(caller)

    assert "No campaign yet" in page
    assert f"curl http://127.0.0.1:{caller.port}/1/targets/create.json" in page
    assert f"curl http://127.0.0.1:{caller.port}/1/send/push.json" in page
    assert caller.account_id in page
    assert caller.headers["X-CleverTap-Passcode"] not in page
    assert "Europe/Berlin" in page
    assert '<meta http-equiv="refresh" content="15">' in page


def test_numbers_are_those_of_the_api(sending: Caller, sandbox: Sandbox) -> None:
    """Sent, failed, suppressed, viewed and clicked of a campaign, and of a tag group, on the page as in the API."""
    sending.upload(*people(12, wns_port=sandbox.port + 3))
    sandbox.fault(vendor="fcm", kind="status", status=404, code="UNREGISTERED", count=1)
    campaign = sending.create(name="Numbers")
    result = sending.result(campaign)
    assert (result["audience"], result["failed"]) == (12, 1)
    push_id = sandbox.messages("fcm")[0]["body"]["message"]["data"]["wzrk_pid"]
    for kind in ("viewed", "clicked"):
        assert Caller(sending.port).post(f"/track/{kind}", {"id": push_id})[0] == 200
    send = {"to": {"Identity": ["user-1", "nobody"]}, "content": {"title": "a", "body": "b"}, "tag_group": "receipts"}
    assert sending.post("/1/send/push.json", send)[0] == 200
    groups = wait_for(lambda: _settled_groups(sending))
    result = sending.result(campaign)

    tables = Tables(see(sending))

    assert (result["viewed"], result["clicked"]) == (1, 1)
    assert tables.numbers("campaign-table", "Numbers") == result | {"under way": 0}
    assert tables.numbers("campaign-table", "Total") == result | {"under way": 0}
    assert groups["receipts"] == NOTHING | {"audience": 2, "sent": 1, "suppressed": 1, "converted": 0}
    assert tables.numbers("group-table", "receipts") == groups["receipts"] | {"under way": 0}


def test_numbers_as_csv(caller: Caller) -> None:
    """The same numbers as on the page; nothing of it is a formula."""
    campaign = caller.create(name="=1+1", when="20990101 00:00")
    assert Caller(caller.port).call("GET", f"/dashboard/campaigns/{campaign}/numbers.csv")[0] == 401
    status, text, headers = look(caller, f"/dashboard/campaigns/{campaign}/numbers.csv")
    assert (status, headers["content-type"]) == (200, "text/csv; charset=utf-8")
    assert text.splitlines()[:2] == ["part,name,measure,value", "campaign,'=1+1,audience,0"]
    assert see(caller, "/dashboard/tag-groups/numbers.csv") == "part,name,measure,value\r\n"


def test_groups_are_compared_in_words_and_drawn() -> None:
    """An interval that leaves zero out stands on its side of the line and says who converts more."""
    spec = read_spec({**PUSH, "conversion_goal": {"event_name": "Charged", "conversion_time": "1D"}}, ACCOUNT, 0.0)
    names = (("A", 400, 90), ("B", 400, 40), (VILLAIN, 0, 0))
    rates = [estimate_rate(done, people, 0.95) if people else None for _, people, done in names]
    groups = [
        Group(name=name, control=False, people=people, converted=done, rate=rate, revenue=0.0, squares=0.0)
        for (name, people, done), rate in zip(names, rates, strict=True)
    ]
    rate = compare_rates((90, 400), (40, 400), 0.95)
    one = Difference(group="A", than="B", rate=rate, verdict=judge(rate), detectable=0.05)
    found = Detail(
        line=CampaignLine(id=1, name="x", channel="push", state="running", due_at=0.0, figures=Figures(audience=5)),
        created_at=0.0,
        spec=spec,
        variants={},
        conversions={"converted": 130, "click_through": 0, "view_through": 0},
        comparison=Comparison(groups=groups, differences=[one], final=False, has_revenue=False),
        reasons=[],
        more=False,
        by_platform=[],
        chart=None,
        rate=2.5,
    )

    html = render_text("campaign_live.html", frame=Frame(Visitor(ACCOUNT, "viewer"), 0.0), found=found)

    assert '<li class="verdict better">' in html
    assert describe_difference(one) in html
    assert float(re.findall(r'<rect x="([\d.-]+)"', html)[0]) > 0
    assert "2.5 a second, 1 min to go" in html
    assert VILLAIN not in html


def _settled_groups(caller: Caller) -> dict[str, Any] | None:
    groups = caller.get("/1/tag_groups.json")[1]["tag_groups"]
    group = groups.get("receipts")
    done = group is not None and group["audience"] == 2 == group["sent"] + group["suppressed"] + group["failed"]
    return groups if done else None


def test_page_of_a_campaign(sending: Caller, sandbox: Sandbox) -> None:
    """State, content, question and the vendors' codes."""
    sending.upload(*people(9, wns_port=sandbox.port + 3))
    sandbox.fault(vendor="fcm", kind="status", status=404, code="UNREGISTERED")
    question = {"common_profile_properties": {"profile_fields": [{"name": "Name", "operator": "exists"}]}}
    campaign = sending.create(
        name="One of many",
        where=question,
        labels=["spring"],
        content={
            "title": "Hi {{ Profile.Name }}",
            "body": "there",
            "platform_specific": {"ios": {"deep_link": "x://y"}},
        },
    )
    sending.result(campaign)

    page = see(sending, f"/dashboard/campaigns/{campaign}")

    assert '<span class="pill completed">completed</span>' in page
    assert "android · gone · UNREGISTERED · <b>3</b>" in page
    assert "· accepted ·" not in page, "who got it is no reason"
    assert "Hi {{ Profile.Name }}" in page
    assert "x://y" in page
    assert "spring" in page
    assert "has a profile\n  where &#34;Name&#34; exists" in page


def test_page_of_mail(sending: Caller) -> None:
    campaign = sending.create(
        target_mode="email", content={"subject": "News & more", "body": "<p>Hello</p>", "sender_name": "Shop"}
    )

    page = see(sending, f"/dashboard/campaigns/{campaign}")

    assert "News &amp; more" in page
    assert "&lt;p&gt;Hello&lt;/p&gt;" in page


def test_campaign_under_way(sending: Caller, sandbox: Sandbox) -> None:
    """While vendors think, the row says how far it is and the page comes back soon."""
    sending.upload(*people(3, kinds=("fcm",)))
    sandbox.fault(vendor="fcm", kind="delay", seconds=3)
    sending.create(name="Slow")
    page = wait_for(lambda: page if "pill running" in (page := see(sending)) else None)

    assert '<progress max="3" value="0"' in page
    assert '<meta http-equiv="refresh" content="2">' in page
    assert Tables(page).numbers("campaign-table", "Slow") == NOTHING | {"audience": 3, "sent": 0, "under way": 3}


def test_pending_and_stopped(caller: Caller) -> None:
    later = caller.create(name="Later", when="20990101 09:30")
    stopped = caller.create(name="Never", when="20990101 09:30")
    assert caller.post("/1/targets/stop.json", {"id": stopped})[0] == 200

    page = see(caller)

    rows = Tables(page).rows["campaign-table"]
    assert [row[0].split("\n")[0].strip() for row in rows[1:3]] == [f"Never{stopped} · push", f"Later{later} · push"]
    assert [row[1].strip() for row in rows[1:3]] == ["stopped", "pending"]
    assert rows[2][2] == "1 Jan 2099, 09:30"
    assert '<meta http-equiv="refresh" content="15">' in page


def test_names_and_texts_are_no_markup(caller: Caller) -> None:
    campaign = caller.create(
        name=VILLAIN,
        when="20990101 00:00",
        labels=[VILLAIN],
        where={"event_name": VILLAIN, "from": 20240101, "to": 20240102, "props": [{"name": VILLAIN, "value": VILLAIN}]},
        content={"title": VILLAIN, "body": VILLAIN, "platform_specific": {"android": {VILLAIN: VILLAIN}}},
    )

    pages = [see(caller), see(caller, f"/dashboard/campaigns/{campaign}")]

    for page in pages:
        assert "<script" not in page
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_no_more_than_a_hundred(server: Server, caller: Caller) -> None:
    for number in range(101):
        caller.create(name=f"number {number}", when="20990101 00:00", skip_estimate=True)

    page = see(caller)

    rows = Tables(page).rows["campaign-table"]
    assert len(rows) == 102  # with the head and the totals
    assert rows[1][0].strip().startswith("number 100")
    assert "The newest 100 are shown" in page


def test_campaign_of_another_account(server: Server, caller: Caller) -> None:
    campaign = server.account().create(when="20990101 00:00")

    status, page, headers = look(caller, f"/dashboard/campaigns/{campaign}")

    assert (status, headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert "There is no such campaign" in page


@pytest.mark.parametrize("name", ["1", "0", "-1", "abc", "99999999999999999999", "٣", "<script>"])
def test_campaign_nobody_has(caller: Caller, name: str) -> None:
    status, page, _ = look(caller, f"/dashboard/campaigns/{urllib.parse.quote(name, safe='')}")

    assert status == 404
    assert "<script" not in page


def test_every_page_is_locked_down(caller: Caller) -> None:
    for path in ("/dashboard/", "/dashboard/campaigns/1", "/dashboard/static/tocsin.css"):
        _, _, headers = look(caller, path)
        policy = headers["content-security-policy"].split("; ")
        assert {"default-src 'none'", "style-src 'self'", "img-src 'self' data:", "frame-ancestors 'none'"} <= set(
            policy
        )
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
    assert look(caller)[2]["cache-control"] == "no-store"
    assert "style=" not in see(caller)  # the policy would not apply it


def test_style_sheet(server: Server) -> None:
    status, body, headers = Caller(server.port).call("GET", "/dashboard/static/tocsin.css?v=1")

    assert (status, headers["content-type"]) == (200, "text/css; charset=utf-8")
    assert headers["cache-control"] == "public, max-age=3600"
    assert body.startswith(b":root")


@pytest.mark.parametrize("name", ["nothing.css", "..%2fpage.py", "%2e%2e", "tocsin.css%00"])
def test_no_other_file_is_served(server: Server, name: str) -> None:
    status, _, _ = Caller(server.port).call("GET", f"/dashboard/static/{name}")

    assert status == 404


def test_templates_hold_no_text_of_their_own() -> None:
    """Every word of a page comes from texts.py, and every text that a template names is there."""
    folder = PAGES / "templates"
    words: list[str] = []
    for template in folder.glob("*.html"):
        text = template.read_text()
        named = set(re.findall(r"\bt\.([a-z_]+)", text)) - {"format"}
        assert [name for name in named if not hasattr(ENGLISH, name)] == [], template.name
        for pattern in NO_TEXT:
            text = re.sub(pattern, " ", text, flags=re.DOTALL)
        words += [f"{template.name}: {word}" for word in re.findall(r"[A-Za-z]{3,}", text)]
    attributes = {
        f"{file}.html: {word}"
        for file in ("new", "form")
        for word in ("aria", "invalid", "true", "describedby", "mistake")
    }
    assert set(words) - attributes == {"base.html: Tocsin", "campaign.html: email", "campaign.html: where"}


def test_what_is_vendored_is_what_it_says() -> None:
    """The scripts are npm's, unchanged; their licence stands beside them."""
    folder = PAGES / "static"
    said = (folder / "VENDORED.txt").read_text()
    for script in folder.glob("*.min.js"):
        assert hashlib.sha256(script.read_bytes()).hexdigest() in said
    assert "Permission to use, copy, modify" in said


def test_wording() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    now = 1_700_000_000.0  # Tue 14 Nov 2023, 23:13:20 in Berlin
    assert short_time(now - 60, berlin, now) == "today, 23:12"
    assert short_time(now - 86_400, berlin, now) == "13 Nov, 23:13"
    assert short_time(now + 86_400 * 60, berlin, now) == "13 Jan 2024, 23:13"
    assert full_time(now, berlin) == "Tue 14 Nov 2023, 23:13:20"
    assert thousands(1_234_567) == "1,234,567"
    row = Figures(audience=9, sent=1, unknown=2, failed=3, suppressed=1)
    assert (row.final, row.under_way) == (7, 2)
    assert Figures.total([row, row]) == Figures(audience=18, sent=2, unknown=4, failed=6, suppressed=2)


def test_question_in_words() -> None:
    many = {"name": "Plan", "operator": "equals", "value": [str(number) for number in range(12)]}
    asked = {
        "event_name": "Charged",
        "from": 20240101,
        "to": 20241231,
        "event_properties": [{"name": "Amount", "operator": "greater_than", "value": 100}],
        "common_profile_properties": {"profile_fields": [many, {"name": "Email", "operator": "exists"}]},
    }
    shown = " or ".join(f'"{number}"' for number in range(10))
    assert describe(read_where(asked)) == (
        'did "Charged"\n  from 2024-01-01 to 2024-12-31\n  where "Amount" greater than 100.0\n'
        f'and has a profile\n  where "Plan" equals {shown} or 2 more\n  and "Email" exists'
    )
    assert describe(read_where({})) == "everybody"
