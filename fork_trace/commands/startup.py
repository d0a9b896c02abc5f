"""What `live` and `capture` do alike before they watch: the session, the first line, the privileges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fork_trace.collect.arm import find_filter
from fork_trace.collect.session import Session
from fork_trace.commands import options
from fork_trace.model.records import Header
from fork_trace.probes.libbpf.counting import Counting

TICK_S = 0.1  # how long somebody may wait at the keyboard, or for the end of a command


def open_session(given: Mapping[str, Any], counting: Counting | None = None) -> Session:
    """Attach as the options of a command say, what counts already included; ForkTraceError if it cannot be done."""
    try:
        filter_ = find_filter(*(given[name] for name in ("comm", "pid", "uid", "cgroup")))
        return Session(
            options.probes_asked_for(given),
            filter_,
            stack_bytes=given["stack_bytes"],
            keeps_privileges=given["keep_privileges"],
            counting=counting,
        )
    except BaseException:
        if counting:
            counting.close()
        raise


def start_line(header: Header, how_to_end: str) -> str:
    """Say what is watched and how it ends."""
    if header.attach == "tracepoint":
        how = "using syscall tracepoints; causes are inferred"
    else:
        functions = {each["function"] for each in header.attached if not each.get("later")}
        which = (
            "copy_process only until a fork fails"
            if functions == {"copy_process"}
            else f"{len(functions)} kernel functions"
        )
        how = f"{which}, using {header.attach}"
    return f"Watching for fork failures: {how}. {how_to_end}"
