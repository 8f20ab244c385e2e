"""Our script and service worker in a real browser, from a click on «subscribe» to a click on the notification.

Three things a browser without a screen and without a push service cannot do are done for it, and nothing else:
`PushManager.subscribe` would ask Google for an endpoint, so the page gets a subscription of the sandbox; the push comes
by DevTools, word for word as the sandbox decrypted it; and the click is an event made in the service worker.
"""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Caller, Sandbox, Server, wait_for
from support.devtools import Browser, running_browser

# Stands in for the push service: remembers what it was asked, and answers with the sandbox's subscription.
STUB = """
(() => {
  const made = %s;
  let current = null;
  const plain = (text) => atob(text.replace(/-/g, "+").replace(/_/g, "/"));
  const bytes = (text) => Uint8Array.from(plain(text), (letter) => letter.charCodeAt(0)).buffer;
  PushManager.prototype.getSubscription = async () => current;
  PushManager.prototype.subscribe = async (options) => {
    window.asked = options;
    current = {
      options: { applicationServerKey: bytes(options.applicationServerKey) },
      toJSON: () => made,
      unsubscribe: async () => { current = null; return true; },
    };
    return current;
  };
})();
"""
SHOWN = """
navigator.serviceWorker.ready
  .then((registration) => registration.getNotifications())
  .then((all) => all.map((one) => [one.title, one.body]))
"""
CLICK = """
(async () => {
  const [notification] = await self.registration.getNotifications();
  // waitUntil is for events that the browser made.
  ExtendableEvent.prototype.waitUntil = (promise) => promise.catch(() => {});
  self.dispatchEvent(new NotificationEvent("notificationclick", { notification, action: "" }));
  return (await self.registration.getNotifications()).length;
})()
"""


@pytest.fixture
def site(sending: Caller, sandbox: Sandbox, server: Server) -> Iterator[str]:
    """Somebody's site, whose pages are believed: one with our script, and the one line of a service worker."""
    server.trust_pages(sending)
    key = sandbox.control.get("/credentials")[1]["vapid"]["public_key"]
    ours = f"http://127.0.0.1:{sending.port}/sdk"
    page = f'<script src="{ours}/tocsin.js" data-account="{sending.account_id}" data-key="{key}"></script>'
    files = {
        "/": ("text/html", f"<!doctype html><title>shop</title>{page}"),
        "/tocsin-sw.js": ("text/javascript", f'importScripts("{ours}/tocsin-sw.js");'),
    }

    class Shop(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kind, content = files.get(self.path.partition("?")[0], ("text/plain", ""))
            self.send_response(200 if content else 404)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(content.encode())

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Shop) as shop:
        threading.Thread(target=shop.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{shop.server_port}"
        shop.shutdown()


def open_page(browser: Browser, site: str, stub: str) -> str:
    """The session of a page of the site, whose visitor has allowed notifications."""
    browser.call("Browser.grantPermissions", permissions=["notifications"], origin=site)
    session = browser.attach(browser.find_target("page"))
    for name in ("Page.enable", "Runtime.enable", "ServiceWorker.enable"):
        browser.call(name, session)
    browser.call("Page.addScriptToEvaluateOnNewDocument", session, source=stub)
    browser.call("Page.navigate", session, url=site + "/")
    browser.wait_for_event("Page.loadEventFired")
    return session


def registration_of(browser: Browser, site: str) -> str:
    """The id of the site's service worker, once it is there."""
    told = browser.wait_for_event(
        "ServiceWorker.workerRegistrationUpdated",
        lambda params: any(one["scopeURL"] == f"{site}/" for one in params["registrations"]),
    )
    return next(str(one["registrationId"]) for one in told["registrations"] if one["scopeURL"] == f"{site}/")


def test_a_campaign_is_shown_and_its_click_counted(
    sending: Caller, sandbox: Sandbox, site: str, tmp_path: Path
) -> None:
    """Subscribe, log in, track; a campaign for who did that; it is shown as it was sent, and both reports arrive."""
    [made] = sandbox.control.post("/subscriptions", {})[1]["subscriptions"]
    with running_browser(tmp_path) as browser:
        page = open_page(browser, site, STUB % json.dumps(made))
        assert browser.evaluate(page, "tocsin.subscribe()") is True
        asked = browser.evaluate(page, "asked")
        key = sandbox.control.get("/credentials")[1]["vapid"]["public_key"]
        assert asked == {"userVisibleOnly": True, "applicationServerKey": key}
        browser.evaluate(page, 'tocsin.login("jane")')
        browser.evaluate(page, 'tocsin.track("Product viewed", {Price: 59.99})')

        day = int(time.strftime("%Y%m%d"))
        where = {"event_name": "Product viewed", "from": day - 1, "to": day + 1}
        content = {"title": "Espresso week", "body": "20 % off", "platform_specific": {"firefox": {"deep_link": site}}}
        campaign = sending.create(target_mode="webpush", content=content, where=where)
        assert sending.result(campaign)["sent"] == 1
        [message] = sandbox.messages("vapid")
        assert message["address"] == made["endpoint"]

        number, data = registration_of(browser, site), json.dumps(message["body"])
        browser.call("ServiceWorker.deliverPushMessage", page, origin=site, registrationId=number, data=data)
        wait_for(lambda: sending.result(campaign)["viewed"] == 1)
        assert browser.evaluate(page, SHOWN) == [["Espresso week", "20 % off"]]
        assert sending.result(campaign)["clicked"] == 0
        worker = browser.attach(browser.find_target("service_worker"))
        assert browser.evaluate(worker, CLICK) == 0
        wait_for(lambda: sending.result(campaign)["clicked"] == 1)


def test_somebody_else_at_the_browser(sending: Caller, sandbox: Sandbox, site: str, tmp_path: Path) -> None:
    """Who logs in after somebody else gets a device of their own, and the subscription moves to it."""
    [made] = sandbox.control.post("/subscriptions", {})[1]["subscriptions"]
    with running_browser(tmp_path) as browser:
        page = open_page(browser, site, STUB % json.dumps(made))
        assert browser.evaluate(page, "tocsin.subscribe()") is True
        browser.evaluate(page, 'tocsin.login("ann")')
        first = browser.evaluate(page, 'localStorage.getItem("tocsin-device")')
        browser.evaluate(page, 'tocsin.login("ann")')
        assert browser.evaluate(page, 'localStorage.getItem("tocsin-device")') == first
        browser.evaluate(page, 'tocsin.login("bob")')
        assert browser.evaluate(page, 'localStorage.getItem("tocsin-device")') != first
    body = {"to": {"Identity": ["ann", "bob"]}, "content": {"title": "t", "body": "b"}, "tag_group": "t"}
    assert sending.post("/1/send/webpush.json", body)[0] == 200
    wait_for(lambda: len(sandbox.messages("vapid")) == 1)

    def ask() -> bool:
        found = sending.get("/1/tag_groups.json")[1]["tag_groups"].get("t", {})
        return (found.get("sent"), found.get("suppressed")) == (1, 1)

    wait_for(ask)
