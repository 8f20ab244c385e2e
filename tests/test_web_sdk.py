"""CleverTap's Web SDK as npm has it, unchanged, in a real browser over TLS: what arrived is what the pages did.

It is installed once, see `support/libraries.py`. Where that fails, or there is no browser, the test is skipped and says
what is missing.
"""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOMY, Sandbox, Server, wait_for
from support.chromium import Chromium, Page
from support.devtools import running_browser
from support.libraries import INSTALL_SECONDS, install_npm
from support.tls import tls_in_front

from tocsin.authenticator.apps import add_app
from tocsin.policy import set_policy
from tocsin.sandbox.web_push_key import decode
from tocsin.store.ledger import open_ledger

HERE = Path(__file__).parent / "web_sdk"

pytestmark = pytest.mark.timeout(2 * INSTALL_SECONDS)

# The page is behind a certificate of our own, and the browser asks nobody else for anything.
FLAGS = ("--ignore-certificate-errors", "--disable-background-networking", "--disable-component-update")


@pytest.fixture(scope="module")
def sdk() -> Path:
    """The script of the package."""
    folder = install_npm(HERE / "package.json", "clevertap-web-sdk (npm)")
    return folder / "node_modules" / "clevertap-web-sdk" / "clevertap.js"


@pytest.fixture
def shop(sdk: Path) -> Iterator[str]:
    """A site whose page has the SDK in it; its address."""
    files = {
        "/": (HERE / "page.html", "text/html"),
        "/clevertap.js": (sdk, "text/javascript"),
        "/clevertap_sw.js": (HERE / "clevertap_sw.js", "text/javascript"),
    }

    class Site(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = files.get(self.path.partition("?")[0])
            content = found[0].read_bytes() if found else b""
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", f"{found[1] if found else 'text/plain'}; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_address[1]}/"
        server.shutdown()


# Stands in for Google's push service, which a browser without a window cannot reach.
STUB = """
PushManager.prototype.subscribe = async ({ applicationServerKey }) => {
  const made = %s;
  window.asked = btoa(String.fromCharCode(...applicationServerKey));
  return { endpoint: made.endpoint, toJSON: () => made };
};
true
"""


class Shopper:
    """A browser on the shop's page, with the SDK started."""

    def __init__(self, chromium: Chromium, shop: str, account: str, domain: str, *, settings: str = "{}"):
        self._browser = chromium.browse()
        self._chromium, self._shop = chromium, shop
        self._start = f"clevertap.init({account!r}, '', {domain!r}, '', {settings})"
        self.page = self.open()

    def open(self) -> Page:
        """A new tab, as after a reload."""
        page = self._chromium.open(self._browser, self._shop)
        page.run(f"void {self._start}")
        self.wait(page)
        return page

    def allow_notifications(self) -> None:
        """Says yes before the page asks."""
        origin = self._shop.rstrip("/")
        given: dict[str, Any] = {"permissions": ["notifications"], "origin": origin, "browserContextId": self._browser}
        self._chromium.ask("Browser.grantPermissions", **given)

    def do(self, script: str) -> None:
        """Calls the SDK, and waits until the server has heard it."""
        self.page.run(f"void clevertap.{script}")
        self.wait(self.page)

    def wait(self, page: Page) -> None:
        """Until the browser has its GUID and nothing is left to send."""
        done = "'WZRK_G' in localStorage && decodeURIComponent(localStorage.WZRK_L || '{}') === '{}'"
        wait_for(lambda: bool(page.run(done)), 30)


READ = """
import json, sqlite3, sys
from tocsin.store.facts import open_facts
data, account = sys.argv[1:]
ledger = sqlite3.connect(f"{data}/ledger.db")
facts = open_facts(f"chdb://{data}/facts")
names = {}
for user, kind, value in ledger.execute("SELECT user_id, kind, value FROM identity WHERE account_id = ?", (account,)):
    names.setdefault(user, []).append((kind, value))
people = []
for user, profile in ledger.execute('SELECT id, profile FROM user WHERE account_id = ? ORDER BY id', (account,)):
    rows = facts.query_now(
        "SELECT name, raw FROM event FINAL WHERE account = {account:String} AND user = {user:UInt32}",
        {"account": account, "user": user})
    people.append({"names": names.get(user, []), "profile": json.loads(profile), "events": [list(row) for row in rows]})
facts.close()
print(json.dumps(people))
"""


def read_people(data: Path, account: str) -> list[dict[str, Any]]:
    """Everybody of an account with their names, properties and events, once the server has stopped."""
    done = subprocess.run([sys.executable, "-c", READ, str(data), account], check=True, capture_output=True, text=True)
    people: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    for one in people:
        one["events"] = [(name, without_marks(json.loads(raw))) for name, raw in one["events"]]
    return people


def without_marks(props: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in props.items() if not key.startswith("CT ")}


