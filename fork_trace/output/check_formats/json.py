"""`check` as one JSON object, which `fork-trace docs schema` describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fork_trace import escape


def write(found: Mapping[str, Any], is_all: bool) -> str:
    """Write all that was found."""
    return escape.json_line(found) + "\n"
