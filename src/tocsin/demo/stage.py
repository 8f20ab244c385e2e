"""The demo's stage: a sandbox and a server as separate processes, their APIs, and the console."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.progress import track

from tocsin.errors import Misconfigured

T = TypeVar("T")
RESULT_SECONDS = 120
CREATE_PAUSE = 1.05  # targets/create.json takes one request a second


class Stage:
    """A running server with one account, whose providers are a running sandbox."""

    def __init__(self, folder: Path, port: int, sandbox_port: int, account: Mapping[str, str], server_pid: int):
        self.folder = folder
        self.server_pid = server_pid
        self.url = f"http://127.0.0.1:{port}"
        self.account_id = account["account_id"]
        self._passcode = account["passcode"]
        self._sandbox_url = f"http://127.0.0.1:{sandbox_port}"
        self._console = Console(highlight=False, soft_wrap=True)
        self._steps = 0
        self._checks = 0
        self._created = 0.0

    @classmethod
    @contextmanager
    def open(cls, folder: Path, port: int, sandbox_port: int, zone: str) -> Iterator[Stage]:
        """Start both processes and make an account in the time zone `zone`; stop server and sandbox at the end."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        console = Console(highlight=False)
        with contextlib.ExitStack() as stack, (folder / "log").open("ab") as log:
            with console.status("Starting the sandbox vendors and the server …"):
                stack.enter_context(running(log, "sandbox", "--port", str(sandbox_port)))
                pid = stack.enter_context(running(log, "serve", "--data", str(folder), "--port", str(port)))
                account = _run("account", "create", "Demo", "--data", str(folder), "--timezone", zone)
                name = ("--account", account["account_id"], "--data", str(folder))
                _run("provider", "sandbox", *name, "--port", str(sandbox_port))
            stage = cls(folder, port, sandbox_port, account, pid)
            stage._say_begin()
            yield stage

    @property
    def wns_prefix(self) -> str:
        return str(self.sandbox("/credentials")["wns"]["channel_prefix"])

    def title(self, what: str, why: str) -> None:
        self._steps += 1
        self._console.print(f"\n[bold cyan]{self._steps}. {escape(what)}[/]\n   [dim]{escape(why)}[/]\n")

    def show_call(self, path: str, body: Any, more: str = "") -> None:
        """Print the curl that does the next step."""
        data = "" if body is None else f" -d '{json.dumps(body, ensure_ascii=False)}'"
        self._console.print(f"   [green]curl[/] $H {self.url}{path}[yellow]{escape(_short(data))}[/]")
        if more:
            self._console.print(f"   [dim]{escape(more)}[/]")

    def show_answer(self, answer: Any) -> None:
        text = json.dumps(answer, ensure_ascii=False, indent=None)
        self._console.print(f"   [bold]→[/] {escape(text)}\n")

    def check(self, holds: bool, sentence: str) -> None:
        """Print `sentence` when it holds, else raise Misconfigured."""
        if not holds:
            raise Misconfigured(f"The demo found that this does not hold: {sentence}.")
        self._checks += 1
        self._console.print(f"   [green]✓[/] {escape(sentence)}")

    def track(self, items: Iterable[T], what: str) -> Iterable[T]:
        return track(items, description=f"   {what}", console=self._console, transient=True)

    def call(self, path: str, body: Any) -> dict[str, Any]:
        """Send one request as the account and return the answer. Raise Misconfigured with any answer other than 200."""
        status, answer = self._request(path, body)
        if status != 200:
            raise Misconfigured(f"{path} answered {status}: {json.dumps(answer)}")
        return answer

    def create(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Call `targets/create.json`, which takes one request a second, after the wait that asks for."""
        time.sleep(max(0.0, self._created + CREATE_PAUSE - time.monotonic()))
        self._created = time.monotonic()
        return self.call("/1/targets/create.json", body)

    def command(self, *arguments: str) -> dict[str, Any]:
        """Print and run one tocsin command on the folder, and return the JSON of its last line."""
        self._console.print(f"   [green]tocsin[/] {escape(' '.join(arguments))} --data {escape(str(self.folder))}")
        answer = _run(*arguments, "--data", str(self.folder))
        self.show_answer(answer)
        return answer

    def wait_for_result(self, campaign: int) -> dict[str, int]:
        def query() -> dict[str, int] | None:
            status, answer = self._request("/1/targets/result.json", {"id": campaign})
            return answer["result"] if status == 200 else None

        return self._wait(query, "delivering")

    def wait_for_groups(self) -> dict[str, dict[str, int]]:
        """Return the tag groups, once every recipient in them has an outcome."""

        def query() -> dict[str, dict[str, int]] | None:
            groups: dict[str, dict[str, int]] = self._request("/1/tag_groups.json", None)[1]["tag_groups"]
            parts = ("sent", "unknown", "failed", "suppressed")
            done = all(0 < one["audience"] == sum(one[part] for part in parts) for one in groups.values())
            return groups if done else None

        return self._wait(query, "delivering")

    def sandbox(self, path: str) -> dict[str, Any]:
        with urlopen(self._sandbox_url + path, timeout=10) as reply:  # noqa: S310 - our own address
            answer: dict[str, Any] = msgspec.json.decode(reply.read())
            return answer

    def messages(self, vendor: str) -> Iterator[dict[str, Any]]:
        """Yield every message that a vendor of the sandbox accepted."""
        after = 0
        while page := self.sandbox(f"/messages?vendor={vendor}&limit=1000&after={after}")["messages"]:
            yield from page
            after = page[-1]["id"]

    def say_end(self, *, serving: bool) -> None:
        self._console.print(f"\n[bold green]All of it holds[/]: {self._checks} checks.")
        if serving:
            self._console.print(
                f"\n   dashboard   [bold]{self.url}/dashboard/[/]\n   user name   {self.account_id}\n"
                f"   password    {self._passcode}\n"
                f"   or a user   tocsin user create you@example.com --account {self.account_id} --data {self.folder}\n"
                f"   sandbox     {self._sandbox_url}/counts\n\n"
                "   [dim]Ctrl-C ends it[/]"
            )

    def serve_until_interrupted(self) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
        self._console.print("\n   stopping …")

    def _say_begin(self) -> None:
        self._console.print(
            f"\n[bold]Tocsin[/] on {self.url}, its vendors on {self._sandbox_url}, its data in {self.folder}\n\n"
            f"   [dim]for the calls below:[/]\n   H='-H X-CleverTap-Account-Id:{self.account_id} "
            f"-H X-CleverTap-Passcode:{self._passcode} -H Content-Type:application/json'"
        )

    def _request(self, path: str, body: Any) -> tuple[int, dict[str, Any]]:
        headers = {
            "X-CleverTap-Account-Id": self.account_id,
            "X-CleverTap-Passcode": self._passcode,
            "Content-Type": "application/json",
        }
        data = None if body is None else msgspec.json.encode(body)
        try:
            with urlopen(Request(self.url + path, data, headers), timeout=60) as reply:  # noqa: S310 - our own address
                return reply.status, msgspec.json.decode(reply.read())
        except HTTPError as error:
            return error.code, msgspec.json.decode(error.read())

    def _wait(self, query: Callable[[], T | None], what: str) -> T:
        deadline = time.monotonic() + RESULT_SECONDS
        with self._console.status(f"   {what} …"):
            while (answer := query()) is None:
                if time.monotonic() > deadline:
                    raise Misconfigured(f"Still {what} after {RESULT_SECONDS} s; see {self.folder / 'log'}.")
                time.sleep(0.1)
        return answer


@contextmanager
def running(log: Any, *arguments: str, environment: Mapping[str, str] | None = None) -> Iterator[int]:
    """Run a tocsin command while the context lasts and give its process id once it has printed its line «ready».

    It has a session of its own, so that Ctrl-C reaches only this process. Raise Misconfigured when it ends before.
    """
    process = subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-m", "tocsin", *arguments],
        stdout=subprocess.PIPE,
        stderr=log,
        start_new_session=True,
        env=os.environ | dict(environment or {}),
    )
    try:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise Misconfigured(f"`tocsin {' '.join(arguments)}` did not start; see {log.name}.")
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _run(*arguments: str) -> dict[str, Any]:
    done = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "tocsin", *arguments], stdout=subprocess.PIPE, check=False
    )
    if done.returncode:
        raise Misconfigured(f"`tocsin {' '.join(arguments)}` failed.")
    answer: dict[str, Any] = msgspec.json.decode(done.stdout.strip().splitlines()[-1])
    return answer


def _short(text: str, limit: int = 900) -> str:
    return text if len(text) <= limit else text[:limit] + " …'"
