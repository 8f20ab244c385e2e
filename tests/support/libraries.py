"""Other people's libraries, installed from their registries once into a folder that later runs find again."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from support.workspace import LASTING

NPM = shlex.split(
    "npm install --loglevel error --ignore-scripts --no-audit --no-fund --no-package-lock --omit=optional"
    " --fetch-retries 1 --fetch-retry-mintimeout 1000"
)
INSTALL_SECONDS = 240


def install(recipe: Path, missing: str, *commands: Sequence[str]) -> Path:
    """The folder in which `commands` installed what a file asks for, by this run or an earlier one. Skips, and names
    what is missing, when a command fails."""
    key = hashlib.sha256(recipe.read_bytes() + sys.version.encode()).hexdigest()[:16]
    home = Path(os.environ[LASTING]) / f"tocsin-sender-libraries-{os.getuid()}"
    home.mkdir(mode=0o700, exist_ok=True)
    assert home.stat().st_uid == os.getuid()
    folder = home / f"{recipe.stem}-{key}"
    if folder.exists():
        return folder
    making = Path(tempfile.mkdtemp(dir=home))
    shutil.copy(recipe, making)
    for command in commands:
        problem = run(command, making, {}, INSTALL_SECONDS)[1]
        if problem:
            shutil.rmtree(making)
            pytest.skip(f"NOT TRIED: {missing} could not be installed: {problem[-300:]}")
    try:
        making.rename(folder)
    except OSError:  # another run was quicker
        shutil.rmtree(making)
    return folder


def run(command: Sequence[str], folder: Path, environment: Mapping[str, str], seconds: float) -> tuple[str, str]:
    """What a program printed, and what is wrong with its end, "" when nothing is. It gets no more of our environment
    than installers and interpreters need."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TOCSIN_", "PYTHON", "COVERAGE"))}
    try:
        ended = subprocess.run(
            command,
            cwd=folder,
            env=kept | dict(environment),
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", str(error)
    return ended.stdout, ended.stderr.strip() or f"exit {ended.returncode}" if ended.returncode else ""


def install_npm(recipe: Path, missing: str) -> Path:
    """The folder whose node_modules have what a package.json asks for. Skips, and names what is missing."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"NOT TRIED: {missing}: there is no {program}")
    return install(recipe, missing, NPM)
