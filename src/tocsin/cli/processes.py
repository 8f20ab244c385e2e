"""`tocsin serve`, `tocsin sandbox` and `tocsin demo`: the commands that keep running."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from tocsin.cli.options import data_option


@click.command()
@data_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=8100, show_default=True)
@click.option("--role", type=click.Choice(["all", "api", "worker", "scheduler"]), default="all", show_default=True)
@click.option("--sandbox", "with_sandbox", is_flag=True, help="Run a sandbox too, on TOCSIN_SANDBOX_PORT.")
def serve(data: Path, host: str, port: int, role: str, with_sandbox: bool) -> None:
    """Run the API, the dashboard, the scheduler and the workers.

    Prints one line when ready. SIGTERM finishes what is with the vendors and exits 0.

    Example: tocsin serve --data ./data --port 8100
    """
    from tocsin import app
    from tocsin.api.server_loop import ServerLoop

    warn_of_clear_text(host)
    beside = run_sandbox(data) if with_sandbox else contextlib.nullcontext()
    with beside, asyncio.Runner(loop_factory=ServerLoop) as runner:
        runner.run(app.serve(data, host, port, role))  # type: ignore[arg-type]  # click.Choice checked it


@contextlib.contextmanager
def run_sandbox(data: Path) -> Iterator[None]:
    """Run a sandbox as a process beside the server, with its keys in the data folder."""
    from tocsin.settings import read_settings

    port = str(read_settings(os.environ, data).sandbox_port)
    beside = subprocess.Popen(  # noqa: S603 - ourselves
        [sys.executable, "-m", "tocsin", "sandbox", "--data", str(data / "sandbox"), "--port", port],
        stdout=subprocess.DEVNULL,  # stdout has the server's one line
    )
    try:
        yield
    finally:
        beside.terminate()
        beside.wait()


def warn_of_clear_text(host: str) -> None:
    """Say once that passcodes would travel in the clear, when other machines can reach the server."""
    import structlog

    from tocsin.settings import LOOPBACK

    if host not in LOOPBACK:
        structlog.get_logger().warning(
            "other machines can reach this server, and it speaks no TLS: passcodes travel in the clear. "
            "Put a TLS proxy in front, and let only that reach it",
            host=host,
        )


@click.command()
@click.option("--data", type=click.Path(path_type=Path), help="Keep its keys here, so that a restart has the same.")
@click.option(
    "--port", type=click.IntRange(0, 65529), default=8200, show_default=True, help="The vendors get the next 6."
)
def sandbox(data: Path | None, port: int) -> None:
    """Run FCM, APNs, WNS, a mail server, a receiver of webhooks and a push service of browsers on loopback, strict like
    the real ones.

    Example: tocsin sandbox --port 8200
    """
    from tocsin.sandbox import serve as serve_sandbox

    asyncio.run(serve_sandbox(data, port))


@click.command()
@click.option("--once", is_flag=True, help="End with exit code 0 when the results are in.")
@click.option("--data", type=click.Path(path_type=Path), help="Keep the folder; without it a new one that goes away.")
@click.option("--port", type=click.IntRange(1, 65535), help="Of the server; without it 8100 or the next free one.")
@click.option("--sandbox-port", type=click.IntRange(1, 65529), help="Without it 8200 or the next free one.")
@click.option(
    "--users", type=click.IntRange(100, 200_000), default=3000, show_default=True, help="Sample users to make."
)
def demo(once: bool, data: Path | None, port: int | None, sandbox_port: int | None, users: int) -> None:
    """Show everything on this machine: users, an audience, campaigns, sends, results.

    Example: tocsin demo --once
    """
    from tocsin.demo import show

    show(once=once, data=data, port=port, sandbox_port=sandbox_port, users=users)
