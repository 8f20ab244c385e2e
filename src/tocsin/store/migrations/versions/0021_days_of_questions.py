"""Days in the stored questions of campaigns of the first version: `{"on": day}` where the day stood."""

import json
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0019"

PAGE = 500


def upgrade() -> None:
    connection = op.get_bind()
    last = -1
    # Of a did-node only the first version wrote a day as text; compact JSON, as it was written.
    asked = sa.text(
        'SELECT id, spec FROM campaign WHERE id > :last AND spec LIKE \'%"first":"%\' ORDER BY id LIMIT :page'
    )
    while rows := connection.execute(asked, {"last": last, "page": PAGE}).all():
        for campaign_id, stored in rows:
            spec = json.loads(stored)
            for node in _walk(spec.get("where")):
                for name in ("first", "last"):
                    if node.get("type") == "did" and isinstance(node.get(name), str):
                        node[name] = {"on": node[name]}
            text = json.dumps(spec, ensure_ascii=False, separators=(",", ":"))
            changed = sa.text("UPDATE campaign SET spec = :spec WHERE id = :id")
            connection.execute(changed, {"spec": text, "id": campaign_id})
        last = rows[-1][0]


def _walk(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, list):
        for one in node:
            yield from _walk(one)
    elif isinstance(node, dict):
        yield node
        yield from _walk(node.get("of"))
