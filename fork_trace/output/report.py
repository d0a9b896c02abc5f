"""What a report says: the verdict, each cause with its numbers and advice, and what is missing.

Pure: counted failures in, sentences out, every name in them harmless. How a table is drawn is `tables`',
other formats are `formats`', the screen of `live` is `screen`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fork_trace.diagnosis import makers
from fork_trace.diagnosis.advice import advise, means
from fork_trace.escape import safe
from fork_trace.model.records import Advice, Evidence, Failure, Header, Summary
from fork_trace.output import tables
from fork_trace.output.aggregate import Group, Row, Table
from fork_trace.output.lacking import closing, sentences
from fork_trace.output.report_options import MANY_HOSTS, PLAIN, ReportOptions
from fork_trace.output.units import amount, count, short
from fork_trace.output.wording import WIDTH, advised, columns, cut, held, middle, wrap

_CGROUPS = "/sys/fs/cgroup/"
_LEAST_PLACE, _GOOD_PLACE = 12, 24
# Advice differs from host to host; of more than so many one line must do.
_MOST_HOSTS = 3


@dataclass(frozen=True)
class Told:
    """One cause in sentences; all but the title are to be indented under it."""

    title: str
    facts: tuple[str, ...]  # how often and how it is known, the numbers, who holds the pool
    advice: tuple[str, ...]

    def lines(self, width: int = WIDTH) -> list[str]:
        """Write it as lines, the advice marked with arrows."""
        lines = wrap(self.title, "", "  ", width)
        for fact in self.facts:
            lines += wrap(fact, "  ", "    ", width)
        for sentence in self.advice:
            lines += wrap(sentence, "  -> ", "     ", width)
        return lines


_MOST_OTHERS = 3  # users and cgroups
# bpf/logic.h, ft_count: FT_STAT_OVERFLOWED. Else the user's commands alone had no room.
_NO_ROOM = "unknown: more commands failed than can be tracked; the rest are counted by step only"


def tell(cause: str, latest: Failure, number: int, on: str | None = None) -> Told:
    """Explain one cause by its latest failure; `on` is its host, where several are told of."""
    if latest.comm is None and latest.errno is None:
        return Told(_NO_ROOM, (f"{number} x rejected in {safe(latest.step)}",), ())
    if latest.certainty == "observed":
        where = f"rejected by {safe(latest.function or latest.step)} (observed)"
    elif latest.step == "copy_process":
        where = _somewhere(latest.possible_steps)
    else:
        where = f"inferred at {safe(latest.step)} from kernel state"
    host = "" if on is None else f" on {safe(on)}"
    facts = [
        f"{number} x {safe(latest.errno or '?')}{host}, {where}; last: {_last(latest)}, "
        f"cgroup {safe(latest.cgroup or '?')}"
    ]
    made = makers.told(latest.maker) if latest.maker is not None else None
    if made is not None:
        facts.append(f"{safe(made)}.")
    if latest.alternatives:
        facts.append(f"Also possible: {', '.join(map(safe, latest.alternatives))}.")
    facts += [_sentence(item) for item in latest.evidence]
    facts += _holders(latest)
    title = f"{safe(cause)}: {means(cause)}"
    return Told(title, tuple(facts), tuple(safe(advised(each)) for each in advice_of(latest)))


def advice_of(failure: Failure) -> tuple[Advice, ...]:
    """Return what to do; a recorder's records leave it to the reader, for it follows from the rest."""
    if failure.advice or failure.comm is None:
        return failure.advice
    return advise(failure.cause, failure.evidence, failure.uid, failure.cgroup, failure.pid)


_MOST_STEPS = 6  # more than that say no more than their number


def _somewhere(steps: Sequence[str]) -> str:
    if not steps:
        return "rejected somewhere in copy_process"
    if len(steps) > _MOST_STEPS:
        return f"rejected in one of {len(steps)} steps of copy_process"
    *rest, last = map(safe, steps)
    return f"rejected in {', '.join(rest)} or {last}"


def _several(latest: Failure) -> str:
    if latest.uid is None:
        return "several commands" if latest.errno else "?"
    return f"several commands of uid {latest.uid}"


def _last(latest: Failure) -> str:
    if latest.comm is None:
        return _several(latest)
    pid = "?" if latest.pid is None else latest.pid
    return f"{safe(latest.comm)}[{pid}] {safe(latest.syscall or '?')}"


def tell_briefly(cause: str, latest: Failure) -> Told:
    """Say of a cause only what it means, the deciding number, who holds it, and what mitigates it."""
    facts = [_sentence(item) for item in latest.evidence[:1]]
    advice = advice_of(latest)
    mitigations = [each for each in advice if each.kind == "mitigate"]
    return Told(
        f"{safe(cause)}: {means(cause)}",
        (*facts, *_holders(latest)),
        tuple(safe(advised(each)) for each in (mitigations or advice)[:1]),
    )


