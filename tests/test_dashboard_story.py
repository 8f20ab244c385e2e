"""A marketer's story in a browser: from the log-in to the report of a campaign that the sandbox delivered."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import msgspec
import pytest
from conftest import ROOMY, Caller, Sandbox, Server, people
from support.browser import join, unique

from tocsin.authenticator.members import Role, add_member
from tocsin.authenticator.password import hash_password
from tocsin.authenticator.tickets import make_ticket
from tocsin.store.ledger import open_ledger

CHROMIUM = shutil.which("chromium")
AXE = "axe-core@4.14.1"
PASSWORD = "correct horse"
VILLAIN = "<img src=x onerror=alert(1)>"
PICTURES = os.environ.get("SCREENSHOTS")  # a folder for pictures of the pages

playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: THE BROWSER'S STORY IS NOT TOLD")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: THE BROWSER'S STORY IS NOT TOLD")


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str | None:
    """The source of axe-core, from npm; None where that fails."""
    folder = tmp_path_factory.mktemp("axe")
    try:
        subprocess.run(["npm", "pack", AXE], cwd=folder, check=True, capture_output=True, timeout=60)
        packed = next(folder.glob("*.tgz"))
        subprocess.run(["tar", "xzf", packed.name, "package/axe.min.js"], cwd=folder, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError, StopIteration):
        return None
    return (folder / "package" / "axe.min.js").read_text()


@pytest.fixture
def page() -> Iterator[Any]:
    """A page that fails the test when its console says something."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
        page.set_default_timeout(30_000)
        said: list[str] = []
        # What the server refuses, or a test cuts off, the browser writes down as an error, too.
        page.on(
            "console",
            lambda one: (
                None if re.search("status of 4|ERR_FAILED|Failed to fetch", one.text) else said.append(one.text)
            ),
        )
        page.on("pageerror", lambda error: said.append(str(error)))
        yield page
        browser.close()
    assert said == []


class Eye:
    """Looks at pages: for what hinders people, and for pictures."""

    def __init__(self, page: Any, axe: str | None):
        self.page, self.axe = page, axe

    def look(self, name: str) -> None:
        """Assert that nobody is locked out of the page and that it fits a phone."""
        if PICTURES:
            self.page.screenshot(path=str(Path(PICTURES) / f"{name}.png"), full_page=True)
        if self.axe is not None:
            self.page.evaluate(self.axe)
            found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
            wrong = [(one["id"], one["nodes"][0]["html"][:200]) for one in found]
            assert wrong == [], name
        self.page.set_viewport_size({"width": 320, "height": 700})
        wide = self.page.evaluate("document.documentElement.scrollWidth")
        if PICTURES:
            self.page.screenshot(path=str(Path(PICTURES) / f"{name}-phone.png"))
        self.page.set_viewport_size({"width": 1280, "height": 900})
        assert wide <= 320, f"{name} is {wide} wide"


def log_in(server: Server, account_id: str, page: Any) -> None:
    """Makes an admin of the account and logs them in."""
    email = f"ada@{account_id.lower()}.example"
    with contextlib.closing(open_ledger(server.ledger_url)) as ledger:
        ledger.write_now(lambda one: add_member(one, email, hash_password(PASSWORD), account_id, "admin", time.time()))
    page.goto(f"http://127.0.0.1:{server.port}/dashboard/login")
    page.get_by_label("E-mail").fill(email)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("heading", name="Campaigns").or_(
        page.get_by_role("heading", name="No campaign yet")
    ).first.wait_for()


