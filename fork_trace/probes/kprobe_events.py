"""Kprobes at returns by tracefs, with room for as many calls at once as wanted. Knows files only.

A kprobe by perf_event_open alone has the kernel's default room, a few calls for each CPU: of forks that
sleep on their way the others would go by unseen. Loading and attaching programs is `libbpf`'s.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress

from fork_trace import files

_GROUP = "fork_trace_"
# As many as the kernel takes: KRETPROBE_MAXACTIVE_MAX, kernel/trace/trace_kprobe.c.
_MOST_CALLS = 4096
# Functions in which any number of threads can be asleep at once; in the others a fork is only for a
# moment, but for a shortage of memory that makes all of them wait.
_ASLEEP_IN = (
    *("copy_process", "vm_mmap_pgoff"),
    *("do_mprotect_pkey", "__x64_sys_mprotect", "__arm64_sys_mprotect"),
)
_CALLS = 512
# Programs there send samples. Since Linux commit 2e38eb04c95e ("kprobes: Do not increment probe miss
# count in the fault handler") (in v5.14), that is all. Before that, each fault as they read a user's
# memory counted as a call missed.
_READ_USER_MEMORY_IN = _ASLEEP_IN


class KprobeEvents:
    """The kprobe events of this process. OSError where tracefs cannot be written."""

    def __init__(self, root: str = "/") -> None:
        # Held open to the end: root is another user by then, who may not write it.
        self._directory, self._fd = _open_tracefs(root)
        self.group = f"{_GROUP}{os.getpid()}"
        self._functions: list[str] = []
        self._root = root
        self._remove_leftovers()

    def add_return(self, function: str) -> int:
        """Define an event at a function's return and give its number, for perf_event_open."""
        calls = _MOST_CALLS if function in _ASLEEP_IN else _CALLS
        self._write(f"r{calls}:{self.group}/{function} {function}")
        self._functions.append(function)
        return int(files.text(self._directory, "events", self.group, function, "id"))

    def missed(self, function: str | None = None) -> int | None:
        """Count the calls that found no room, as far as the kernel tells; None: it cannot be read.

        Of one function, or of all that send no samples.
        """
        # Since Linux commit dfea08a2116f ("tracing/kprobes: 'nmissed' not showed correctly for
        # kretprobe") (in v5.17, and in older stable kernels), it counts these. Before that, only
        # the calls that came in the middle of another kprobe.
        try:
            text = files.text(self._directory, "kprobe_profile")
        except OSError:
            return None
        total = 0
        for line in text.splitlines():
            name, _hits, missed = line.split()[-3:]
            if name not in self._functions:
                continue
            if name == function or (function is None and name not in _READ_USER_MEMORY_IN):
                total += int(missed)
        return total

    def remove(self) -> None:
        """Remove all of them, for good; they must be detached by then."""
        for function in self._functions:
            with suppress(OSError):
                self._write(f"-:{self.group}/{function}")
        self._functions = []
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _write(self, line: str) -> None:
        os.write(self._fd, line.encode() + b"\n")

    def _remove_leftovers(self) -> None:
        # Of a process that was killed: nothing is enabled, but the names stay.
        with suppress(OSError):
            text = files.text(self._directory, "kprobe_events")
            for group, pid, name in re.findall(rf":({_GROUP}(\d+))/(\S+)", text):
                if not files.exists(self._root, "proc", pid):
                    with suppress(OSError):
                        self._write(f"-:{group}/{name}")


def _open_tracefs(root: str) -> tuple[str, int]:
    """Find the directory, and open its list of kprobe events for writing."""
    # Appending: what is opened for writing from the start is emptied, with everybody's events.
    # Not by open(): that seeks to the end, and this file cannot.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
    for place in ("sys/kernel/tracing", "sys/kernel/debug/tracing"):
        path = os.path.join(root, place)
        # In many containers it is there to be read only.
        with suppress(OSError):
            return path, os.open(os.path.join(path, "kprobe_events"), flags)
    raise FileNotFoundError("no tracefs that can be written")