def tell_in_a_line(cause: str, width: int) -> str:
    """Say of a cause only what it means, in one line; its numbers are in the table."""
    return cut(f"{safe(cause)}: {means(cause).partition(';')[0]}", width)


def _holders(failure: Failure) -> list[str]:
    if failure.holders is None:
        return []
    value = failure.evidence[0].value if failure.evidence else None
    return [held(failure.holders, failure.holders_total, value)]


# Units of what has no number: a rule that was broken, and why a number is missing.
_NO_NUMBER = ("rule", "not read")


def _sentence(evidence: Evidence) -> str:
    if evidence.value is None and evidence.unit in _NO_NUMBER:
        words = "" if evidence.unit == "rule" else f"{evidence.unit}, "
        return f"{safe(evidence.name)}: {words}{safe(evidence.where)}"
    text = f"{safe(evidence.name)}: {amount(evidence.value, evidence.unit)}"
    if evidence.limit is not None:
        text += f" of {amount(evidence.limit, evidence.unit)}"
    if evidence.unit not in ("KiB", "mode"):
        text += f" {safe(evidence.unit)}"
    if evidence.name == "vm.overcommit_memory":
        return text
    return f"{text}, {safe(evidence.where)}"


def tell_all(counted: Table, hosts: Sequence[str]) -> list[Told]:
    """Explain every cause, most failures first; of several hosts for each that has most of it."""
    told = []
    most = _MOST_HOSTS if len(hosts) <= MANY_HOSTS else 1
    for cause in [cause for cause, _ in counted.causes.most_common()]:
        found = counted.hosts(cause)
        if len(hosts) < 2:
            only = tell(cause, found[0][1].latest, counted.causes[cause])
            told.append(Told(only.title, (*only.facts, *_others(counted, cause)), only.advice))
            continue
        blocks = [tell(cause, each.latest, each.count, on or "?") for on, each in found]
        facts: list[str] = []
        if len(found) > most:
            facts.append(f"also on {_names(found[most:])}; `--by host,cause` shows the counts")
        first, *others = blocks[:most]
        facts += first.facts
        told.append(Told(first.title, (*facts, *_others(counted, cause)), first.advice))
        title = first.title.partition(":")[0]
        for (on, _), block in zip(found[1:], others):
            told.append(Told(f"{title} on {safe(on or '?')}", block.facts, block.advice))
    return told


def _others(counted: Table, cause: str) -> list[str]:
    """Say whose the failures are that were counted without their command."""
    return [
        f"{each.count} x {_several(each.latest)}, cgroup {safe(each.latest.cgroup or '?')}"
        for each in counted.others(cause)[:_MOST_OTHERS]
        if each.latest.errno is not None
    ]


def _names(found: Sequence[tuple[str | None, Group]]) -> str:
    names = [f"{safe(on or '?')} ({group.count})" for on, group in found[:_MOST_HOSTS]]
    rest = found[_MOST_HOSTS:]
    return ", ".join(names) + (
        f" and {count(len(rest), 'more host', 'more hosts')}" if rest else ""
    )


def verdict(
    counted: Table, duration_s: float | None, hosts: Sequence[str] = (), width: int | None = WIDTH
) -> str:
    """Say the result in one line of this width, worst first; None: however long it gets."""
    span = f" in {duration_s:.0f} s" if duration_s is not None else ""
    on = f" on {len(hosts)} hosts" if len(hosts) > 1 else ""
    least = "at least " if counted.completeness.is_lower_bound else ""
    if not counted.failures:
        others = counted.completeness.others
        if others:
            return f"No failure matches; {count(others, 'other was', 'others were')} recorded{on}."
        if least:
            return f"No fork failed{on} as far as it was recorded; the captures are incomplete."
        return f"No fork failed{on}{span}."
    host, group = counted.worst()
    worst = group.latest
    number = count(len(counted.causes), "cause", "causes")
    number += f", {least}{count(counted.failures, 'failure', 'failures')}{on}"
    who = f"; worst: {_several(worst) if worst.comm is None else safe(worst.comm)}"
    if len(hosts) > 1:
        who += f" on {safe(host or '?')}"
    limit, place, before = f": {safe(worst.cause)}", "", ""
    if worst.evidence:
        first = worst.evidence[0]
        if first.limit is not None:
            numbers = f"{short(first.value, first.unit)}/{short(first.limit, first.unit)}"
            limit = f" at {safe(first.name)} {numbers}"
        before, place = _place(first, worst)
    if width is None:
        return f"{number}{span}{who}{before}{place}{limit}"
    room = width - columns(number + span + who + before + limit)
    if room < min(columns(place), _GOOD_PLACE):
        # How long it watched is said in the last lines as well.
        room += columns(span)
        span = ""
    if place.startswith("/") and room >= _LEAST_PLACE:
        place = middle(place, room)
    elif columns(place) > room:
        before = place = ""
    who = cut(who, max(_LEAST_PLACE, width - columns(number + span + before + place + limit)))
    text = f"{number}{span}{who}{before}{place}{limit}"
    # A cut cause would be another one.
    for start in (number, least + count(counted.failures, "failure", "failures")):
        if columns(text) > width:
            text = f"{start}; worst: {safe(worst.cause)}"
    return cut(text if columns(text) <= width else f"worst: {safe(worst.cause)}", width)


