"""Sums of closed chunks, so that history may be cleaned away, and the indexes of what is open and of what is over."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

ROWS = 1000  # of an insert


def upgrade() -> None:
    op.create_table(
        "tag_sum",
        sa.Column("account_id", sa.String(32), primary_key=True),
        sa.Column("tag_group", sa.String(256), primary_key=True),
        sa.Column("state", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("recipients", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "run_sum",
        sa.Column(
            "run_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=False
        ),
        sa.Column("variant", sa.String(16), primary_key=True),
        sa.Column("state", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("account_id", sa.String(32), nullable=False),
        sa.Column("recipients", sa.BigInteger(), nullable=False),
    )
    _add_up("tag_sum", ("account_id", "tag_group"), "run_id IS NULL")
    _add_up("run_sum", ("account_id", "run_id", "variant"), "run_id IS NOT NULL")
    op.add_column("run", sa.Column("cleaned_at", sa.Float()))
    _create_partial("run_uncleaned", "run", ["account_id", "ended_at"], "cleaned_at IS NULL")
    op.drop_index("chunk_of_account", "chunk")
    op.drop_index("chunk_of_run", "chunk")
    _create_partial("chunk_of_run", "chunk", ["run_id", "open"], "run_id IS NOT NULL")
    _create_partial("chunk_counted", "chunk", ["account_id", "tag_group"], "open = 1 AND run_id IS NULL AND size > 0")
    _create_partial("chunk_ended", "chunk", ["account_id", "not_before"], "open = 0 AND run_id IS NULL")


def _add_up(table: str, keys: tuple[str, ...], which: str) -> None:
    """Count the states of closed chunks by `keys`. Most requests have one recipient, and so the same states: the
    database counts these, and what is left to count here is few rows."""
    names, connection = ", ".join(keys), op.get_bind()
    same = f"SELECT {names}, states, COUNT(*) FROM chunk WHERE open = 0 AND {which} GROUP BY {names}, states"  # noqa: S608
    found = connection.execute(sa.text(same).execution_options(yield_per=ROWS))
    sums: dict[tuple[object, ...], int] = {}
    for *key, states, count in found:
        raw = bytes(states)
        for state in set(raw):
            place = (*key, state)
            sums[place] = sums.get(place, 0) + raw.count(state) * count
    rows = [dict(zip((*keys, "state"), place, strict=True)) | {"recipients": sums[place]} for place in sums]
    columns: list[sa.ColumnClause[object]] = [sa.column(name) for name in (*keys, "state", "recipients")]
    for start in range(0, len(rows), ROWS):
        connection.execute(sa.insert(sa.table(table, *columns)), rows[start : start + ROWS])


def _create_partial(name: str, table: str, columns: list[str], where: str) -> None:
    op.create_index(name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
