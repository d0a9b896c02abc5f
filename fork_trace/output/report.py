"""What a report says: the verdict, each cause with its numbers and advice, and what is missing.

Pure: counted failures in, sentences out, every name in them harmless. How a table is drawn is `tables`',
other formats are `formats`', the screen of `live` is `screen`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fork_trace.diagnosis.evidence import counted_limit
from fork_trace.escape import safe
from fork_trace.model.records import CONFIRMED, UNCONFIRMED, Frame, Header, Summary
from fork_trace.output import tables, times
from fork_trace.output.aggregate import Row, Table
from fork_trace.output.lacking import closing, sentences
from fork_trace.output.place import Key, first_of
from fork_trace.output.report_options import PLAIN, ReportOptions
from fork_trace.output.telling import tell_all, worst_command
from fork_trace.output.units import count, short
from fork_trace.output.unwatched import BY_TRACEPOINT, LOOK_UP, unwatched
from fork_trace.output.wording import WIDTH, Remedy, columns, cut, middle, wrap

_LEAST_PLACE, _GOOD_PLACE = 12, 24
_WIDEST_TEXT = 110  # longer lines are hard to read


def verdict(
    counted: Table,
    duration_s: float | None,
    hosts: Sequence[str] = (),
    width: int | None = WIDTH,
    outside: str = "",
) -> str:
    """Say the result in one line of this width, worst first; None: however long it gets.

    `outside` tells of failures that a filter hides.
    """
    span = "" if duration_s is None else f" in {times.rough_span(duration_s)}"
    on = f" on {len(hosts)} hosts" if len(hosts) > 1 else ""
    least = "at least " if counted.completeness.is_lower_bound else ""
    if not counted.failures:
        end = outside or "."
        others = counted.completeness.others
        if others:
            other = count(others, "other was", "others were")
            return f"No failure matches; {other} recorded{on}{end}"
        if duration_s is None and not hosts:
            return "No failures were looked for in what was recorded."
        if least:
            return f"No fork failed{on} as far as it was recorded; the captures are incomplete{end}"
        return f"No fork failed{on}{span}{end}"
    found = counted.places()
    worst, first = found[0], first_of(found[0].sample)
    number = count(len(counted.causes), "cause", "causes")
    number += f", {least}{count(counted.failures, 'failure', 'failures')}{on}"
    at = f" at {len(found)} places" if len(found) > len(counted.causes) else ""
    who = f"; worst: {worst_command(worst)}"
    if len(hosts) > 1:
        who += f" on {safe(worst.key.host or '?')}"
    limit, place, before = f": {safe(worst.key.cause)}", "", ""
    if first is not None:
        most = counted_limit(first)
        if most is not None:
            numbers = f"{short(first.value, first.unit)}/{short(most, first.unit)}"
            limit = f" at {safe(first.name)} {numbers}"
        before, place = _place(worst.key)
    limit += outside
    if width is None:
        return f"{number}{at}{span}{who}{before}{place}{limit}"
    wanted = min(columns(place), _GOOD_PLACE)
    # How long it watched is said in the last lines as well, and the places below.
    for optional in ("span", "at"):
        if width - columns(number + at + span + who + before + limit) < wanted:
            span, at = ("", at) if optional == "span" else (span, "")
    room = width - columns(number + at + span + who + before + limit)
    if place.startswith("/") and room >= _LEAST_PLACE:
        place = middle(place, room)
    elif columns(place) > room:
        before = place = ""
    who = cut(who, max(_LEAST_PLACE, width - columns(number + at + span + before + place + limit)))
    text = f"{number}{at}{span}{who}{before}{place}{limit}"
    # A cut cause would be another one.
    for start in (number, least + count(counted.failures, "failure", "failures")):
        if columns(text) > width:
            text = f"{start}; worst: {safe(worst.key.cause)}"
    return cut(text if columns(text) <= width else f"worst: {safe(worst.key.cause)}", width)


def _place(key: Key) -> tuple[str, str]:
    """Name the pool that ran out, after its preposition: a cgroup, a user, a pid namespace."""
    where = safe(key.where or "")
    if key.kind == "cgroup":
        is_path = where.startswith("cgroup /")
        return " in ", where.partition(" ")[2] if is_path else where
    if key.kind == "user":
        return " of ", where.partition(",")[0]
    if key.kind == "pid namespace":
        return " in ", where.partition(" (")[0]
    return "", ""  # the host's own, or the process': it is told by the name of the limit


def outside(summaries: Sequence[Summary], headers: Sequence[Header]) -> str:
    """Say in the headline that there were failures which a filter hides; "": there were none."""
    number = sum(summary.filtered for summary in summaries)
    if not number:
        return ""
    given = dict.fromkeys(_filter(header) for header in headers if header.filter)
    named = f" ({'; '.join(given)})" if given else ""
    return f"; {count(number, 'failure', 'failures')} outside the filter{named}"


def beside(headlines: Sequence[str]) -> str:
    """Say in a sentence what was seen beside refused forks; "": nothing was."""
    return f"Besides, {'; '.join(headlines)}." if headlines else ""


def _filter(header: Header) -> str:
    return safe(
        " ".join(f"--{name.replace('_id', ' id')} {value}" for name, value in header.filter.items())
    )


def elsewhere(counted: Table, headers: Sequence[Header]) -> list[Remedy]:
    """Say of no failure where else one can be; nothing where failures were recorded that do not match."""
    if counted.completeness.others:
        return []
    # What tracepoints do not see is in the last lines of every report.
    found = [each for each in unwatched(headers) if each.sentence != BY_TRACEPOINT.text]
    return [*found, LOOK_UP]


def hosts_of(headers: Iterable[Header]) -> list[str]:
    """Name the hosts that captures are of, each once."""
    return sorted({header.host for header in headers})


def longest(summaries: Iterable[Summary]) -> float | None:
    """Return how long the longest capture took; None: there is none."""
    return max((summary.duration_s for summary in summaries), default=None)


_READ_LATER = {
    CONFIRMED: "read from the process later, confirmed by its registers or stack at the failure",
    UNCONFIRMED: "read from the process later, unconfirmed: its caller at the failure may be another",
}


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
            lines += wrap(f"#{number:<2} {frame_text(frame)}", "  ", "      ")
            if frame.symbol is None and frame.file is not None and frame.build_id is not None:
                lines.append(f"      build id {safe(frame.build_id)}")
            if frame.read_later is not None:
                lines += wrap(_READ_LATER[frame.read_later], "      ", "      ")
            if frame.note is not None:
                lines += wrap(safe(frame.note), "      ", "      ")
        if sample.frames_omitted:
            omitted = count(sample.frames_omitted, "frame", "frames")
            lines.append(f"  ... {omitted} further out were left out")
    return lines


def frame_text(frame: Frame) -> str:
    """Write one frame: its function or address, and the file with the offset in it."""
    name = safe(frame.symbol) if frame.symbol is not None else f"{frame.address:#x}"
    if frame.line is not None:
        return f"{name} at {safe(frame.file or '?')}:{frame.line}"
    if frame.file is not None:
        offset = "" if frame.offset is None else f"+{frame.offset:#x}"
        return f"{name} in {safe(frame.file)}{offset}"
    if frame.build_id is not None:
        return f"{name} in a file of build id {safe(frame.build_id)}"
    return name


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
    width = options.width or WIDTH + tables.TIMES_WIDTH * options.times
    drawn = tables.rows(rows, counted.by, options.times, width, has_days=counted.spans_days())
    lines = [*drawn.splitlines(), *rest]
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
    width = min(options.width or WIDTH, _WIDEST_TEXT)
    hidden = outside(summaries, headers)
    besides = counted.incidents.headlines()
    if counted.failures:
        lines = [verdict(counted, longest(summaries), hosts, options.width or WIDTH)]
        # Beside the worst it would have no room.
        lines += wrap(f"{hidden[2:]}: not shown", "", "  ", width) if hidden else []
        lines += wrap(beside(besides), "", "  ", width)
        lines += ["", *table(counted, options)]
        if options.stacks:
            lines += stacks(shown(counted, options)[0])
        told = tell_all(counted, hosts)
    else:
        lines = wrap(verdict(counted, longest(summaries), hosts, None, hidden), "", "  ", width)
        lines += wrap(beside(besides), "", "  ", width)
        found = [] if besides else elsewhere(counted, headers)
        lines += ["", *wrap(NOTHING, "", "  ", width)] if found else []
        for remedy in found:
            lines += remedy.lines(width, "  - ", "    ")
        told = []
    for each in (*told, *counted.incidents.told(len(hosts) > 1)):
        lines += ["", *each.lines(width)]
    lines.append("")
    for sentence in (*closing(summaries, headers), *sentences(counted.completeness)):
        lines += wrap(sentence, "", "  ", width)
    return "\n".join(lines) + "\n"


NOTHING = (
    "If a program says that it failed all the same, it can be something that is not watched here:"
)
