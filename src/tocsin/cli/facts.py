"""`tocsin facts …`: the facts store beyond one server."""

from __future__ import annotations

import click


@click.group()
def facts() -> None:
    """The facts store beyond one server.

    Example: tocsin facts schema --cluster tocsin
    """


@facts.command()
@click.option("--cluster", required=True, help="Its name in the servers' remote_servers.")
@click.option("--database", default="tocsin", show_default=True, help="The database that TOCSIN_FACTS_URL names.")
def schema(cluster: str, database: str) -> None:
    """Print the statements that make the tables on a cluster of ClickHouse servers, for clickhouse-client --multiquery.

    Example: tocsin facts schema --cluster tocsin
    """
    from tocsin.store.cluster import write_cluster_schema

    for statement in write_cluster_schema(cluster, database):
        click.echo(statement + ";\n")
