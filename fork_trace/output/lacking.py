"""The last lines of a report: where each capture was made, by which way, and what it lacks. Pure."""

from __future__ import annotations

import signal
from collections.abc import Sequence

from fork_trace.diagnosis import makers
from fork_trace.diagnosis.advice import shell
from fork_trace.escape import safe
from fork_trace.model.records import Checkpoint, Header, Mark, Summary
from fork_trace.model.steps import BY_NAME
from fork_trace.output.completeness import MOST_TOLD, Completeness, Several, Unclosed, added
from fork_trace.output.times import rough_span, span
from fork_trace.output.units import count
from fork_trace.output.wording import cut

_MOST_COMMAND = 120  # characters of a command that a capture ran
_MOST_GAPS = 4
_MOST_UNSEEN = 6
_UNREAD_SHOWN = 4  # of what the kernel's BTF lacks
_KINDS = {
    "gap": "not watching",
    "resumed": "suspended",
    "clock": "clock set",
}


def losses(summary: Summary) -> str:
    """Say what the details lack; the counts are exact unless calls were missed."""
    missed = "not reported by this kernel" if summary.missed is None else str(summary.missed)
    if summary.missed:
        # Where two programs see each call: what the one missed that missed less.
        missed = f"at most {missed}"
    parts = [f"lost samples: {summary.lost}", f"missed calls: {missed}"]
    if summary.missed:
        # Programs skipped by the kernel, as other tasks ran them on the same CPU at that moment.
        parts.append("so counts are lower bounds and some causes may be unknown")
    if summary.step_misses:
        parts.append(f"missed steps: {summary.step_misses}, so some causes may be inferred")
    if summary.rate_limited:
        parts.append(f"counted but not sampled (rate limit): {summary.rate_limited}")
    if summary.early:
        parts.append(f"counted before their cause could be read: {summary.early}")
    if summary.without_stack:
        parts.append(f"samples without a stack: {summary.without_stack}")
    if summary.overflowed:
        parts.append(f"counted without their command: {summary.overflowed}")
    if summary.restarted:
        parts.append(f"restarted after a signal, not failures: {summary.restarted}")
    if summary.killed:
        parts.append(f"callers killed during fork: {summary.killed}")
    if summary.filtered:
        parts.append(f"filtered out: {summary.filtered}")
    return "; ".join(parts)


def closing(summaries: Sequence[Summary], headers: Sequence[Header]) -> list[str]:
    """Say of each capture, or of each host if they are many, where it was made and what it lacks."""
    pairs = list(zip(summaries, headers))
    if len(pairs) > MOST_TOLD:
        pairs = _by_host(summaries, headers)
    if len(pairs) > MOST_TOLD:
        pairs = [(added([summary for summary, _ in pairs]), headers[0])]
    found: dict[str, None] = {}
    for summary, header in pairs:
        prefix = f"{safe(header.host)}, " if len(pairs) > 1 else ""
        if isinstance(summary, Several):
            hosts = {each.host for each in headers}
            if len(pairs) == 1 and len(hosts) > 1:
                prefix = f"{len(hosts)} hosts, "
            number = count(summary.captures, "capture", "captures")
            found[f"{prefix}{number}, {span(summary.duration_s)} in all; {losses(summary)}"] = None
            found.update(dict.fromkeys(prefix + each for each in _killed(summary)))
            if summary.unclosed:
                found[f"{prefix}{_unclosed(summary.unclosed)}"] = None
        else:
            found[_of_one(prefix, summary, header)] = None
            found.update(
                dict.fromkeys(prefix + each for each in (*_killed(summary), *_command(summary)))
            )
    unseen = list(dict.fromkeys(each for header in headers for each in _unseen(header)))
    if len(unseen) > _MOST_UNSEEN:
        rest = count(len(unseen) - _MOST_UNSEEN, "more remark", "more remarks")
        unseen[_MOST_UNSEEN:] = [f"... {rest} of the kind; read the captures one by one for all"]
    return [*found, *unseen]


def _by_host(
    summaries: Sequence[Summary], headers: Sequence[Header]
) -> list[tuple[Summary, Header]]:
    by_host: dict[str, tuple[list[Summary], Header]] = {}
    for summary, header in zip(summaries, headers):
        by_host.setdefault(header.host, ([], header))[0].append(summary)
    return [(added(each), header) for each, header in by_host.values()]


