"""What `live` and `capture` do first: count, before they load what explains. Imports no more than that takes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from fork_trace.probes.libbpf.counting import Counting, begin

# Whom to count may need a look at the host; and what else would count, or watch, is not loaded by then.
_FILTERS, _MORE = ("comm", "pid", "uid", "cgroup"), ("without", "refused", "large_forks")


def counting(given: Mapping[str, Any]) -> Counting | None:
    """Count failed forks from now on, if the options and the host allow it; say so on a terminal."""
    if given["attach"] == "kprobe" or given["backend"] == "bcc":
        return None
    if any(given[name] for name in _MORE):
        return None
    if any(given[name] is not None for name in _FILTERS):
        return None
    begun = begin(given["attach"])
    if begun and sys.stderr.isatty():
        print("Counting fork failures; loading what explains them.", file=sys.stderr, flush=True)
    return begun
