"""What is installed and deployed: the wheel in an environment with the runtime libraries alone, and the files for
containers and systemd, as far as a machine without their daemons can try them."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from conftest import Caller, Server, free_ports

from tocsin import metrics
from tocsin.cli import tocsin
from tocsin.settings import Settings, environment_name

ROOT = Path(__file__).parent.parent
ALERTS, BOARD = ROOT / "packaging/prometheus/alerts.yaml", ROOT / "packaging/grafana/tocsin.json"
COMPOSE = {
    "compose.yaml": ["tocsin"],
    "packaging/compose.roles.yaml": ["migrate", "api-1", "api-2", "worker", "scheduler"],
}
UNITS = sorted(ROOT.glob("packaging/systemd/*.service"))
DEPLOYED = [ROOT / "Dockerfile", *(ROOT / name for name in COMPOSE), *UNITS]


def run(*command: str | Path, folder: Path | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built offline with the build backend that is installed here."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel")
    run(*pip, "--no-deps", "--no-build-isolation", "--no-index", "-w", source / "out", source)
    (built,) = (source / "out").iterdir()
    return built


def test_a_wheel_has_everything(wheel: Path) -> None:
    """Every file below src/tocsin is in it, and nothing else but its metadata."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    source = ROOT / "src"
    found = {path.relative_to(source).as_posix() for path in source.glob("tocsin/**/*") if path.is_file()}
    assert names == {name for name in found if "__pycache__" not in name}
    print(f"the wheel has {wheel.stat().st_size / 1e6:.2f} MB")


def runtime() -> Iterator[Distribution]:
    """The libraries of requirements.lock that this machine needs."""
    names = re.findall(r"^([a-z0-9_.-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    for name in sorted(set(names)):
        with contextlib.suppress(PackageNotFoundError):  # of another system
            yield distribution(name)


def test_installed_with_the_runtime_libraries_alone(wheel: Path, tmp_path: Path) -> None:
    """pip finds every dependency among them, and the server serves health and the dashboard's files."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    (site,) = tmp_path.glob("venv/lib/*/site-packages")
    size = 0
    for library in runtime():
        files = [path for path in library.files or () if path.parts[0] != ".."]
        size += sum(path.size or 0 for path in files)
        for top in {path.parts[0] for path in files} - {"__pycache__"}:
            with contextlib.suppress(FileExistsError):  # several may share a namespace
                (site / top).symlink_to(str(library.locate_file(top)))
    python = tmp_path / "venv" / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-index", wheel, folder=tmp_path)
    print(f"the runtime libraries have {size / 1e6:.0f} MB")

    command, data, port = tmp_path / "venv" / "bin" / "tocsin", tmp_path / "data", free_ports(1)
    account = json.loads(run(command, "account", "create", "Acme", "--data", data, folder=tmp_path))
    assert account.keys() == {"account_id", "passcode"}
    serving = subprocess.Popen(
        [command, "serve", "--data", data, "--port", str(port)], cwd=tmp_path, env={}, stdout=subprocess.PIPE
    )
    try:
        with serving.stdout as output:  # type: ignore[union-attr]  # it is a pipe
            assert b"ready" in output.readline()
        caller = Caller(port)
        assert caller.get("/healthz?verbose")[1]["version"] == "0.1.0"
        assert caller.get("/dashboard/static/tocsin.css")[0] == 200
        serving.terminate()
        assert serving.wait(60) == 0
    finally:
        serving.kill()


def test_files_name_no_host_of_ours() -> None:
    """No registry, no path of a person's machine, no user root; images are named without a host."""
    for path in DEPLOYED:
        text = path.read_text()
        assert not re.search(
            r"/root|/home/|/tmp/|/work|index-url|proxy", text.replace("TLS proxy", "").replace("A proxy", "")
        ), path
        for image in re.findall(r"(?:^FROM|image:) ([^\s]+)", text, re.MULTILINE):
            assert not re.search(r"[.:]", image.split("/")[0].split(":")[0]), image


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1].strip()) for line in text.splitlines() if line.strip()]


def parse(arguments: list[str]) -> list[str]:
    """The path of a command whose arguments click takes; it is not run."""
    command: click.Command = tocsin
    path = []
    while isinstance(command, click.Group):
        name, *arguments = arguments
        command = command.commands[name]
        path.append(name)
    command.make_context(" ".join(path), list(arguments))
    return path


