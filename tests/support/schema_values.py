"""Values that a JSON Schema allows, made by chance: what a careful client might send."""

from __future__ import annotations

import random
from typing import Any

TEXTS = ("somebody", "Charged", "20261224", "-7d", "a@example.com", "10:00", "Straße", "x" * 60, "{{ Profile.Name }}")
DEEPEST = 6
LONGEST = 3  # elements of a list, where no more are needed


class SchemaValues:
    """components: the schemas that may be named. A seed makes the same values again."""

    def __init__(self, components: dict[str, Any], seed: int):
        self._components = components
        self._dice = random.Random(seed)

    def make(self, schema: dict[str, Any], depth: int = 0) -> Any:
        """A value that the schema allows."""
        dice = self._dice
        if name := schema.get("$ref"):
            return self.make(self._components[name.rpartition("/")[2]], depth)
        if "enum" in schema:
            return dice.choice(schema["enum"])
        if "anyOf" in schema:
            return self.make(dice.choice(schema["anyOf"]), depth)
        match schema.get("type"):
            case "object":
                return self._make_object(schema, depth)
            case "array":
                least = schema.get("minItems", 0)
                count = least if depth > DEEPEST else dice.randint(least, max(least, LONGEST))
                return [self.make(schema["items"], depth + 1) for _ in range(min(count, schema.get("maxItems", count)))]
            case "string":
                return self._make_text(schema)
            case "integer" | "number":
                low = schema.get("minimum", schema.get("exclusiveMinimum", -3))
                high = schema.get("maximum", schema.get("exclusiveMaximum", 20301231))
                value = dice.choice((low, high, dice.randint(int(low), int(high)), 20261224, 1))
                return min(max(value, low), high)
            case "boolean":
                return dice.choice((True, False))
            case "null":
                return None
        return dice.choice((*TEXTS, 1, True, None, [], {}))

    def _make_object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        dice, required = self._dice, schema.get("required", ())
        share = 0.4 if depth < DEEPEST else 0.0
        found = {
            key: self.make(one, depth + 1)
            for key, one in schema.get("properties", {}).items()
            if key in required or dice.random() < share
        }
        if isinstance(schema.get("additionalProperties"), dict):
            names = dice.sample(TEXTS, dice.randint(0, 2))
            found |= {name: self.make(schema["additionalProperties"], depth + 1) for name in names}
        return found

    def _make_text(self, schema: dict[str, Any]) -> str:
        least = int(schema.get("minLength", 0))
        fitting = [one for one in TEXTS if least <= len(one) <= schema.get("maxLength", 1000)]
        return self._dice.choice(fitting or ["x" * least])
