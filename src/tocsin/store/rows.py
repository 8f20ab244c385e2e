"""Statements that SQLite and PostgreSQL write differently."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import msgspec
from sqlalchemy import BindParameter, ColumnElement, Connection, Text, bindparam, column, func, select, type_coerce
from sqlalchemy.dialects.postgresql import ARRAY


def among(connection: Connection, of: Any, values: Collection[Any]) -> ColumnElement[bool]:
    """Return the condition that a column `of` texts or integers has one of these values.

    All values are one bound parameter: parsing thousands of placeholders costs more than the query.
    """
    return among_named(connection.dialect.name, of, bindparam(None, pack_values(connection, values), unique=True))


def among_named(dialect: str, of: Any, values: str | BindParameter[Any]) -> ColumnElement[bool]:
    """Return the same condition for a statement that is made once: `values` is the name of its parameter, see
    `pack_values`. Making a statement costs SQLAlchemy as much as running a small one costs SQLite."""
    bound = bindparam(values) if isinstance(values, str) else values
    if dialect == "postgresql":
        return of == func.any(type_coerce(bound, ARRAY(of.type)))  # type: ignore[no-any-return]
    each = func.json_each(type_coerce(bound, Text)).table_valued(column("value"))
    return of.in_(select(each.c.value))  # type: ignore[no-any-return]


def pack_values(connection: Connection, values: Collection[Any]) -> Any:
    """Return values as the parameter of `among_named`."""
    wanted = list(values)
    return wanted if connection.dialect.name == "postgresql" else msgspec.json.encode(wanted).decode()


def upsert_rows(
    connection: Connection,
    table: Any,
    rows: list[dict[str, Any]],
    *,
    keys: Sequence[str],
    kept: Sequence[str] = (),
    counted: Sequence[str] = (),
) -> None:
    """Insert rows; of those whose `keys` exist already, update every column but `kept`. What is `counted` is inserted
    as given, and incremented in a row that exists."""
    statement = _insert(connection)(table)
    changed = {
        name: table.c[name] + 1 if name in counted else statement.excluded[name]
        for name in rows[0]
        if name not in keys and name not in kept
    }
    if changed:
        statement = statement.on_conflict_do_update(index_elements=list(keys), set_=changed)
    else:
        statement = statement.on_conflict_do_nothing(index_elements=list(keys))
    connection.execute(statement, rows)


def add_to_rows(
    connection: Connection, table: Any, rows: list[dict[str, Any]], *, keys: Sequence[str], added: str
) -> None:
    """Insert rows, in the order given; where `keys` exist already, add to the column `added`."""
    statement = _insert(connection)(table)
    total = table.c[added] + statement.excluded[added]
    connection.execute(statement.on_conflict_do_update(index_elements=list(keys), set_={added: total}), rows)


def insert_new(connection: Connection, table: Any, row: dict[str, Any]) -> bool:
    """Insert a row unless its key exists; return whether it was inserted. Of two at once the second one waits."""
    key = next(iter(table.primary_key))
    statement = _insert(connection)(table).values(row).on_conflict_do_nothing().returning(key)
    return connection.execute(statement).first() is not None


def _insert(connection: Connection) -> Any:
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert
    else:
        from sqlalchemy.dialects.sqlite import insert  # type: ignore[assignment]
    return insert
