"""Clients that other people's generators make of the OpenAPI document, against a server.

The generators are installed once into folders of their own, see `support/libraries.py`; where that fails the tests are
skipped and name what is missing.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from conftest import Caller
from support.libraries import INSTALL_SECONDS, install, install_npm, run

from tocsin.api.openapi.document import make_document
from tocsin.app import ENDPOINTS

HERE = Path(__file__).parent / "api_clients"
PIP = "bin/python -m pip install --quiet --disable-pip-version-check --retries 1 --only-binary :all:"
SECONDS = 120
TOLD = {
    "processed": 2,
    "queued": "Added to queue for processing",
    "estimates": {"android": 1},
    "sent": 1,
    "code": 400,
}

pytestmark = pytest.mark.timeout(2 * INSTALL_SECONDS)


@pytest.fixture
def document(tmp_path: Path) -> Path:
    """The document as a file."""
    path = tmp_path / "openapi.json"
    path.write_bytes(msgspec.json.encode(make_document(ENDPOINTS)))
    return path


def do(command: Sequence[str], folder: Path, **environment: str) -> str:
    """What a program printed; it must end well."""
    printed, problem = run(command, folder, environment, SECONDS)
    assert problem == "", (printed[-2000:], problem[-2000:])
    return printed


def arguments(caller: Caller) -> list[str]:
    return [f"http://127.0.0.1:{caller.port}", caller.account_id, caller.headers["X-CleverTap-Passcode"]]


def test_a_client_of_python(sending: Caller, document: Path, tmp_path: Path) -> None:
    """The document is valid OpenAPI 3.1, openapi-python-client takes all of it without a warning, and its client makes
    a campaign and reads the result."""
    libraries = install(
        HERE / "requirements.txt",
        "openapi-python-client and openapi-spec-validator (PyPI)",
        (sys.executable, "-m", "venv", "."),
        (*shlex.split(PIP), "--requirement", "requirements.txt"),
    )
    python = str(libraries / "bin/python")
    assert "OK" in do((python, "-m", "openapi_spec_validator", str(document)), tmp_path)
    (tmp_path / "config.yml").write_text("literal_enums: true\npost_hooks: []\n")
    options = ("--path", str(document), "--config", "config.yml", "--output-path", "client", "--fail-on-warning")
    do((python, "-m", "openapi_python_client", "generate", *options), tmp_path)
    command = (python, str(HERE / "round_trip.py"), *arguments(sending))
    assert msgspec.json.decode(do(command, tmp_path, PYTHONPATH=str(tmp_path / "client"))) == TOLD


def test_a_client_of_typescript(sending: Caller, document: Path, tmp_path: Path) -> None:
    """openapi-typescript makes types of the document, a program that uses them passes the compiler, and makes a
    campaign and reads the result by openapi-fetch."""
    libraries = install_npm(HERE / "package.json", "openapi-typescript, openapi-fetch and typescript (npm)")
    for name in ("package.json", "round_trip.ts"):
        shutil.copy(HERE / name, tmp_path)
    (tmp_path / "node_modules").symlink_to(libraries / "node_modules")
    tools = tmp_path / "node_modules" / ".bin"
    do((str(tools / "openapi-typescript"), str(document), "--output", "api.d.ts"), tmp_path)
    options = "--strict --noEmitOnError --target es2022 --module nodenext --lib es2022,dom,dom.iterable"
    do((str(tools / "tsc"), *shlex.split(options), "round_trip.ts"), tmp_path)
    assert msgspec.json.decode(do(("node", "round_trip.js", *arguments(sending)), tmp_path)) == TOLD
