"""What the JSON Schema says of each record, for the capture file's page and its man page; and its causes. Pure."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from docs import blocks
from fork_trace.diagnosis.cause import Cause

# Definition -> what it is called; the records first, then what they hold.
KINDS = {
    "header": "The header",
    "probe": "Each of `attached` in the header",
    "gap": "Each of `missing` in the header",
    "failure": "A failure record",
    "evidence": "Each `evidence` of a failure",
    "frame": "Each frame of a `stack`",
    "advice": "Each `advice` of a failure",
    "holder": "Each of the `holders`",
    "death": "A death record",
    "mark": "A mark",
    "slow": "A record of slow forks",
    "forks": "The last record of `latency`",
    "summary": "The summary",
    "row": "Each of the `rows` of a summary",
    "total": "Each of the `totals` of a summary",
}
_ENUM = re.compile(r'("cause": \{\n +"enum": \[\n)[^]]*(\n +\])')


def keys(schema: Mapping[str, Any], kind: str) -> Iterator[tuple[str, str]]:
    """Return each key of a record with its description, and those of the objects within it.

    The type of the record is left out; what stands under a name of its own is told there.
    """
    for name, part in schema["definitions"][kind]["properties"].items():
        if name != "type":
            yield name, described(part, schema)
        for inner in (part, part.get("items", {}), *part.get("anyOf", [])):
            for key, each in inner.get("properties", {}).items():
                yield f"{name}.{key}", described(each, schema)


def described(part: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """Return what a key means; a reference means what it leads to."""
    if "description" in part:
        text = str(part["description"])
    elif "$ref" in part:
        text = described(schema["definitions"][part["$ref"].rpartition("/")[2]], schema)
    else:
        text = "; ".join(
            described(each, schema)
            for each in part.get("anyOf", [])
            if each.get("type") != "null" and ("description" in each or "$ref" in each)
        )
    words = part.get("enum") or part.get("items", {}).get("enum")
    if words and len(words) <= 8:
        text += f" ({', '.join('null' if word is None else str(word) for word in words)})"
    return text


def block(schema: Mapping[str, Any]) -> str:
    """Write a section for each kind of record, one item a key."""
    parts = []
    for kind, title in KINDS.items():
        listed = blocks.items(f"`{name}`: {text}" for name, text in keys(schema, kind))
        parts.append(f"## {title}\n\n{listed}")
    return "\n\n".join(parts)


def put_causes(schema: str, causes: Sequence[Cause]) -> str:
    """Return the text of the schema with these causes; ValueError if there is no place for them."""
    names = ", ".join(json.dumps(cause.slug) for cause in causes)
    indent = " " * 8
    lines = textwrap.fill(
        names, 90, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )
    written, places = _ENUM.subn(lambda match: match[1] + lines + match[2], schema)
    if places != 1:
        raise ValueError("the schema has no enumeration of causes")
    return written
