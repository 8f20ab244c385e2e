"""Statements that SQLite and PostgreSQL write differently."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import msgspec
from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Dialect,
    Insert,
    Text,
    bindparam,
    column,
    func,
    select,
    type_coerce,
)
from sqlalchemy.dialects.postgresql import ARRAY

VALUES_PER_QUERY = 400  # SQLite binds at most 32,766 values to a statement, PostgreSQL 65,535


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
    names = tuple(rows[0])
    text, order, constants = _compile_upsert(connection.dialect, table, names, tuple(keys), tuple(kept), tuple(counted))
    if order:
        connection.exec_driver_sql(text, [tuple(map({**constants, **row}.__getitem__, order)) for row in rows])
    else:
        connection.exec_driver_sql(text, [{**constants, **row} for row in rows])


def insert_rows(connection: Connection, table: Any, rows: list[dict[str, Any]]) -> None:
    """Insert rows, all of the same columns."""
    text, order = _compile_insert(connection.dialect, table, tuple(rows[0]))
    pick = itemgetter(*order) if len(order) > 1 else None
    connection.exec_driver_sql(text, [pick(row) for row in rows] if pick else rows)


def insert_numbered(
    connection: Connection,
    table: Any,
    common: Mapping[str, Any],
    values: tuple[str, Sequence[str | None]],
    number: tuple[str, int],
) -> None:
    """Insert a row for each text of a list that is not None. values: its column, and the texts. number: a column, and
    what it holds for the first text, one more for each that comes after. common: what all other columns hold.

    One statement, whose list is one value, costs SQLite half of what a statement a row does.
    """
    name, texts = values
    statement = _compile_numbered(connection.dialect.name, table, tuple(common), name, number[0])
    asked = {**common, "texts": pack_values(connection, texts), "first": number[1]}
    connection.execute(statement, asked)


@functools.lru_cache(maxsize=64)
def _compile_numbered(dialect: str, table: Any, common: tuple[str, ...], name: str, number: str) -> Insert:
    first: Any = bindparam("first", type_=table.c[number].type)
    if dialect == "postgresql":
        rows = func.unnest(bindparam("texts", type_=ARRAY(table.c[name].type)))
        each: Any = rows.table_valued("value", with_ordinality="key").render_derived()
        first = first - 1
    else:
        each = func.json_each(bindparam("texts", type_=Text)).table_valued(column("key"), column("value"))
    given = [bindparam(one, type_=table.c[one].type) for one in common]
    chosen = select(*given, each.c.value, first + each.c.key).where(each.c.value.is_not(None))
    return table.insert().from_select([*common, name, number], chosen)  # type: ignore[no-any-return]


# SQLAlchemy's own way with many rows costs 5 µs a row for their parameters, as much as SQLite for the row itself.
@functools.lru_cache(maxsize=256)
def _compile_upsert(
    dialect: Dialect,
    table: Any,
    names: tuple[str, ...],
    keys: tuple[str, ...],
    kept: tuple[str, ...],
    counted: tuple[str, ...],
) -> tuple[str, tuple[str, ...], dict[str, Any]]:
    """Return an upsert as the driver takes it, the order of its parameters (none where they have names), and those
    that are the same for every row."""
    statement = _insert(dialect.name)(table)
    changed = {
        name: table.c[name] + 1 if name in counted else statement.excluded[name]
        for name in names
        if name not in keys and name not in kept
    }
    if changed:
        statement = statement.on_conflict_do_update(index_elements=list(keys), set_=changed)
    else:
        statement = statement.on_conflict_do_nothing(index_elements=list(keys))
    compiled = statement.compile(dialect=dialect, column_keys=list(names))
    constants = {name: value for name, value in compiled.params.items() if name not in names}
    return str(compiled), tuple(compiled.positiontup or ()), constants


@functools.lru_cache(maxsize=256)
def _compile_insert(dialect: Dialect, table: Any, names: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    compiled = table.insert().compile(dialect=dialect, column_keys=list(names))
    return str(compiled), tuple(compiled.positiontup or ())


def add_to_rows(
    connection: Connection, table: Any, rows: list[dict[str, Any]], *, keys: Sequence[str], added: str
) -> None:
    """Insert rows, in the order given; where `keys` exist already, add to the column `added`."""
    statement = _insert(connection.dialect.name)(table)
    total = table.c[added] + statement.excluded[added]
    connection.execute(statement.on_conflict_do_update(index_elements=list(keys), set_={added: total}), rows)


def insert_new(connection: Connection, table: Any, row: dict[str, Any]) -> bool:
    """Insert a row unless its key exists; return whether it was inserted. Of two at once the second one waits."""
    key = next(iter(table.primary_key))
    statement = _insert(connection.dialect.name)(table).values(row).on_conflict_do_nothing().returning(key)
    return connection.execute(statement).first() is not None


def _insert(dialect: str) -> Any:
    if dialect == "postgresql":
        from sqlalchemy.dialects.postgresql import insert
    else:
        from sqlalchemy.dialects.sqlite import insert  # type: ignore[assignment]
    return insert


def split_values(items: Sequence[Any], most: int = VALUES_PER_QUERY) -> Iterable[list[Any]]:
    """Split values into lists of so many, by default those that one query can bind."""
    for start in range(0, len(items), most):
        yield list(items[start : start + most])