def look_at_channels(page: Any, eye: Eye) -> None:
    """Each channel has its fields, limits and preview, and what was typed stays; a part without an answer says so."""
    page.get_by_label("Channel", exact=True).select_option("sms")
    page.locator("#title").wait_for(state="detached")
    page.locator("#body").fill("Bells for {{ Profile.Name }} 🔔")
    page.locator(".bubble", has_text="Bells for Jane Miller 🔔").wait_for()
    assert "GSM alphabet: 🔔" in page.locator("#parts").inner_text()
    eye.look("new-sms")
    page.route("**/new/forecast", lambda route: route.abort())
    page.get_by_label("Channel", exact=True).select_option("webpush")
    page.get_by_label("Button 1", exact=True).fill("Ring it")
    page.locator(".phone.webpush .choices", has_text="Ring it").wait_for()
    page.locator("#foreseen [role=alert]", has_text="could not be loaded").wait_for()
    page.unroute("**/new/forecast")
    assert page.locator("#title").input_value() == "Hi {{ Profile.Name }}"
    eye.look("new-webpush")
    page.get_by_label("Channel", exact=True).select_option("push")
    page.locator("#body").fill("A bell rings for you.")
    page.locator("#foreseen #forecast-numbers").wait_for()


def test_from_nothing_to_a_first_push(
    start_server: Callable[..., Server], sandbox: Sandbox, page: Any, axe: str | None, tmp_path: Path
) -> None:
    """An empty account: the sandbox by a click, people, a campaign, its numbers; then credentials of one's own."""
    server = start_server(tmp_path / "server", ROOMY | {"TOCSIN_SANDBOX_PORT": str(sandbox.port)})
    account_id, eye = server.account().account_id, Eye(page, axe)
    log_in(server, account_id, page)
    base = f"http://127.0.0.1:{server.port}/dashboard"
    page.goto(f"{base}/start")
    eye.look("start-empty")
    page.get_by_role("button", name="Use the sandbox").click()
    page.get_by_role("button", name="Make five people").click()
    page.locator("li.next a", has_text="New campaign").click()
    page.get_by_label("Name", exact=True).fill("Hello")
    page.get_by_label("Title").fill("Hi {{ Profile.Name }}")
    page.get_by_label("Text", exact=True).fill("A bell rings for you.")
    page.get_by_role("button", name="Review").click()
    page.get_by_role("button", name="Send 5 messages now").click()
    page.locator(".pill.completed").wait_for()
    page.goto(f"{base}/start")
    assert page.locator(".steps .done").count() == 5
    assert sorted(one["body"]["message"]["data"]["nt"] for one in sandbox.messages("fcm"))[0] == "Hi Ana"

    page.get_by_role("link", name="Settings").click()
    eye.look("settings-providers")
    page.get_by_role("link", name="Replace or check apns").click()
    given = sandbox.control.get("/credentials")[1]["apns"]
    (tmp_path / f"AuthKey_{given['key_id']}.p8").write_text(given["key"])
    page.get_by_label("Key id").fill("")
    page.locator("input[type=file]").set_input_files(tmp_path / f"AuthKey_{given['key_id']}.p8")
    playwright.expect(page.get_by_label("Key id")).to_have_value(given["key_id"])
    page.get_by_label("Team id").fill(given["key_id"])  # swapped, as everybody does
    page.get_by_label("Key id").fill(given["team_id"])
    page.get_by_label("Environment").select_option(given["endpoint"])
    page.get_by_role("button", name="Check and save").click()
    page.get_by_role("alert").wait_for()
    assert "swapped" in page.get_by_role("alert").inner_text()
    assert page.evaluate("document.activeElement.getAttribute('role')") == "alert"
    assert page.get_by_label("Team id").input_value() == given["key_id"]
    assert page.locator("#key").input_value() == ""
    eye.look("provider-refused")
    page.get_by_label("Team id").fill(given["team_id"])
    page.get_by_label("Key id").fill(given["key_id"])
    page.locator("#key").fill(given["key"])
    page.locator("[name=unasked]").check()
    page.get_by_role("button", name="Check and save").click()
    page.get_by_text("Saved.").wait_for()
    for name in ("fcm", "smtp", "vapid"):
        page.goto(f"{base}/settings/providers/{name}")
        eye.look(f"provider-{name}")
    for name in ("policies", "apps"):
        page.goto(f"{base}/settings/{name}")
        eye.look(f"settings-{name}")
    page.emulate_media(color_scheme="dark")
    eye.look("settings-dark")
    page.get_by_role("button", name="Log out").click()
    page.get_by_role("link", name="Forgot your password?").click()
    eye.look("forgot")
    with contextlib.closing(open_ledger(server.ledger_url)) as ledger:
        token = ledger.write_now(lambda one: make_ticket(one, "join", "gil@example.com", time.time(), account_id))
    page.goto(f"{base}/ticket?ticket={token}")
    eye.look("join")
    page.get_by_label("New password").fill("short")
    page.get_by_role("button", name="Join the account").click()
    assert "8 to 256 letters" in page.get_by_role("alert").inner_text()
    page.get_by_label("New password").fill(PASSWORD)
    page.get_by_role("button", name="Join the account").click()
    page.get_by_label("E-mail").fill("gil@example.com")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("link", name="Hello").wait_for()


