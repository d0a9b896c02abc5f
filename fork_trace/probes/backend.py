"""What a backend is. Which one to take is the plan's choice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from fork_trace.errors import ForkTraceError
from fork_trace.model.dataclass import dataclass
from fork_trace.probes.plan import Plan, Stage

SAMPLES_PER_SECOND = 24  # of each key; a rehearsal's 23 are all seen whole


@dataclass(frozen=True)
class Filter:
    """Which failures are counted at all; None: any. Applied in the kernel."""

    comm: str | None = None
    pid: int | None = None
    uid: int | None = None
    cgroup_id: int | None = None


class AttachRefusedError(ForkTraceError):
    """The kernel refuses this way of attaching altogether; another attach mode may do."""


class Backend(Protocol):
    """The programs in the kernel, from load to detach."""

    plan: Plan  # as it was carried out

    def attach_more(self, stage: Stage) -> bool:
        """Attach the next of the probes that wait, up to that stage; False once there is no more to do."""

    def poll(self, timeout_s: float) -> list[bytes]:
        """Wait for events at most this long and return them, oldest first."""

    def descriptors(self) -> tuple[int, ...]:
        """Return what can be read once there are events; empty: there is only `poll`."""

    def stacks(self) -> list[bytes]:
        """Return the user stacks that came with the events of the last poll, or for the next one."""

    def deaths(self) -> list[bytes]:
        """Return what came of the OOM killer's kills with the last poll."""

    def forks(self) -> list[bytes]:
        """Return the forks of large parents that came with the last poll."""

    def tallies(self) -> Iterable[tuple[bytes, bytes]]:
        """Return the exact counters: (struct ft_key, struct ft_tally) pairs."""

    def used(self) -> int:
        """Count the keys of the exact counters; the table takes 8192."""

    def harvest(self) -> list[tuple[bytes, bytes]]:
        """Take all keys out of the table, with their last counts; each begins anew if it is counted again."""

    def stats(self) -> dict[str, int]:
        """Return the run's counters by the names of events.STATS."""

    def missed(self) -> int | None:
        """Count the calls whose failure may not have been counted; None: the kernel does not count them."""

    def step_misses(self) -> Mapping[str, int]:
        """Count the calls of each step that its program did not see; their failures are counted all the same.

        Only of the programs to which that has happened, and which `missed` has no number of.
        """

    def overflowed(self) -> dict[int, int]:
        """Return the counts by step number that found no room among the keys."""

    def detach(self) -> None:
        """Stop watching; what was counted and sampled can still be read."""

    def close(self) -> None:
        """Detach every program and free every map."""
