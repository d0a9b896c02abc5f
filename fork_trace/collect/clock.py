"""The instants of a run: what the kernel and Python count from boot, as times of day."""

# Without annotations as strings: NamedTuple compiles each of them, and all that watch wait for it.
import time
from typing import NamedTuple


def iso(time_ns: int) -> str:
    """Write ns since the epoch as ISO 8601 in UTC, to the microsecond."""
    seconds, rest_ns = divmod(time_ns, 10**9)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{text}.{rest_ns // 1000:06d}Z"


class Clock(NamedTuple):
    """When a run began, and what makes a time of day of CLOCK_MONOTONIC."""

    start_ns: int  # CLOCK_MONOTONIC
    epoch_offset_ns: int

    def time_ns(self, monotonic_ns: int) -> int:
        """Return an instant in ns since the epoch."""
        return monotonic_ns + self.epoch_offset_ns

    def now_ns(self) -> int:
        """Return now, in ns since the epoch."""
        return self.time_ns(time.monotonic_ns())

    def elapsed_s(self) -> float:
        """Return the seconds since the run began."""
        return (time.monotonic_ns() - self.start_ns) / 1e9


def started_now() -> Clock:
    """Return the clock of a run that begins now."""
    start_ns = time.monotonic_ns()
    return Clock(start_ns, time.time_ns() - start_ns)
