"""The formats of `check`. Each is the file of its name beside this one, with `write` and `failed`.

`write` turns what was found into text, `failed` the sentence of a check that could not be made. A program
that starts a plugin reads stdout alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple, Protocol

FORMATS = ("table", "json", "prometheus", "nagios", "npd")
# Those that say on stdout that nothing could be found out.
PLUGINS = ("nagios", "npd")
_LEVELS = {"fine": 0, "near": 1, "full": 2, "unknown": 3}
CANNOT_RUN = 3


class Codes(NamedTuple):
    """The exit codes of one format: by level, and where it cannot run at all."""

    by_level: Mapping[str, int]
    cannot_run: int


_NAGIOS = Codes(_LEVELS, CANNOT_RUN)
# Node Problem Detector: 0 is no problem, 1 a problem, and all else is unknown.
_NPD = Codes({"fine": 0, "near": 1, "full": 1, "unknown": 2}, 2)


class Format(Protocol):
    """What a file of this package offers."""

    def write(self, found: Mapping[str, Any], is_all: bool) -> str:
        """Return what is written to stdout."""

    def failed(self, sentence: str) -> str:
        """Return what a plugin writes that could not find out anything."""


def load(name: str) -> Format:
    """Load one of FORMATS but the table."""
    loaded: Format = import_module(f"fork_trace.output.check_formats.{name}")
    return loaded


def codes(name: str) -> Codes:
    """Return the exit codes of one of FORMATS."""
    return _NPD if name == "npd" else _NAGIOS