def test_from_log_in_to_report(
    server: Server, sending: Caller, sandbox: Sandbox, page: Any, axe: str | None, request: pytest.FixtureRequest
) -> None:
    """Log-in, a form with a mistake, an audience by clicks, a look at it, a test, the sending, the report, a copy."""
    email = f"ana@{sending.account_id.lower()}.example"
    ledger = open_ledger(server.ledger_url)
    ledger.write_now(
        lambda one: add_member(one, email, hash_password(PASSWORD), sending.account_id, "admin", time.time())
    )
    ledger.close()
    sending.upload(*people(12, wns_port=sandbox.port + 3))
    sending.upload(
        {"type": "profile", "identity": "user-0", "profileData": {"Name": "Jane Miller", "Plan": "Gold"}},
        {"type": "profile", "identity": "user-1", "profileData": {"Name": "Ravi Kumar", "Plan": "Gold"}},
        {"type": "profile", "identity": "user-2", "profileData": {"Name": VILLAIN, "Plan": "Silver"}},
        {"type": "event", "identity": "user-2", "evtName": VILLAIN, "evtData": {"Amount": 30}},
    )
    eye = Eye(page, axe)
    base = f"http://127.0.0.1:{server.port}/dashboard/"

    page.goto(base)
    eye.look("login")
    page.get_by_label("E-mail").fill(email)
    page.get_by_label("Password").fill("wrong guess")
    page.get_by_role("button", name="Log in").click()
    assert page.get_by_role("alert").inner_text().startswith("E-mail and password do not go together")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("heading", name="No campaign yet").wait_for()
    eye.look("empty")

    page.get_by_role("link", name="New campaign").first.click()
    page.locator("#check").get_by_text("This is everybody").wait_for()
    page.get_by_label("Name", exact=True).fill("Spring for Gold")
    page.get_by_role("button", name="Condition · All of these").click()
    page.get_by_label("Kind of condition").select_option("is")
    page.get_by_label("property of the profile").fill("Plan")
    page.get_by_label("value, or several").fill("Gold")
    page.get_by_role("button", name="Condition · And none of these").click()
    second = page.locator("#row-1")
    second.get_by_label("event", exact=True).fill("Never happened")
    page.get_by_role("button", name="Review").click()
    assert "Field title is empty" in page.get_by_role("alert").inner_text()
    assert page.evaluate("document.activeElement.getAttribute('role')") == "alert"
    assert page.get_by_label("property of the profile").input_value() == "Plan"
    eye.look("mistake")
    page.get_by_label("Title").fill("Hi {{ Profile.Name }}")
    page.get_by_label("Text", exact=True).fill("A bell rings for you.")
    page.locator("#check .phone.android .head-line").filter(has_text="Hi Jane Miller").wait_for()
    page.locator("#check .total").filter(has_text="2").wait_for()
    page.locator("#foreseen li", has_text="2 would be sent to, of 2").wait_for()  # after each change, by itself
    assert page.locator("#spoken-forecast").inner_text() == "2 would be sent to, of 2; 0 held back."
    eye.look("new")
    look_at_channels(page, eye)
    page.get_by_text("Test it on somebody").click()
    page.get_by_label("Identity", exact=True).fill("user-1")
    page.get_by_role("button", name="Send the test").click()
    page.get_by_text("The test to user-1 is on its way").wait_for()
    page.get_by_role("button", name="Review").click()
    page.get_by_role("button", name="Send 2 messages now").wait_for()
    page.locator("#forecast-numbers", has_text="2 would be sent to, of 2").wait_for()  # it follows by itself
    eye.look("review")
    page.get_by_role("button", name="Send 2 messages now").click()
    page.locator(".pill.completed").wait_for()
    page.get_by_role("heading", name="Over time").wait_for()
    assert page.locator("#figures .figure", has_text="Sent").locator("dd").first.inner_text() == "2"
    assert page.get_by_role("link", name="Stop").count() == 0
    eye.look("campaign")
    shown = page.url.split("?")[0].rsplit("/", 1)[1]
    assert sending.result(int(shown))["sent"] == 2

    page.get_by_role("link", name="Duplicate").click()
    page.locator("#check .phone.ios").wait_for()
    page.locator("#foreseen #forecast-numbers").wait_for()
    if PICTURES:
        page.screenshot(path=str(Path(PICTURES) / "new-campaign.png"))
    page.locator("summary", has_text="Save this audience as a segment").click()
    page.get_by_label("Name of the segment").fill("Gold")
    page.get_by_role("button", name="Save this audience as a segment").click()
    page.get_by_text("The segment «Gold» is saved").wait_for()
    page.get_by_label("Name", exact=True).wait_for()
    assert page.get_by_label("Name", exact=True).input_value() == "Spring for Gold (copy)"
    assert page.get_by_label("property of the profile").input_value() == "Plan"
    page.get_by_role("button", name="+ Variant").click()
    page.locator("#variant-1-title").fill(VILLAIN)
    page.get_by_role("button", name="Save as draft").click()
    page.get_by_text("The draft is saved").wait_for()
    page.get_by_role("link", name="Campaigns").click()
    eye.look("drafts")
    page.get_by_role("link", name="Spring for Gold (copy)").click()
    page.locator("#check .phone.android .head-line").filter(has_text=VILLAIN).wait_for()
    eye.look("variants")
    sandbox.fault(vendor="fcm", kind="delay", seconds=2)
    page.get_by_role("button", name="Review").click()
    page.get_by_role("button", name="Send 2 messages now").click()
    page.wait_for_url(re.compile(r"/campaigns/\d+"))  # the click may return while the answer is on its way
    sent = page.context.new_page()
    sent.route("**/hx-sse*", lambda route: (sent.wait_for_timeout(300), route.continue_()))  # it comes after htmx
    sent.goto(page.url)
    page.get_by_role("link", name="Campaigns", exact=True).click()
    page.locator("#campaign-table .pill.running").wait_for()
    # Both pages come to the end by themselves: nothing is clicked and nothing loaded again. Then they ask no more.
    playwright.expect(page.locator("#campaign-table .pill.completed")).to_have_count(2)
    assert page.locator("#live").get_attribute("hx-trigger") is None
    sent.locator(".pill.completed").wait_for()
    sent.locator("#variant-table").wait_for()
    Eye(sent, axe).look("variants-sent")
    sent.close()
    page.get_by_label("State").select_option("completed")
    page.get_by_role("button", name="Search").click()
    page.get_by_role("link", name="Spring for Gold", exact=True).wait_for()
    eye.look("campaigns")
    page.get_by_role("link", name="Segments").click()
    page.locator("#segment-table td.number", has_text="2").wait_for()
    eye.look("segments")
    page.get_by_role("link", name="People").click()
    page.get_by_label("Identity, e-mail, objectId").fill("user-2")
    page.get_by_role("button", name="Search").click()
    page.get_by_role("heading", name=VILLAIN).wait_for()
    page.locator("li", has_text="first seen").wait_for()  # what happened follows by itself
    assert page.get_by_text(VILLAIN).count() > 1
    eye.look("people")
    page.get_by_role("link", name="Settings").click()
    page.locator("#audit-table", has_text="campaign made").wait_for()
    eye.look("settings")
    page.get_by_role("link", name="System").click()
    eye.look("system")
    page.goto(f"{base}start")
    eye.look("start")
    page.get_by_role("link", name="Campaigns").first.click()
    page.get_by_role("link", name="Spring for Gold", exact=True).wait_for()
    page.emulate_media(color_scheme="dark")
    eye.look("campaigns-dark")
    page.get_by_role("button", name="Log out").click()
    page.get_by_role("heading", name="Please log in").wait_for()
    if axe is None:
        request.node.user_properties.append(("axe", "missing"))
        pytest.skip(f"{AXE} could not be had: ACCESSIBILITY WAS NOT LOOKED AT; the rest of the story holds")