def test_what_arrived_is_what_the_pages_did(start_server: Callable[..., Server], tmp_path: Path, shop: str) -> None:
    """Events, a log-in, a profile and a reload; the same person in a second browser; a second person in the first one;
    and a page that fetches."""
    server = start_server(tmp_path / "server", ROOMY)
    caller = server.account()
    with contextlib.closing(open_ledger(server.ledger_url)) as ledger:
        made = add_app(ledger, caller.account_id, "site", time.time(), platforms="web")
        trust = '{"identities": "trust"}'
        ledger.write_now(lambda connection: set_policy(connection, caller.account_id, "apps", trust, time.time()))
    with tls_in_front(server.port, tmp_path) as port, running_browser(tmp_path / "browser", *FLAGS) as running:
        chromium = Chromium(running)
        domain = f"127.0.0.1:{port}"
        first = Shopper(chromium, shop, made.sdk_id, domain)
        first.do("event.push('Product viewed', {Name: 'Lampe é☃😀', Price: 59.99})")
        first.do(
            "onUserLogin.push({Site: {Identity: 'ann', Email: 'ann@example.com', Phone: '+491701234567', Age: 30}})"
        )
        first.do("profile.push({Site: {Plan: 'gold', Since: new Date(1500000000000)}})")
        first.page = first.open()
        first.do("event.push('Charged', {Amount: 12, 'Charged ID': 1, Items: [{Category: 'Books', Quantity: 2}]})")
        second = Shopper(chromium, shop, made.sdk_id, domain)
        second.do("onUserLogin.push({Site: {Identity: 'ann', Colour: 'red'}})")
        second.do("event.push('In the second browser')")
        first.do("onUserLogin.push({Site: {Identity: 'bob', Name: 'Bob'}})")
        first.do("event.push('Of Bob')")
        fetching = Shopper(chromium, shop, made.sdk_id, domain, settings="{enableFetchApi: true}")
        fetching.do("event.push('Fetched', {N: 1})")
    assert server.stop() == 0
    people = read_people(tmp_path / "server", caller.account_id)
    print(json.dumps(people, indent=1))
    named = {value: one for one in people for kind, value in one["names"] if kind == "identity"}
    assert {*named} == {"ann", "bob"}
    ann, bob = named["ann"], named["bob"]
    site = {"Device": "Desktop", "Browser": "Chrome", "OS": ann["profile"]["OS"]}
    for one in (ann, bob):
        one["profile"] = {key: value for key, value in one["profile"].items() if key not in {"Tz", "Library", *site}}
    assert ann["profile"] == {
        **{"Identity": "ann", "Email": "ann@example.com", "Phone": "+491701234567", "Age": 30},
        **{"Plan": "gold", "Since": "$D_1500000000", "Colour": "red"},
    }
    assert bob["profile"] == {"Identity": "bob", "Name": "Bob"}
    assert sorted(ann["events"], key=str) == sorted(
        [
            ("App Launched", {}),
            ("App Launched", {}),
            ("Product viewed", {"Name": "Lampe é☃😀", "Price": 59.99}),
            ("Charged", {"Amount": 12, "Charged ID": 1, "Items": [{"Category": "Books", "Quantity": 2}]}),
            ("In the second browser", {}),
        ],
        key=str,
    )
    assert [name for name, _ in bob["events"] if name != "App Launched"] == ["Of Bob"]
    assert len([kind for kind, _ in ann["names"] if kind == "objectId"]) == 2
    others = [one for one in people if one not in (ann, bob)]
    assert [("Fetched", {"N": 1})] in [[event for event in one["events"] if event[0] == "Fetched"] for one in others]


def test_a_browser_subscribes_with_our_key(
    start_server: Callable[..., Server], sandbox: Sandbox, tmp_path: Path, shop: str
) -> None:
    """The SDK is told the account's VAPID key, and what it registers gets a campaign."""
    server = start_server(tmp_path / "server", ROOMY)
    caller = server.account()
    server.use_sandbox(caller, sandbox)
    with contextlib.closing(open_ledger(server.ledger_url)) as ledger:
        made = add_app(ledger, caller.account_id, "site", time.time(), platforms="web")
    [subscription] = sandbox.control.post("/subscriptions", {"browser": "chrome"})[1]["subscriptions"]
    push: dict[str, Any] = {"target_mode": "webpush", "content": {"title": "Hi", "body": "there"}}
    asked = {**push, "name": "n", "where": {}, "when": "now", "estimate_only": True}
    with tls_in_front(server.port, tmp_path) as port, running_browser(tmp_path / "browser", *FLAGS) as running:
        chromium = Chromium(running)
        shopper = Shopper(chromium, shop, made.sdk_id, f"127.0.0.1:{port}")
        shopper.allow_notifications()
        shopper.page.run(STUB % json.dumps(subscription))
        shopper.do("notifications.push({skipDialog: true})")
        wait_for(lambda: caller.post("/1/targets/create.json", asked)[1]["estimates"] == {"chrome": 1}, 30)
        key = decode(sandbox.control.get("/credentials")[1]["vapid"]["public_key"])
        assert shopper.page.run("asked") == base64.b64encode(key).decode()
    assert caller.result(caller.create(**push))["sent"] == 1
    [message] = sandbox.messages("vapid")
    assert message["address"] == subscription["endpoint"]
    assert server.stop() == 0
