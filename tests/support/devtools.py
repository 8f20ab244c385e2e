"""A Chromium without a window, driven by its DevTools Protocol over a pipe."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 30.0
FLAGS = ("--headless=new", "--no-sandbox", "--no-first-run", "--disable-gpu", "--disable-dev-shm-usage")


class Browser:
    """A running browser. Its answers and events come over one pipe, each followed by a NUL."""

    def __init__(self, process: subprocess.Popen[bytes], to: int, back: int):
        self._process, self._to, self._back = process, to, back
        self._buffer = b""
        self._last = 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str = "", **params: Any) -> Any:
        """The answer to a command, for the browser or for one of its targets. Raises AssertionError for an error."""
        self._last += 1
        sent = {"id": self._last, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self._to, json.dumps(sent).encode() + b"\0")
        deadline = time.monotonic() + PATIENCE
        while (came := self._read(deadline)).get("id") != self._last:
            self.events.append(came)
        assert "error" not in came, (method, came["error"])
        return came["result"]

    def wait_for_event(self, name: str, fits: Callable[[dict[str, Any]], Any] = lambda _: True) -> dict[str, Any]:
        """The first event of a name, earlier ones included, whose parameters fit."""
        deadline, looked = time.monotonic() + PATIENCE, 0
        while True:
            for event in self.events[looked:]:
                if event["method"] == name and fits(event["params"]):
                    found: dict[str, Any] = event["params"]
                    return found
            looked = len(self.events)
            self.events.append(self._read(deadline))

    def evaluate(self, session: str, script: str) -> Any:
        """What a script in a target says, once it is done."""
        given = {"expression": script, "awaitPromise": True, "returnByValue": True, "userGesture": True}
        came = self.call("Runtime.evaluate", session, **given)
        assert "exceptionDetails" not in came, came["exceptionDetails"]
        return came["result"].get("value")

    def attach(self, target: str) -> str:
        """The session of a target."""
        return str(self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])

    def find_target(self, kind: str) -> str:
        """The id of the only target of a kind."""
        [found] = [one for one in self.call("Target.getTargets")["targetInfos"] if one["type"] == kind]
        return str(found["targetId"])

    def _read(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._back], [], [], max(deadline - time.monotonic(), 0))
            piece = os.read(self._back, 1 << 16) if ready else b""
            assert piece, f"the browser says nothing; exit code {self._process.poll()}"
            self._buffer += piece
        raw, _, self._buffer = self._buffer.partition(b"\0")
        came: dict[str, Any] = json.loads(raw)
        return came


@contextlib.contextmanager
def running_browser(folder: Path, *more: str) -> Iterator[Browser]:
    """A browser of its own, with an empty profile in a folder. more: flags. Skips where there is none."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("NOT TRIED: there is no chromium")
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    # The browser reads 3 and writes 4; the pipes' own numbers may be these, so they go out of the way first.
    pair = [fcntl.fcntl(one, fcntl.F_DUPFD, 20) for one in (theirs_in, theirs_out)]

    def give() -> None:
        for number, own in zip((3, 4), pair, strict=True):
            os.dup2(own, number)

    arguments = [program, *FLAGS, *more, f"--user-data-dir={folder}", "--remote-debugging-pipe", "about:blank"]
    process = subprocess.Popen(
        arguments,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(3, 4, *pair),
        preexec_fn=give,  # noqa: PLW1509 - two system calls, which take no lock
    )
    for one in (theirs_in, theirs_out, *pair):
        os.close(one)
    try:
        yield Browser(process, ours_out, ours_in)
    finally:
        process.kill()
        process.wait(PATIENCE)
        os.close(ours_out)
        os.close(ours_in)
