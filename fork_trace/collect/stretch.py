"""The run's counters of a stretch of it: what was counted at its end less what was at its begin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from fork_trace.probes.backend import Backend

# Key of a summary -> counter of the programs (events.STATS).
_STATS = {
    **{name: name for name in ("lost", "rate_limited", "restarted", "killed", "filtered")},
    **{name: name for name in ("before_fork", "untracked", "without_stack", "early")},
    "mismatched": "mismatch",
    "deaths_lost": "deaths_lost",  # part of `deaths`
}


class Counters(NamedTuple):
    """Counters since the programs were attached, or of a stretch."""

    stats: Mapping[str, int]  # by their keys in a summary
    missed: int | None
    overflowed: Mapping[int, int]  # by step number

    def since(self, before: Counters) -> Counters:
        """Return what was counted since then."""
        # Calls under way are taken for missed until they return: that number can go down.
        missed = None if self.missed is None else max(0, self.missed - (before.missed or 0))
        over = {
            step: number - before.overflowed.get(step, 0)
            for step, number in self.overflowed.items()
            if number > before.overflowed.get(step, 0)
        }
        stats = {
            name: max(0, value - before.stats.get(name, 0)) for name, value in self.stats.items()
        }
        return Counters(stats, missed, over)


NOTHING = Counters({}, 0, {})


def read(backend: Backend) -> Counters:
    """Read them as they are now."""
    stats = backend.stats()
    told = {name: stats[counter] for name, counter in _STATS.items()}
    told["step_misses"] = sum(backend.step_misses().values())
    return Counters(told, backend.missed(), backend.overflowed())