def _of_one(prefix: str, summary: Summary, header: Header) -> str:
    way = f"{prefix}{safe(header.kernel)}, {safe(header.attach)} via {safe(header.backend)}"
    if isinstance(summary, Unclosed):
        # Unknown is not none.
        return (
            f"{way}, {rough_span(summary.duration_s)}; {_unclosed(1)}; "
            "what was lost or missed is unknown"
        )
    text = f"{way}, {rough_span(summary.duration_s)}{_days(header, summary)}; {losses(summary)}"
    if isinstance(summary, Checkpoint):
        text += f"; {_unclosed(1)}; these totals are of its last checkpoint, {safe(summary.time)}"
    return text


def _days(header: Header, summary: Summary) -> str:
    """Say from when to when a capture lasted that spans days; "": the times of day tell."""
    if header.time[:10] == summary.time[:10]:
        return ""
    begin, end = (f"{time[:10]} {time[11:19]}Z" for time in (header.time, summary.time))
    return safe(f" from {begin} to {end}")


def _killed(summary: Summary) -> list[str]:
    """Say that processes were killed meanwhile: a fork may have succeeded, and its child ended so."""
    seen = sum(value for value in (summary.deaths or {}).values() if type(value) is int)
    told = []
    if summary.deaths is not None and summary.deaths.get("unknown"):
        lost = count(summary.deaths["unknown"], "process", "processes")
        told.append(
            f"the OOM killer ended {lost} meanwhile of which nothing more is known (see `dmesg`)"
        )
    if (summary.oom_kills or 0) <= seen:
        return told
    killed = count((summary.oom_kills or 0) - seen, "process", "processes")
    killed = killed.replace(" ", " more ", 1) if seen else killed
    return [
        *told,
        f"the OOM killer ended {killed} meanwhile, which is no failed fork (see `dmesg`)",
    ]


def _command(summary: Summary) -> list[str]:
    """Say how the command that a capture ran has ended."""
    command = summary.command
    if not command or not isinstance(command.get("argv"), (list, tuple)):
        return []
    line = cut(safe(" ".join(shell(str(each)) for each in command["argv"])), _MOST_COMMAND)
    return [f"the command {_ended(command.get('status'))}: {line}"]


def _ended(status: object) -> str:
    if not isinstance(status, int):
        return "was still running when the capture ended"
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def _unclosed(number: int) -> str:
    if number == 1:
        return "a capture ended without being closed, so counts are lower bounds"
    return f"{number} captures ended without being closed, so counts are lower bounds"


def _unseen(header: Header) -> list[str]:
    found = []
    unseen = makers.unseen(header.attach)
    if unseen is not None:
        found.append(unseen)
    if header.fallbacks:
        better = header.fallbacks[0]
        way = f"{better.get('attach')} via {better.get('backend')}"
        text = f"not using {way}: {better.get('reason')}"
        found.append(safe(f"{text} (see `fork-trace doctor`)"))
    # Tests that are inline on every kernel are marked in the table; this is about this kernel.
    gaps = [str(gap.get("step")) for gap in header.missing if gap.get("function")]
    if gaps:
        text = f"not observable on this kernel: {', '.join(gaps)}"
        found.append(safe(f"{text} (see `fork-trace doctor`)"))
    unread = [
        str(gap.get("step"))
        for gap in header.missing
        if gap.get("step") not in BY_NAME and not gap.get("function")
    ]
    if unread:
        rest = f" and {len(unread) - _UNREAD_SHOWN} more" if len(unread) > _UNREAD_SHOWN else ""
        text = f"not readable on this kernel: {', '.join(unread[:_UNREAD_SHOWN])}{rest}"
        text += "; counts are exact, some causes and numbers are unknown"
        found.append(safe(f"{text} (see `fork-trace doctor`)"))
    return found


def sentences(completeness: Completeness) -> list[str]:
    """Say when nobody watched, and what else is not in the counts: a gap never looks like calm."""
    found = []
    gaps = completeness.gaps
    for gap in gaps[-_MOST_GAPS:]:
        found.append(_gap(gap))
    more = len(gaps[:-_MOST_GAPS]) + completeness.more_gaps
    if more:
        found.append(
            f"and {count(more, 'earlier gap', 'earlier gaps')}; `--format json` lists them"
        )
    return found + [safe(note) for note in completeness.notes]


def _gap(mark: Mark) -> str:
    kind = _KINDS.get(mark.kind, mark.kind)
    begin, end = (safe(each) if each else "?" for each in (mark.from_, mark.to))
    return f"{kind} on {safe(mark.host)} from {begin} to {end}"
