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
    slept_ns: int = 0  # suspended since boot: CLOCK_BOOTTIME less CLOCK_MONOTONIC

    def time_ns(self, monotonic_ns: int) -> int:
        """Return an instant in ns since the epoch."""
        return monotonic_ns + self.epoch_offset_ns

    def now_ns(self) -> int:
        """Return now, in ns since the epoch."""
        return self.time_ns(time.monotonic_ns())

    def elapsed_s(self) -> float:
        """Return the seconds since the run began."""
        return (time.monotonic_ns() - self.start_ns) / 1e9


def started(start_ns: int) -> Clock:
    """Return the clock of a run that began at an instant of CLOCK_MONOTONIC."""
    now_ns, real_ns, boot_ns = _at_once()
    return Clock(start_ns, real_ns - now_ns, boot_ns - now_ns)


def _at_once() -> tuple[int, int, int]:
    """Read CLOCK_MONOTONIC, the time of day and CLOCK_BOOTTIME: as of one instant, within some milliseconds."""
    for _ in range(_LOOKS):
        monotonic_ns, real_ns = time.monotonic_ns(), time.time_ns()
        boot_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        if time.monotonic_ns() - monotonic_ns < _SLOW_NS:
            break
    return monotonic_ns, real_ns, boot_ns


class Jump(NamedTuple):
    """A time of day that is not where the last one leads to."""

    kind: str  # "resumed": after a suspend; "clock": it was set
    from_ns: int  # ns since the epoch; of "clock" what it said before
    to_ns: int


_LEAST_JUMP_NS = 10**9  # what is less is a clock that is steered (adjtimex(2)), or a slow look
# Whoever gets no processor between two clocks sees them jump: then it is done again.
_SLOW_NS, _LOOKS = 10**7, 10


def followed(clock: Clock) -> tuple[Clock, list[Jump]]:
    """Look at the clocks again: return the clock as it is now, and how it jumped since then.

    CLOCK_MONOTONIC stands still while the host is suspended, CLOCK_BOOTTIME does not (clock_gettime(2)).
    """
    monotonic_ns, real_ns, boot_ns = _at_once()
    now = Clock(clock.start_ns, real_ns - monotonic_ns, boot_ns - monotonic_ns)
    return now, jumps(clock, now, monotonic_ns)


def jumps(before: Clock, now: Clock, monotonic_ns: int) -> list[Jump]:
    """Say how the time of day jumped between two looks, the later one at that instant."""
    found = []
    slept_ns = now.slept_ns - before.slept_ns
    expected_ns = monotonic_ns + before.epoch_offset_ns
    if slept_ns >= _LEAST_JUMP_NS:
        found.append(Jump("resumed", expected_ns, expected_ns + slept_ns))
        expected_ns += slept_ns
    if abs(monotonic_ns + now.epoch_offset_ns - expected_ns) >= _LEAST_JUMP_NS:
        found.append(Jump("clock", expected_ns, monotonic_ns + now.epoch_offset_ns))
    return found
