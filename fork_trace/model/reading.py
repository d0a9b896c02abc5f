"""Captures as they are found: closed, torn, or still being written. Pure: lines in, records out.

Nothing is told that did not happen, and of a capture that was not closed everything is told that its
lines prove: it is a lower bound.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from typing import Any

from fork_trace.errors import ForkTraceError
from fork_trace.model.dataclass import dataclass
from fork_trace.model.records import (
    INCIDENTS,
    VERSION,
    Checkpoint,
    Failure,
    Forks,
    Header,
    Record,
    Summary,
    from_json,
    to_json,
)

_GIVE = "Give a file that `fork-trace capture --output` or `fork-trace record` wrote."
_MOST_COMMANDS = 4096  # of one capture, counted apart to be compared with its totals
_WHOSE = ("comm", "uid", "cgroup", "syscall", "creates", "errno", "step", "certainty")


@dataclass(frozen=True)
class Ending:
    """How one capture in a file ended."""

    header: Header
    # A Checkpoint is the last one of a capture that was not closed; None: it had none either.
    summary: Summary | None
    unreadable: int  # lines that are no records: torn, or overwritten
    # Failures that the totals count and no record tells of: as many, with what the totals know.
    uncounted: tuple[Failure, ...]
    last_time: str  # of the last record that has a time
    is_of_latency: bool = False  # it has no failures: `latency` wrote it, to its end

    @property
    def is_closed(self) -> bool:
        """Say whether the totals are those of the whole run."""
        return self.summary is not None and not isinstance(self.summary, Checkpoint)


class _Capture:
    """One capture while it is read: what its records count, to be compared with its totals."""

    def __init__(self, header: Header) -> None:
        self._header = header
        self._last: Summary | None = None
        self._last_time, self._last_ns = header.time, 0
        self._failures = 0
        self._by_cause: Counter[str] = Counter()
        self._by_command: Counter[tuple[str, str | None]] = Counter()
        self.unreadable = 0
        self._is_of_latency = False
        self._has_incidents = False

    def take(self, record: Record) -> None:
        if isinstance(record, Failure):
            self._failures += record.count
            self._by_cause[record.cause] += record.count
            key = (record.cause, record.comm)
            if len(self._by_command) < _MOST_COMMANDS or key in self._by_command:
                self._by_command[key] += record.count
            self._last_ns = record.time_ns
        elif isinstance(record, Summary):
            self._last = record
        elif isinstance(record, Forks):
            self._is_of_latency = True
        elif isinstance(record, INCIDENTS):
            self._has_incidents = True
        if not isinstance(record, Header):
            self._last_time = record.time

    def ending(self) -> Ending:
        return Ending(
            self._header,
            self._last,
            self.unreadable,
            tuple(self._uncounted()) if self._last else (),
            self._last_time,
            self._is_of_latency and not (self._failures or self._has_incidents or self._last),
        )

    def _uncounted(self) -> Iterator[Failure]:
        """Yield what the totals count beyond the records; never more in all than they lack.

        Records can follow a checkpoint, and a failure that was under way at that moment is in one of
        them: so totals and records are compared, and not added.
        """
        last = self._last
        assert last is not None
        left = last.failures - self._failures
        for total in last.totals if left > 0 else ():
            cause, comm, number = total.get("cause"), total.get("comm"), total.get("count")
            if not isinstance(cause, str) or type(number) is not int:
                continue
            comm = comm if isinstance(comm, str) else None
            known = self._by_command[cause, comm]
            self._by_command[cause, comm] = max(0, known - number)
            missing = last.causes.get(cause, 0)
            lacks = missing - self._by_cause[cause] if type(missing) is int else 0
            number = min(number - known, lacks, left)
            if number > 0:
                failure = self._failure(total, cause, number)
                if failure is not None:
                    left -= number
                    self._by_cause[cause] += number
                    yield failure
        for cause, number in last.causes.items() if left > 0 else ():
            number = number - self._by_cause[cause] if type(number) is int else 0
            number = min(number, left)
            if number > 0:
                failure = self._failure({}, cause, number)
                if failure is not None:
                    left -= number
                    yield failure
        if left > 0:
            failure = self._failure({}, "unknown", left)
            if failure is not None:
                yield failure

    def _failure(self, total: dict[str, Any], cause: str, count: int) -> Failure | None:
        """Return the record that there would have been; None: the totals are not what we wrote."""
        assert self._last is not None
        values: dict[str, Any] = {item.name: None for item in fields(Failure)}
        values.update({name: total.get(name) for name in _WHOSE})
        lists = ("flags", "evidence", "stack", "advice", "alternatives", "possible_steps")
        values.update(dict.fromkeys(lists, ()))
        values.update(
            time=self._last.time,
            time_ns=self._last_ns,
            count=count,
            cause=cause,
            step=total.get("step", "copy_process"),
            certainty=total.get("certainty", "inferred"),
            frames_omitted=0,
        )
        try:
            read = from_json(to_json(Failure(**values)))
        except (ValueError, TypeError, RecursionError):
            return None
        return read if isinstance(read, Failure) else None


def read(
    name: str,
    lines: Iterable[bytes],
    seen: set[int] | None = None,
    parse: Callable[[bytes], Record] = from_json,
) -> Iterator[Record | Ending]:
    """Read the captures of a file, each from its header to its Ending; ForkTraceError if it is none.

    What is torn is skipped. Those whose headers are `seen` were read before and are passed over; new
    ones are added to it.
    """
    capture: _Capture | None = None
    number = 0
    is_known = False
    for number, line in enumerate(lines, 1):
        try:
            record = parse(line)
        except (ValueError, TypeError, RecursionError) as error:
            if number == 1:
                raise _no_capture(name, line, error) from None
            if capture:
                capture.unreadable += 1
            continue
        if isinstance(record, Header):
            if record.version > VERSION:
                raise ForkTraceError(
                    f"{name}: written by a newer fork-trace (format {record.version}, this one "
                    f"reads up to {VERSION})",
                    "Read it with the version that wrote it, or newer.",
                )
            if capture:
                yield capture.ending()
            capture = None
            is_known = seen is not None and hash(line.rstrip()) in seen
            if is_known:
                continue
            if seen is not None:
                seen.add(hash(line.rstrip()))
            capture = _Capture(record)
        elif number == 1:
            raise ForkTraceError(
                f"{name}: the first record is no header, so this is not a capture", _GIVE
            )
        if capture:
            capture.take(record)
            yield record
    if number == 0:
        raise ForkTraceError(f"{name} is empty: no capture was written to it", _GIVE)
    if capture:
        yield capture.ending()


def _no_capture(name: str, line: bytes, error: Exception) -> ForkTraceError:
    if not line.endswith(b"\n") and line.startswith(b"{"):
        return ForkTraceError(
            f"{name} is cut off within its first record: nothing of it can be read",
            "Look for other captures of that time.",
        )
    if isinstance(error, UnicodeDecodeError):
        return ForkTraceError(f"{name} is not a capture: it is not text", _GIVE)
    return ForkTraceError(f"{name}: line 1 is not a record of a capture: {_short(error)}", _GIVE)


def _short(error: BaseException) -> str:
    text = str(error)
    return text if len(text) <= 120 else text[:117] + "..."
