"""A headless Chromium that a test drives by its own protocol, over a pipe: tabs, each in the storage of one browser."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--ignore-certificate-errors", "--disable-background-networking", "--disable-component-update"),
    "--remote-debugging-pipe",
)


class Chromium:
    """One process; `browse` is a browser of its own as far as cookies and storage go."""

    def __init__(self, folder: Path):
        program = next((found for name in NAMES if (found := shutil.which(name))), None)
        if program is None:
            pytest.skip(f"NOT TRIED: the Web SDK in a browser: there is none of {', '.join(NAMES)}")
        there, self._write = os.pipe()
        self._read, back = os.pipe()
        # The protocol speaks over file descriptors 3 and 4 of the browser.
        script = f'exec "$@" 3<&{there} 4>&{back}'
        self._process = subprocess.Popen(
            ["/bin/bash", "-c", script, "sh", program, *FLAGS, f"--user-data-dir={folder}", "about:blank"],
            pass_fds=(there, back),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"HOME": str(folder)},
        )
        os.close(there)
        os.close(back)
        self._number = 0
        self._rest = b""

    def browse(self) -> str:
        """A new browser; what `open` wants."""
        found: str = self.ask("Target.createBrowserContext")["browserContextId"]
        return found

    def open(self, browser: str, url: str) -> Page:
        """A new tab on a page."""
        target = self.ask("Target.createTarget", url="about:blank", browserContextId=browser)["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        return Page(self, session, url)

    def ask(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """What a command of the protocol returns. Events in between are passed over."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._read, 1 << 16)
            assert part, "the browser has ended"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        os.close(self._write)
        os.close(self._read)


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
        asked = {"expression": script, "awaitPromise": True, "returnByValue": True}
        answer = self.ask("Runtime.evaluate", **asked)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")
