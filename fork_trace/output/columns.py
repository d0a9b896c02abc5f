"""What a report can be grouped by."""

from __future__ import annotations

from fork_trace.errors import ForkTraceError

DEFAULT_BY: tuple[str, ...] = ("command", "caller", "cause")

# What `--by` takes; host tells apart when files of several hosts are merged.
COLUMNS: tuple[str, ...] = (
    "command",
    "caller",
    "cause",
    "step",
    "cgroup",
    "container",
    "user",
    "parent",
    "host",
)


def parse_by(text: str) -> tuple[str, ...]:
    """Read a `--by` list; ForkTraceError names a column that does not exist."""
    names: list[str] = []
    for name in (part.strip() for part in text.split(",")):
        if name not in COLUMNS:
            raise ForkTraceError(
                f"--by has no column {name!r}",
                f"Give a comma-separated list of: {', '.join(COLUMNS)}.",
            )
        if name not in names:
            names.append(name)
    return tuple(names)
