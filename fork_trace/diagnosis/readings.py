"""What a diagnosis goes by, besides the kernel's record of the failure: numbers, with None for what is not known."""

# Without annotations as strings: NamedTuple compiles each of them, and all that watch wait for it.
from collections.abc import Mapping, Sequence
from typing import Callable, NamedTuple, Optional

from fork_trace.model.events import Level


def _no_name(_level: Level) -> Optional[str]:
    return None


class KernelReadings(NamedTuple):
    """What the kernel side read at the moment of one failure, and who can name its parts."""

    numbers: Mapping[str, int]
    levels: Sequence[Level] = ()
    uid: Optional[int] = None
    detail: str = ""
    step: str = ""
    flags: int = 0
    # Why the caller may create no user namespace, and details; None: not known.
    denied: Optional[tuple[str, str]] = None
    # The path of a cgroup, by its level; None: not known.
    cgroup_name: Callable[[Level], Optional[str]] = _no_name


class ProcReadings(NamedTuple):
    """What /proc said right after a failure, where the kernel side alone cannot decide."""

    overcommit_memory: Optional[int] = None
    # The host is nowhere near kernel.threads-max.
    threads_are_far: bool = False
    # One of the caller's mappings is larger than RAM and swap; None: could not be read.
    has_huge_mapping: Optional[bool] = None


class HostReadings(NamedTuple):
    """What is known of the host besides the event; None: could not be read."""

    page_bytes: int
    hugetlb_pages: Optional[int]
    # From /proc, right after: for kernels whose variables have no readable address.
    overcommit_memory: Optional[int] = None
    ram_and_swap: Optional[int] = None  # bytes
    threads: Optional[int] = None
    threads_max: Optional[int] = None
    # Of the process: its open descriptors. Of the host: open files and fs.file-max.
    descriptors: Optional[int] = None
    descriptors_max: Optional[int] = None
    files: Optional[int] = None
    files_max: Optional[int] = None
