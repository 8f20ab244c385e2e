"""Tabs of a headless Chromium, each in the storage of one browser."""

from __future__ import annotations

from typing import Any

from support.devtools import Browser


class Chromium:
    """A running browser; `browse` is a browser of its own as far as cookies and storage go."""

    def __init__(self, running: Browser):
        self._running = running

    def browse(self) -> str:
        """A new browser; what `open` wants."""
        found: str = self.ask("Target.createBrowserContext")["browserContextId"]
        return found

    def open(self, browser: str, url: str) -> Page:
        """A new tab on a page."""
        target = self.ask("Target.createTarget", url="about:blank", browserContextId=browser)["targetId"]
        return Page(self, self._running.attach(target), url)

    def ask(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """What a command of the protocol returns."""
        found: dict[str, Any] = self._running.call(method, session, **parameters)
        return found

    def evaluate(self, session: str, script: str) -> Any:
        """What a script of a tab says, once it is done."""
        return self._running.evaluate(session, script)


class Page:
    """One tab."""

    def __init__(self, chromium: Chromium, session: str, url: str):
        self._chromium, self._session = chromium, session
        self.ask("Page.enable")
        self.go(url)

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._chromium.ask(method, self._session, **parameters)

    def go(self, url: str) -> None:
        """Loads a page, and waits until its scripts have run."""
        self.ask("Page.navigate", url=url)
        loaded = "new Promise(done => document.readyState === 'complete' ? done() : addEventListener('load', done))"
        self.run(f"{loaded}.then(() => location.href)")

    def run(self, script: str) -> Any:
        """The value of an expression; a promise is waited for."""
        return self._chromium.evaluate(self._session, script)
