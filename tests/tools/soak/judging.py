"""What a run must show, and what it did not. Pure: measured numbers in, sentences out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

# Of the run, and at least until every piece of the mix was made once. In it what is remembered of
# programs, processes and cgroups, each up to a number, fills up.
WARM_UP = 0.5
# Above the most of the warm-up: what the allocator does not give back at once.
MOST_GROWTH_KIB = 2048
# Of /proc files, one is open for a moment now and then.
MOST_MORE_FILES = 3
# Nothing of this may happen while so little fails.
_ZERO = ("lost", "overflowed", "untracked", "mismatched")

Made = list[Any]  # command, cause, how many


class Sample(NamedTuple):
    """The tracer that stays, at one moment; its files are those that are no program, map or link."""

    at_s: float
    rss_kib: int
    files: int


class Told(NamedTuple):
    """What one tracer told, from its first record to its exit status."""

    name: str
    status: int
    errors: str
    header: dict[str, Any]
    summary: dict[str, Any]
    records: int
    sampled: int  # failures that its records stand for
    armed_s: float


@dataclass
class Measured:
    """A whole run; the one that stays is the last that came to an end."""

    kernel: str
    is_guest: bool
    seconds: float
    came: list[tuple[Told, list[Made]]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    held: list[int] = field(default_factory=list)  # programs, maps and links of each that came
    left: dict[str, list[str]] = field(default_factory=dict)  # of them, after its end
    not_made: dict[str, str] = field(default_factory=dict)  # pieces of the mix, and why not
    succeeded: dict[str, int] = field(default_factory=dict)
    through_s: float | None = None  # when every piece of the mix had been made; None: it never was

    def add(self, told: Told, made: Sequence[Made]) -> None:
        """Note what a tracer told, and what was made meanwhile."""
        self.came.append((told, list(made)))

    def all_made(self) -> list[Made]:
        """All that the tracers were shown that have ended."""
        return [each for _, made in self.came for each in made]


def findings(measured: Measured, beside: str = "fork_kinds") -> list[str]:
    """Each thing that is not as it must be, in a sentence.

    The command `beside` goes on while tracers come and go, so only the one that stays sees all of it.
    """
    if not measured.came:
        return ["nothing was measured"]
    found: list[str] = []
    last = len(measured.came) - 1
    for number, (told, made) in enumerate(measured.came):
        if told.summary.get("type") != "summary":
            said = told.errors.strip()[-300:]
            found.append(f"{told.name} ended with {told.status} and without a summary: {said}")
            continue
        found += [f"{told.name}: {text}" for text in _of_counts(told, made, beside, number == last)]
        found += [f"{told.name}: {text}" for text in _of_ending(told, number == last)]
    for name, left in measured.left.items():
        if left:
            found.append(f"{name} left in the kernel: {', '.join(left)}")
    return found + list(_of_growth(measured))


def may_miss(header: dict[str, Any]) -> bool:
    """Say whether this kernel preempts a task in a program on a function: then two watch copy_process."""
    return [each["function"] for each in header["attached"]].count("copy_process") > 1


def counted(summary: dict[str, Any]) -> Counter[tuple[str, str]]:
    """The exact totals by command and cause."""
    counts: Counter[tuple[str, str]] = Counter()
    for each in summary["totals"]:
        counts[each["comm"], each["cause"]] += each["count"]
    return counts


def _of_counts(told: Told, made: Sequence[Made], beside: str, is_last: bool) -> Iterable[str]:
    expected: Counter[tuple[str, str]] = Counter()
    for comm, cause, number in made:
        expected[comm, cause] += number
    seen = counted(told.summary)
    missed = told.summary["missed"] or 0
    for key in sorted({*expected, *seen}):
        comm, cause = key
        if comm == beside and not is_last:
            if cause != "rlimit-nproc":
                yield f"{seen[key]} of {comm} were named {cause}"
            continue
        short = expected[key] - seen[key]
        if short and not (may_miss(told.header) and 0 < short <= missed):
            yield f"{comm}, {cause}: {seen[key]} counted, {expected[key]} made"
    if missed and not may_miss(told.header):
        yield f"{missed} calls missed"


def _of_ending(told: Told, is_last: bool) -> Iterable[str]:
    for name in _ZERO:
        if told.summary.get(name):
            yield f"{name}: {told.summary[name]}"
    if told.sampled != told.summary["failures"]:
        yield f"its records stand for {told.sampled} failures, its summary for {told.summary['failures']}"
    # live ends with 0 whatever it saw; capture says whether anything failed.
    expected = 0 if is_last else int(told.summary["failures"] > 0)
    if told.status != expected:
        yield f"it ended with {told.status} in place of {expected}"
    if told.errors.count("\n") > 1 or "Traceback" in told.errors:
        yield f"it said: {told.errors.strip()[-300:]}"


def warm_up_s(measured: Measured) -> float:
    """How long it may grow; the whole run if that was too short to tell."""
    through_s = measured.seconds if measured.through_s is None else measured.through_s
    return max(measured.seconds * WARM_UP, through_s)


def growth(measured: Measured) -> tuple[int, int] | None:
    """How much more the one that stays had after the warm-up than in it: KiB resident, descriptors."""
    until_s = warm_up_s(measured)
    warm = [each for each in measured.samples if each.at_s <= until_s]
    after = [each for each in measured.samples if each.at_s > until_s]
    if not warm or not after:
        return None
    return (
        max(each.rss_kib for each in after) - max(each.rss_kib for each in warm),
        max(each.files for each in after) - max(each.files for each in warm),
    )


def _of_growth(measured: Measured) -> Iterable[str]:
    if not measured.samples:
        yield "the one that stays could not be looked at"
    grown = growth(measured)
    if grown is None or measured.through_s is None:
        return
    kib, files = grown
    if kib > MOST_GROWTH_KIB:
        yield f"the one that stays grew by {kib} KiB after its warm-up; {MOST_GROWTH_KIB} are allowed"
    if files > MOST_MORE_FILES:
        yield f"the one that stays had {files} descriptors more than in its warm-up"