def test_who_wants_to_be_forgotten(server: Server, caller: Caller, page: Any, axe: str | None, tmp_path: Path) -> None:
    """An admin downloads everything about somebody, keeps them, and then deletes them; a marketer, a form from
    elsewhere and one about somebody else do not."""
    name = f"jane {VILLAIN}"
    caller.upload(
        {"type": "profile", "identity": name, "profileData": {"Name": "Jane", "Email": "jane@example.com"}},
        {"type": "event", "identity": name, "evtName": "Charged", "evtData": {"Amount": 30}},
    )
    eye = Eye(page, axe)
    log_in(server, caller.account_id, page)
    page.get_by_role("link", name="People").click()
    page.get_by_label("Identity, e-mail, objectId").fill(name)
    page.get_by_role("button", name="Search").click()
    page.get_by_role("heading", name="Jane").wait_for()
    eye.look("person")
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Export everything").click()
    waiting.value.save_as(tmp_path / "person.jsonl")
    [line] = (tmp_path / "person.jsonl").read_text().splitlines()
    told = msgspec.json.decode(line)
    assert (told["person"]["identities"]["identity"], told["events"][0]["name"]) == ([name], "Charged")

    page.get_by_role("link", name="Delete this person").click()
    page.get_by_role("heading", name=f"Delete {name} for good?").wait_for()
    page.get_by_text("1 events, in every count").wait_for()
    eye.look("delete-person")
    asks = urlsplit(page.url)
    path = f"{asks.path}?{asks.query}"
    user = page.locator("input[name=user]").get_attribute("value")
    page.get_by_role("link", name="Keep them").click()
    page.get_by_role("heading", name="Jane").wait_for()

    fields = {"identity": name, "user": user}
    others: tuple[Role, ...] = ("marketer", "viewer")
    for role in others:
        other = join(server, caller, role, unique(role, caller))
        assert other.look(path)[0] == 403
        assert other.look(path.replace("/delete?", "/export?"))[0] == 403
        assert other.send(asks.path, fields | {"token": other.token()})[0] == 403
    admin = join(server, caller, "admin", unique("eva", caller))
    assert admin.send(asks.path, fields | {"token": "0" * 64})[0] == 403
    assert admin.send(asks.path, fields | {"token": admin.token()}, **{"Sec-Fetch-Site": "cross-site"})[0] == 403
    assert admin.send(asks.path, fields | {"token": admin.token(), "user": "4000000"})[0] == 409
    assert admin.look("/dashboard/people/delete?identity=nobody")[0] == 404

    page.get_by_role("link", name="Delete this person").click()
    page.get_by_role("button", name="Delete this person").click()
    page.get_by_text("Deleted. Counts and audiences").wait_for()
    assert caller.get(f"/1/profile.json?{urlencode({'identity': name})}")[0] == 404
    page.get_by_role("link", name="Settings").click()
    page.locator("#audit-table", has_text="people deleted").wait_for()
    page.locator("#audit-table", has_text="person exported").wait_for()
    assert page.locator("#audit-table").inner_text().count("jane") == 0
    page.get_by_role("link", name="System").click()
    page.get_by_text("Deleted people, not yet erased").wait_for()
