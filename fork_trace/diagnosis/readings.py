"""What a diagnosis goes by, besides the kernel's record of the failure: numbers, with None for what is not known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Callable, NamedTuple

from fork_trace.events import Level


def _no_name(_level: Level) -> str | None:
    return None


class KernelReadings(NamedTuple):
    """What the kernel side read at the moment of one failure, and who can name its parts."""

    numbers: Mapping[str, int]
    levels: Sequence[Level] = ()
    uid: int | None = None
    detail: str = ""
    step: str = ""
    flags: int = 0
    # The path of a cgroup, by its level; None: not known.
    cgroup_name: Callable[[Level], str | None] = _no_name


class ProcReadings(NamedTuple):
    """What /proc said right after a failure, where the kernel side alone cannot decide."""

    overcommit_memory: int | None = None
    # The host is nowhere near kernel.threads-max.
    threads_are_far: bool = False
    # One of the caller's mappings is larger than RAM and swap; None: could not be read.
    has_huge_mapping: bool | None = None


class HostReadings(NamedTuple):
    """What is known of the host besides the event; None: could not be read."""

    page_bytes: int
    hugetlb_pages: int | None
    # From /proc, right after: for kernels whose variables have no readable address.
    overcommit_memory: int | None = None
    threads: int | None = None
    threads_max: int | None = None
    # Of the process: its open descriptors. Of the host: open files and fs.file-max.
    descriptors: int | None = None
    descriptors_max: int | None = None
    files: int | None = None
    files_max: int | None = None
