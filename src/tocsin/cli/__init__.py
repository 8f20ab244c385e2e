"""The commands of `tocsin`, a module a subject. Errors are one sentence on stderr: exit code 2 for usage, 1 for
everything else."""

from __future__ import annotations

import sys

import click

from tocsin.cli.lazy_commands import LazyCommands
from tocsin.errors import Misconfigured, Problem

COMMANDS = LazyCommands(
    {
        "account": "tocsin.cli.accounts:account",
        "app": "tocsin.cli.apps:app",
        "backup": "tocsin.cli.backup:backup",
        "bench": "tocsin.cli.bench:bench",
        "bounce": "tocsin.cli.bounce:bounce",
        "campaign": "tocsin.cli.campaigns:campaign",
        "config": "tocsin.cli.maintenance:config",
        "demo": "tocsin.cli.processes:demo",
        "doctor": "tocsin.cli.maintenance:doctor",
        "explain": "tocsin.cli.explain:explain",
        "export": "tocsin.cli.exports:export",
        "facts": "tocsin.cli.facts:facts",
        "import": "tocsin.cli.file_import:import_records",
        "migrate": "tocsin.cli.migration:migrate",
        "person": "tocsin.cli.person:person",
        "openapi": "tocsin.cli.openapi:openapi",
        "policy": "tocsin.cli.policies:policy",
        "reconcile": "tocsin.cli.maintenance:reconcile",
        "repair": "tocsin.cli.maintenance:repair",
        "report": "tocsin.cli.report:report",
        "restore": "tocsin.cli.backup:restore",
        "rotate-key": "tocsin.cli.maintenance:rotate_key",
        "sandbox": "tocsin.cli.processes:sandbox",
        "serve": "tocsin.cli.processes:serve",
        "suppressed": "tocsin.cli.suppressed:suppressed",
        "user": "tocsin.cli.users:user",
        "why": "tocsin.cli.why:why",
        "webhook": "tocsin.cli.webhooks:webhook",
    }
)


@click.group(commands=COMMANDS, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="tocsin")
def tocsin() -> None:
    """Notification campaigns a company runs itself, over CleverTap's API.

    Example: tocsin demo
    """
    import logging

    from tocsin.log import configure_log

    configure_log()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)


@tocsin.group(
    commands=LazyCommands(
        {
            "check": "tocsin.cli.providers:check",
            "encrypt": "tocsin.cli.providers:encrypt_all",
            "sandbox": "tocsin.cli.providers:use_sandbox",
            "set": "tocsin.cli.providers:set_group",
            "trust": "tocsin.cli.providers:trust",
        }
    )
)
def provider() -> None:
    """The vendors that deliver, with their credentials.

    Example: tocsin provider set fcm --account ABC-DEF-GHIJ --data ./data --service-account key.json
    """


@provider.group(
    commands=LazyCommands(
        {
            "create": "tocsin.cli.vapid:create",
            "rotate": "tocsin.cli.vapid:rotate",
            "show": "tocsin.cli.vapid:show",
        }
    )
)
def vapid() -> None:
    """The key that web pushes are signed with.

    Example: tocsin provider vapid create --account ABC-DEF-GHIJ --data ./data --subject mailto:ops@example.com
    """


def main() -> None:
    """Run the command of `sys.argv`, and exit. The console script."""
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
    except Exception as error:
        if not isinstance(error, _causes_outside()):
            raise
        sys.exit(_say(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", 1))


def _causes_outside() -> tuple[type[Exception], ...]:
    """Return the errors that the machine, a file or a server causes; a bug of ours still shows its trace."""
    import csv

    from pyarrow.lib import ArrowException
    from sqlalchemy.exc import SQLAlchemyError

    return OSError, UnicodeError, csv.Error, ArrowException, SQLAlchemyError


def _say(sentence: str, code: int) -> int:
    click.echo(f"tocsin: {sentence}", err=True)
    return code