def _place(evidence: Evidence, failure: Failure) -> tuple[str, str]:
    """Name the pool that ran out, after its preposition: a cgroup, a user, a pid namespace."""
    where = safe(evidence.where)
    if where.startswith("/"):
        own = safe(failure.cgroup or "")
        if len(own) > 1 and where.endswith(own):
            return " in ", own
        return " in ", "/" + where[len(_CGROUPS) :] if where.startswith(_CGROUPS) else where
    if where.startswith("uid "):
        return " of ", where.partition(",")[0]
    if where.startswith(("cgroup id ", "pid namespace ")):
        return " in ", where.partition(",")[0].partition(" (")[0]
    return "", ""  # the host's own, or the process': it is told by the name of the limit


def hosts_of(headers: Iterable[Header]) -> list[str]:
    """Name the hosts that captures are of, each once."""
    return sorted({header.host for header in headers})


def longest(summaries: Iterable[Summary]) -> float | None:
    """Return how long the longest capture took; None: there is none."""
    return max((summary.duration_s for summary in summaries), default=None)


def stacks(rows: Iterable[Row]) -> list[str]:
    """Write the whole stack of each row's latest sample, innermost frame first."""
    lines = []
    for row in rows:
        names = ", ".join(safe(value or "?") for value in row.key)
        sample = row.sample
        lines += ["", *wrap(f"{row.count} x {names}", "", "  ")]
        if sample is None:
            lines.append("  no stack was sampled")
            continue
        if sample.stack_by == "frame-pointers":
            lines.append("  unwound by frame pointers only: callers without them are missing")
        for number, frame in enumerate(sample.stack):
            where = ""
            if frame.file is not None:
                where = f" in {safe(frame.file)}"
                where += "" if frame.offset is None else f"+{frame.offset:#x}"
            elif frame.build_id is not None:
                where = f" in a file of build id {safe(frame.build_id)}"
            name = safe(frame.symbol) if frame.symbol is not None else f"{frame.address:#x}"
            lines += wrap(f"#{number:<2} {name}{where}", "  ", "      ")
            if frame.symbol is None and frame.file is not None and frame.build_id is not None:
                lines.append(f"      build id {safe(frame.build_id)}")
            if frame.note is not None:
                lines += wrap(safe(frame.note), "      ", "      ")
        if sample.frames_omitted:
            omitted = count(sample.frames_omitted, "frame", "frames")
            lines.append(f"  ... {omitted} further out were left out")
    return lines


def shown(counted: Table, options: ReportOptions = PLAIN) -> tuple[list[Row], list[str]]:
    """Return the rows that are shown, and a line that says how many are not."""
    rows = counted.rows()
    rest = rows[options.rows :] if options.rows else []
    if not rest:
        return rows, []
    return rows[: options.rows], [f"{others(rest)}; `--rows 0` shows all"]


def others(rest: Sequence[Row]) -> str:
    """Say how many rows are not shown, and how many failures are in them."""
    failures = count(sum(row.count for row in rest), "failure", "failures")
    return f"... {count(len(rest), 'more row', 'more rows')} with {failures}"


def table(counted: Table, options: ReportOptions = PLAIN) -> list[str]:
    """Write the table, what it leaves out, and what its asterisk means."""
    rows, rest = shown(counted, options)
    width = WIDTH + tables.TIMES_WIDTH * options.times
    lines = [*tables.rows(rows, counted.by, options.times, width).splitlines(), *rest]
    if "cause" in counted.by and any(map(tables.is_inferred, rows)):
        lines.append(tables.INFERRED)
    return lines


def text(
    counted: Table,
    summaries: Sequence[Summary],
    headers: Sequence[Header],
    options: ReportOptions = PLAIN,
) -> str:
    """Write the whole report for people: verdict, table, each cause with numbers and advice, losses."""
    hosts = hosts_of(headers)
    lines = [verdict(counted, longest(summaries), hosts)]
    if counted.failures:
        lines += ["", *table(counted, options)]
        if options.stacks:
            lines += stacks(shown(counted, options)[0])
        for told in tell_all(counted, hosts):
            lines += ["", *told.lines()]
    lines.append("")
    for sentence in (*closing(summaries, headers), *sentences(counted.completeness)):
        lines += wrap(sentence, "", "  ")
    return "\n".join(lines) + "\n"
