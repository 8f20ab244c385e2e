"""`tocsin openapi`: the description of the API, for generators of clients."""

from __future__ import annotations

import click

from tocsin.cli.options import print_json


@click.command()
def openapi() -> None:
    """Print the OpenAPI 3.1 document of the API, as a server has it at /openapi.json.

    Example: tocsin openapi > openapi.json
    """
    from tocsin.api import ENDPOINTS
    from tocsin.api.openapi.document import make_document

    print_json(make_document(ENDPOINTS))