def test_the_image(server: Server) -> None:
    """What is copied is there and let through, the image runs `serve` as somebody who is not root, and its health check
    passes on a server that is well, and fails where none is."""
    found = instructions()
    let_through = set(re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    for name, rest in found:
        if name == "COPY" and not rest.startswith("--from"):
            *sources, _ = rest.split()
            assert all((ROOT / one).exists() for one in sources)
            assert set(sources) <= let_through
    last = dict(found)
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", last["USER"])
    assert parse(json.loads(last["ENTRYPOINT"])[1:] + json.loads(last["CMD"])) == ["serve"]
    check = json.loads(last["HEALTHCHECK"].split(" CMD ", 1)[1])
    for port, code in ((server.port, 0), (free_ports(1), 1)):
        script = check[2].replace("8100", str(port))
        done = subprocess.run([sys.executable, "-c", script], check=False, timeout=30, capture_output=True)
        assert done.returncode == code


@pytest.mark.parametrize("name", COMPOSE)
def test_compose(name: str) -> None:
    """Every service of ours runs a command there is, with settings there are, and can write to its volumes only."""
    composed: dict[str, Any] = yaml.safe_load((ROOT / name).read_text())
    known = {environment_name(field) for field in Settings.__struct_fields__}
    ours = {key: one for key, one in composed["services"].items() if one["image"] == "tocsin"}
    assert list(ours) == COMPOSE[name]
    for one in ours.values():
        assert ((ROOT / name).parent / one["build"] / "Dockerfile").exists()
        parse(one.get("command", ["serve", "--data", "/data"]))
        assert set(one["environment"]) <= known
        assert one["read_only"] is True
        assert one["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in one["security_opt"]
        places = [*one.get("volumes", []), *one["tmpfs"]]
        assert any("/data" in place for place in places)
        assert {place.split(":")[0] for place in one.get("volumes", [])} <= set(composed["volumes"])
        assert set(one.get("depends_on", {})) <= set(composed["services"])
        assert all(port.startswith("127.0.0.1:") for port in one.get("ports", []))
    assert {one.get("healthcheck", {}).get("disable", False) for key, one in ours.items() if "api" in key} <= {False}


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_units(unit: Path, tmp_path: Path) -> None:
    """systemd takes the unit, and calls it well protected; what it starts is a command there is, as somebody who is not
    root."""
    text = unit.read_text()
    (start,) = re.findall(r"^ExecStart=(.+)$", text, re.MULTILINE)
    binary, *arguments = start.split()
    assert parse([one.replace("%i", "worker") for one in arguments]) == ["serve"]
    assert "\nUser=tocsin\n" in text
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("NOT VERIFIED: there is no systemd-analyze here")
    copy = tmp_path / unit.name.replace("@", "@worker")
    copy.write_text(text.replace(binary, sys.executable).replace("%i", "worker"))
    done = subprocess.run([analyze, "verify", copy], capture_output=True, text=True, check=False, timeout=60)
    complaints = [line for line in done.stderr.splitlines() if unit.stem.split("@")[0] in line]
    assert complaints == []
    rated = subprocess.run(
        [analyze, "security", "--offline=true", "--threshold=30", copy], capture_output=True, text=True, check=False
    )
    assert rated.returncode == 0, rated.stdout[-500:] + rated.stderr


def list_series() -> set[str]:
    """The names of everything that `/metrics` may show."""
    found = set[str]()
    for metric in metrics.REGISTRY.collect():
        endings = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(metric.type, [""])
        found |= {metric.name + ending for ending in endings}
    return found


def test_alerts_and_the_board_ask_for_what_there_is() -> None:
    """Every series in them is one of `/metrics`, and every metric is on the board or has an alert."""
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    assert all(rule["annotations"]["summary"] and rule["annotations"]["action"] for rule in rules)
    panels = json.loads(BOARD.read_text())["panels"]
    asked = [rule["expr"] for rule in rules] + [target["expr"] for panel in panels for target in panel["targets"]]
    named = set(re.findall(r"tocsin_\w+", " ".join(asked)))
    assert named <= list_series()
    shown = {re.sub("_(total|bucket)$", "", name) for name in named}
    assert {metric.name for metric in metrics.REGISTRY.collect()} == shown


def test_the_alerts_are_rules_of_prometheus() -> None:
    """Read by Prometheus' own tool, where it is installed (Debian: `apt-get install prometheus`)."""
    if (tool := shutil.which("promtool")) is None:
        pytest.skip("no promtool here: the alert rules are not checked by Prometheus itself")
    run(tool, "check", "rules", ALERTS)
