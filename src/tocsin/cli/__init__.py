"""The commands. Errors are one sentence on stderr: exit code 2 for usage, 1 for everything else."""

from __future__ import annotations

import asyncio
import csv
import logging
import os
import sys
from pathlib import Path

import click
import msgspec
from msgspec import Meta
from pyarrow.lib import ArrowException
from sqlalchemy.exc import SQLAlchemyError

from tocsin.cli.accounts import account
from tocsin.cli.bench import bench
from tocsin.cli.bounce import bounce
from tocsin.cli.explain import explain
from tocsin.cli.file_import import import_records
from tocsin.cli.maintenance import doctor, repair
from tocsin.cli.options import data_option
from tocsin.cli.policies import policy
from tocsin.cli.providers import provider
from tocsin.errors import Misconfigured, Problem
from tocsin.log import configure_log
from tocsin.settings import PREFIX, Settings, read_settings


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="tocsin")
def tocsin() -> None:
    """Notification campaigns a company runs itself, over CleverTap's API.

    Example: tocsin demo
    """


@tocsin.command()
@data_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=8100, show_default=True)
@click.option("--role", type=click.Choice(["all", "api", "worker", "scheduler"]), default="all", show_default=True)
def serve(data: Path, host: str, port: int, role: str) -> None:
    """Run the API, the dashboard, the scheduler and the workers.

    Prints one line when ready. SIGTERM finishes what is with the vendors and exits 0.

    Example: tocsin serve --data ./data --port 8100
    """
    from tocsin import app

    asyncio.run(app.serve(data, host, port, role))  # type: ignore[arg-type]  # click.Choice checked it


@tocsin.command()
@click.option("--data", type=click.Path(path_type=Path), help="Keep its keys here, so that a restart has the same.")
@click.option(
    "--port", type=click.IntRange(0, 65530), default=8200, show_default=True, help="The vendors get the next 5."
)
def sandbox(data: Path | None, port: int) -> None:
    """Run FCM, APNs, WNS, a mail server and a receiver of webhooks on loopback, strict like the real ones.

    Example: tocsin sandbox --port 8200
    """
    from tocsin.sandbox import serve as serve_sandbox

    asyncio.run(serve_sandbox(data, port))


@tocsin.command()
def config() -> None:
    """List every setting: its name in the environment, its value now, and what it is for.

    Example: TOCSIN_WINDOW=500 tocsin config
    """
    read_settings(os.environ, Path())
    for field in msgspec.structs.fields(Settings):
        name = PREFIX + field.name.upper()
        value = os.environ.get(name, field.default)
        meta = next((one for one in getattr(field.type, "__metadata__", ()) if isinstance(one, Meta)), Meta())
        click.echo(f"{name}={value}\n    {meta.description}")


@tocsin.command()
@click.option("--once", is_flag=True, help="End with exit code 0 when the results are in.")
@click.option("--data", type=click.Path(path_type=Path), help="Keep the folder; without it a new one that goes away.")
@click.option("--port", type=click.IntRange(1, 65535), help="Of the server; without it 8100 or the next free one.")
@click.option("--sandbox-port", type=click.IntRange(1, 65530), help="Without it 8200 or the next free one.")
@click.option(
    "--users", type=click.IntRange(100, 200_000), default=3000, show_default=True, help="Sample users to make."
)
def demo(once: bool, data: Path | None, port: int | None, sandbox_port: int | None, users: int) -> None:
    """Show everything on this machine: users, an audience, campaigns, sends, results.

    Example: tocsin demo --once
    """
    from tocsin.demo import show

    show(once=once, data=data, port=port, sandbox_port=sandbox_port, users=users)


for command in (account, policy, provider, import_records, bench, explain, bounce, repair, doctor):
    tocsin.add_command(command)


def main() -> None:
    """The console script."""
    configure_log()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    try:
        tocsin(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help())
        sys.exit(2)
    except click.ClickException as error:
        sys.exit(_say(f"{error.format_message()} (see --help)", 2))
    except click.Abort:
        sys.exit(_say("stopped", 1))
    except (Misconfigured, Problem) as error:
        sys.exit(_say(str(error), 1))
    except (OSError, UnicodeError, csv.Error, ArrowException, SQLAlchemyError) as error:
        # What the machine, a file or a server did; a bug of ours still shows its trace.
        sys.exit(_say(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", 1))


def _say(sentence: str, code: int) -> int:
    click.echo(f"tocsin: {sentence}", err=True)
    return code
