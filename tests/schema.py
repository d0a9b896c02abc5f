"""The schema of the records as a test needs it: strict, so that a key which it does not name is a fault."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import fastjsonschema

from fork_trace import documents


def published() -> dict[str, Any]:
    """The schema as users get it."""
    schema: dict[str, Any] = json.loads(documents.text(documents.SCHEMA))
    return schema


def strict(part: Any) -> Any:
    """The same without leave for keys of a later version."""
    if isinstance(part, list):
        return [strict(each) for each in part]
    if not isinstance(part, dict):
        return part
    inner = {name: strict(each) for name, each in part.items()}
    if isinstance(part.get("properties"), dict) and part.get("type") == "object":
        inner.setdefault("additionalProperties", False)
    return inner


@functools.cache
def _check(kind: str) -> Callable[[Any], Any]:
    # Of one kind and not of any: then the message tells which key is wrong.
    schema = {**strict(published()), "allOf": [{"$ref": f"#/definitions/{kind}"}]}
    del schema["anyOf"]
    compiled: Callable[[Any], Any] = fastjsonschema.compile(schema)
    return compiled


def validate(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record that fits the schema; fastjsonschema.JsonSchemaException says what does not."""
    kind = str(record["type"])
    if kind == "summary" and "captures" in record:
        kind = "merged"
    _check(kind)(record)
    return record


def read(text: str) -> list[dict[str, Any]]:
    """Read lines of records, each of which must fit."""
    return [validate(json.loads(line)) for line in text.splitlines()]
