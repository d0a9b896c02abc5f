"""What is asked for of captures: the options that `report`, `live --replay` and `snapshot` share."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from fork_trace.diagnosis.causes import BY_SLUG
from fork_trace.errors import ForkTraceError
from fork_trace.record.captures import Captures, running_boot
from fork_trace.record.selection import Selection, chosen_boot
from fork_trace.record.times import instant_ns


def selected(given: Mapping[str, Any], captures: Captures) -> Selection:
    """Return which failures the options ask for; ForkTraceError if they cannot be meant."""
    now_ns = time.time_ns()
    since_ns, until_ns = (
        None if given[name] is None else instant_ns(given[name], now_ns)
        for name in ("since", "until")
    )
    if since_ns is not None and until_ns is not None and until_ns < since_ns:
        raise ForkTraceError(
            f"--until {given['until']} is before --since {given['since']}",
            "Give the earlier one to --since.",
        )
    for cause in given["causes"]:
        if cause not in BY_SLUG:
            raise ForkTraceError(
                f"--cause {cause}: there is no such cause",
                "`fork-trace explain` lists them.",
            )
    if given["cgroup"] == "":
        raise ForkTraceError("--cgroup is empty", "Give a cgroup, or the name of a unit.")
    boot = given["boot"]
    return Selection(
        since_ns,
        until_ns,
        None if boot is None else chosen_boot(boot, captures.headers(), running_boot()),
        comm=given["comm"],
        cgroup=given["cgroup"],
        uid=given["uid"],
        causes=frozenset(given["causes"]),
    )
