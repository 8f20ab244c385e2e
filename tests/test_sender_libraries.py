"""Other people's senders as they come from their registries, against the sandbox: what docs/sandbox.md says of them.

They are too heavy for the lock files: each language's are installed once into a folder of their own, which later runs
find again. Where that fails, or the language is not here, the tests are skipped and say what is missing.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import Sandbox
from support.libraries import INSTALL_SECONDS, NPM, install, install_npm, run

HERE = Path(__file__).parent / "sender_libraries"
PIP = "bin/python -m pip install --quiet --disable-pip-version-check --retries 1 --only-binary :all:"
SEND_SECONDS = 60

pytestmark = pytest.mark.timeout(2 * INSTALL_SECONDS)


@pytest.fixture(scope="module")
def python_libraries() -> Path:
    """An environment with firebase-admin and aioapns."""
    return install(
        HERE / "requirements.txt",
        "firebase-admin and aioapns (PyPI)",
        (sys.executable, "-m", "venv", "."),
        (*shlex.split(PIP), "--requirement", "requirements.txt"),
    )


@pytest.fixture(scope="module")
def node_libraries() -> Path:
    """A folder whose node_modules have firebase-admin and @parse/node-apn."""
    return install_npm(HERE / "package.json", "firebase-admin and @parse/node-apn (npm)")


@pytest.fixture
def keys(sandbox: Sandbox, tmp_path: Path) -> Path:
    """The files that somebody who follows docs/sandbox.md has."""
    for name in ("ca.pem", "service_account.json", "apns.p8"):
        status, content = sandbox.control.get(f"/{name}")
        assert status == 200
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else msgspec.json.encode(content))
    (tmp_path / "apns.json").write_bytes(msgspec.json.encode(sandbox.control.get("/credentials")[1]["apns"]))
    return tmp_path


def send(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """What a sender says came back."""
    printed, problem = run(command, folder, environment, SEND_SECONDS)
    assert problem == ""
    answer: dict[str, Any] = msgspec.json.decode(printed.splitlines()[-1])
    return answer


def test_senders_of_python(python_libraries: Path, sandbox: Sandbox, keys: Path) -> None:
    """firebase-admin finds the sandbox by HTTPS_PROXY with its own scopes and host; aioapns speaks HTTP/2 without
    ALPN, and finds the calls of scripted errors by their apns-id."""
    sandbox.fault(vendor="apns", kind="status", status=503, count=1)
    proxy = {"HTTPS_PROXY": f"http://127.0.0.1:{sandbox.port}", "REQUESTS_CA_BUNDLE": str(keys / "ca.pem")}
    answer = send((str(python_libraries / "bin/python"), str(HERE / "send.py"), str(keys)), keys, proxy)
    fcm, apns = answer["fcm"], answer["apns"]
    assert fcm.pop("sent").startswith("projects/tocsin-sandbox/messages/0:")
    assert fcm.pop("trial") == "projects/tocsin-sandbox/messages/fake_message_id"
    assert fcm == {"batch": 3, "gone": "UnregisteredError", "foreign": "SenderIdMismatchError"}
    assert [asked == answered for asked, answered, *_ in apns] == [True] * 3
    results = [["503", "ServiceUnavailable"], ["200", None], ["410", "Unregistered"]]
    assert [result for *_, result in ([one[0], one[2:]] for one in apns)] == results
    assert {one["address"] for one in sandbox.messages("fcm")} >= {"python-whole:device", "python-batch-2:device"}
    assert [one["address"] for one in sandbox.messages("apns")] == ["a2" * 32]


def test_senders_of_node(node_libraries: Path, sandbox: Sandbox, keys: Path) -> None:
    """firebase-admin by an agent, @parse/node-apn by its proxy."""
    shutil.copy(HERE / "send.mjs", node_libraries)  # modules are looked for from where the program lies
    proxy = {"HTTPS_PROXY": f"http://127.0.0.1:{sandbox.port}", "NODE_EXTRA_CA_CERTS": str(keys / "ca.pem")}
    answer = send(("node", "send.mjs", str(sandbox.port), str(keys)), node_libraries, proxy)
    fcm = answer["fcm"]
    assert fcm.pop("sent").startswith("projects/tocsin-sandbox/messages/0:")
    gone = "messaging/registration-token-not-registered"
    assert fcm == {"batch": ["sent", gone], "foreign": "messaging/mismatched-credential"}
    assert answer["apns"] == {"sent": 2, "failed": [[410, "Unregistered"]]}
    assert {one["address"] for one in sandbox.messages("fcm")} == {"node-whole:device", "node-batch:device"}
    assert [one["address"] for one in sandbox.messages("apns")] == ["b0" * 32, "b1" * 32]


@pytest.fixture
def subscribed(sandbox: Sandbox, keys: Path) -> Path:
    """The same files, with the key of web pushes and three browsers, of which one is gone."""
    _, content = sandbox.control.get("/vapid.pem")
    (keys / "vapid.pem").write_bytes(content)
    asked = ({"browser": "firefox"}, {"browser": "safari"}, {"marker": "expired"})
    made = [sandbox.control.post("/subscriptions", one)[1]["subscriptions"][0] for one in asked]
    (keys / "subscriptions.json").write_bytes(msgspec.json.encode(made))
    return keys


def check_browsers(sandbox: Sandbox, came: list[int], text: str) -> None:
    """Two browsers have read the text, the third is gone."""
    assert came == [201, 201, 410]
    found = sandbox.messages("vapid")
    assert [(one["body"], one["headers"]["ttl"], one["headers"]["topic"]) for one in found] == [
        (text, "60", "orders")
    ] * 2
    assert [one["address"].split("/")[2] for one in found] == [
        "updates.push.services.mozilla.com",
        "web.push.apple.com",
    ]


def test_web_push_of_python(sandbox: Sandbox, subscribed: Path) -> None:
    """pywebpush finds the sandbox by HTTPS_PROXY, at Mozilla's name and at Apple's."""
    libraries = install(
        HERE / "web_push" / "requirements.txt",
        "pywebpush (PyPI)",
        (sys.executable, "-m", "venv", "."),
        (*shlex.split(PIP), "--no-binary", "http-ece", "--requirement", "requirements.txt"),  # it has no wheel
    )
    proxy = {"HTTPS_PROXY": f"http://127.0.0.1:{sandbox.port}", "REQUESTS_CA_BUNDLE": str(subscribed / "ca.pem")}
    answer = send(
        (str(libraries / "bin/python"), str(HERE / "web_push" / "send_web_push.py"), str(subscribed)), subscribed, proxy
    )
    check_browsers(sandbox, answer["came"], "Grüße aus Python")


def test_web_push_of_node(sandbox: Sandbox, subscribed: Path) -> None:
    """web-push, by the proxy it is told."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"NOT TRIED: web-push (npm): there is no {program}")
    libraries = install(HERE / "web_push" / "package.json", "web-push (npm)", NPM)
    shutil.copy(HERE / "web_push" / "send_web_push.mjs", libraries)
    proxy = {"HTTPS_PROXY": f"http://127.0.0.1:{sandbox.port}", "NODE_EXTRA_CA_CERTS": str(subscribed / "ca.pem")}
    answer = send(("node", "send_web_push.mjs", str(subscribed)), libraries, proxy)
    check_browsers(sandbox, answer["came"], "Grüße aus Node")
