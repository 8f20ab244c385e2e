"""The facts store over several ClickHouse servers: the statements that make its tables, made from `facts.sql`.

Each shard has the tables of one machine, replicated, with the views beside them, so that what is kept on insert is kept
where the rows are. Before them stand tables of the same names that ask all shards. A person's rows, of every table, lie
on one shard: what is counted for each person can be counted on each shard, and added.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tocsin.errors import Misconfigured
from tocsin.store.facts import PARTS, read_script

SHARD_OF = "cityHash64(account, user)"
WRITTEN = ("event", "profile", "outcome")  # the others are filled by views, on each shard
LISTENER = "cityHash64(account)"  # where a row of `listener` lies, which the views of every shard ask for
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")

_TABLE = re.compile(r"\s*CREATE TABLE IF NOT EXISTS (\w+)\n(\(.*?\n\))\nENGINE = (\w+?)(?:\((\w+)\))?\n(.*)", re.DOTALL)
_VIEW = re.compile(r"\s*CREATE MATERIALIZED VIEW IF NOT EXISTS (\w+) TO (\w+) AS\n(.*)", re.DOTALL)
_QUERY = re.compile(r"\s*ALTER TABLE (\w+) MODIFY QUERY\n(.*)", re.DOTALL)
_FROM = re.compile(r"\bFROM (event|outcome)\b")


def write_cluster_schema(cluster: str, database: str = "tocsin") -> list[str]:
    """Return the statements that make the tables on every server of a cluster, in their order. Raise Misconfigured for
    a name that would need quoting. The servers' macros `shard` and `replica` say which is which."""
    for name in (cluster, database):
        if not NAME.fullmatch(name):
            raise Misconfigured(f"{name!r} is no name of letters, digits and underscores.")
    local, everywhere = f"{database}_shard", f"ON CLUSTER '{cluster}'"
    statements = [f"CREATE DATABASE IF NOT EXISTS {name} {everywhere}" for name in (database, local)]
    views = []
    queries = {found[1]: found[2] for one in read_script() if (found := _QUERY.match(one))}
    for statement in read_script():
        if table := _TABLE.match(statement):
            statements.append(_write_table(table, local, everywhere))
        elif view := _VIEW.match(statement):
            name, target, query = view.groups()
            query = _FROM.sub(rf"FROM {local}.\1", queries.get(name, query).strip())
            query = query.replace("FROM listener", f"FROM {database}.listener")
            head = f"CREATE MATERIALIZED VIEW IF NOT EXISTS {local}.{name} {everywhere} TO {local}.{target} AS"
            views.append(f"{head}\n{query}")
    return [*statements, *_write_fronts(cluster, database, local, everywhere), *views]


def _write_table(table: re.Match[str], local: str, everywhere: str) -> str:
    name, columns, engine, version, rest = table.groups()
    place = f"'/clickhouse/tables/{{shard}}/{local}/{name}', '{{replica}}'"
    arguments = place if version is None else f"{place}, {version}"
    rest = rest.strip()
    if name in ("event", "profile"):
        rest += "\nSETTINGS " + ", ".join(f"{setting} = {value}" for setting, value in PARTS.items())
    head = f"CREATE TABLE IF NOT EXISTS {local}.{name} {everywhere}"
    return f"{head}\n{columns}\nENGINE = Replicated{engine}({arguments})\n{rest}"


def _write_fronts(cluster: str, database: str, local: str, everywhere: str) -> Iterator[str]:
    tables = [found[1] for one in read_script() if (found := _TABLE.match(one))]
    for name in tables:
        key = f", {SHARD_OF}" if name in WRITTEN else f", {LISTENER}" if name == "listener" else ""
        yield (
            f"CREATE TABLE IF NOT EXISTS {database}.{name} {everywhere} AS {local}.{name}\n"
            f"ENGINE = Distributed('{cluster}', '{local}', '{name}'{key})"
        )
