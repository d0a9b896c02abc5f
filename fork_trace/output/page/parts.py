"""The parts of a page as plain values: texts in which every name is harmless, and numbers. Pure."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from fork_trace.escape import cut, safe
from fork_trace.model.records import Header, Mark, Summary
from fork_trace.output import report, times
from fork_trace.output.aggregate import Table
from fork_trace.output.page.archive import Archive
from fork_trace.output.page.gathered import Gathered
from fork_trace.output.page.timeline import Timeline
from fork_trace.output.units import count

COLORS = 8  # of causes; page.css has as many, and one for all others
_MOST_STACKS = 200
_MOST_CAPTURES = 200
_MOST_TEXT = 300  # characters of a record of another type
_SHOWN = (
    "type",
    "time",
    "host",
    "cause",
    "certainty",
    "comm",
    "pid",
    "cgroup",
    "count",
    "total_ms",
)


def instant(time_ns: int | None) -> dict[str, str] | None:
    """Return an instant for machines and for people, both in UTC; None: there is none."""
    if time_ns is None:
        return None
    machine = times.moment(time_ns)
    return {"iso": machine, "text": times.clock(time_ns, has_day=True)}


def timeline(line: Timeline, counted: Table) -> dict[str, Any] | None:
    """Return the picture of when failures were: stacked bars in a box of 100 units height; None: nothing to draw."""
    intervals = list(line.intervals())
    if not intervals:
        return None
    ranks = {cause: n for n, (cause, _) in enumerate(counted.causes.most_common(COLORS))}
    peak = max(sum(causes.values()) for _, causes in intervals)
    bars = [
        bar
        for number, (begin_ns, causes) in enumerate(intervals)
        for bar in _column(number, begin_ns, causes, peak, ranks)
    ]
    begin_ns, end_ns = intervals[0][0], intervals[-1][0] + line.width_ns
    rest = sum(number for cause, number in counted.causes.items() if cause not in ranks)
    legend = [
        {"cause": safe(cause), "count": counted.causes[cause], "color": f"c{rank}"}
        for cause, rank in ranks.items()
    ]
    legend += [{"cause": "other causes", "count": rest, "color": "rest"}] if rest else []
    return {
        "width": len(intervals) * 10,
        "bars": bars,
        "gaps": _gaps(counted.completeness.gaps, begin_ns, end_ns, len(intervals) * 10),
        "legend": legend,
        "peak": f"peak: {count(peak, 'failure', 'failures')} in {_span(line.width_ns)}",
        "begin": instant(begin_ns),
        "middle": instant((begin_ns + end_ns) // 2),
        "end": instant(end_ns),
        "untimed": line.untimed,
        "spread": line.spread,
    }


def _column(
    number: int, begin_ns: int, causes: Counter[str], peak: int, ranks: dict[str, int]
) -> list[dict[str, Any]]:
    bars, base = [], 100.0
    for cause, failures in sorted(causes.items(), key=lambda item: ranks.get(item[0], COLORS)):
        if not failures:
            continue
        height = 100.0 * failures / peak
        base -= height
        bars.append(
            {
                "x": number * 10,
                "y": f"{base:.2f}",
                "height": f"{height:.2f}",
                "color": f"c{ranks[cause]}" if cause in ranks else "rest",
                "title": f"{times.moment(begin_ns)}: {failures} {safe(cause)}",
            }
        )
    return bars


def _span(width_ns: int) -> str:
    return f"{width_ns / 1e9:.3g} s" if width_ns < 60 * 10**9 else times.span(width_ns / 1e9)


def _gaps(gaps: Sequence[Mark], begin_ns: int, end_ns: int, width: int) -> list[dict[str, Any]]:
    """Return where nobody watched, or as much of it as is in the picture."""
    found = []
    for gap in gaps:
        first, last = (_ns(each) for each in (gap.from_, gap.to))
        if gap.kind != "gap" or first is None or last is None:
            continue
        first, last = max(first, begin_ns), min(last, end_ns)
        if first < last:
            scale = width / (end_ns - begin_ns)
            title = f"not watching on {safe(gap.host)} from {gap.from_} to {gap.to}"
            x, wide = (first - begin_ns) * scale, (last - first) * scale
            found.append({"x": f"{x:.1f}", "width": f"{wide:.1f}", "title": safe(title)})
    return found


def _ns(text: str | None) -> int | None:
    try:
        when = datetime.fromisoformat((text or "").replace("Z", "+00:00"))
        return round(when.astimezone(timezone.utc).timestamp() * 1e9)
    except (ValueError, OverflowError):
        return None


def stacks(kept: Gathered, names_host: bool) -> dict[str, Any]:
    """Return the stacks, those of most failures first."""
    found = sorted(kept.stacks.values(), key=lambda each: -each.count)
    shown = []
    for each in found[:_MOST_STACKS]:
        sample = each.sample
        title = f"{safe(sample.comm or '?')}: {safe(sample.caller or '?')}, {safe(sample.cause)}"
        if names_host:
            title += f", {', '.join(map(safe, each.hosts))}"
        frames = [f"#{n:<2} {report.frame_text(frame)}" for n, frame in enumerate(sample.stack)]
        if sample.stack_by == "frame-pointers":
            frames.insert(0, "unwound by frame pointers only: callers without them are missing")
        if sample.frames_omitted:
            frames.append(
                f"... {count(sample.frames_omitted, 'more frame', 'more frames')} further out"
            )
        shown.append({"count": each.count, "title": title, "frames": frames})
    rest = sum(each.count for each in found[_MOST_STACKS:]) + kept.without_stack
    return {"shown": shown, "rest": rest}


def captures(headers: Sequence[Header], summaries: Sequence[Summary]) -> dict[str, Any]:
    """Return where each capture was made, and by what."""
    shown = [
        {
            "host": safe(header.host),
            "kernel": safe(header.kernel),
            "machine": safe(header.machine),
            "tool": safe(header.tool),
            "way": f"{safe(header.attach)} via {safe(header.backend)}",
            "time": {
                "iso": safe(header.time),
                "text": safe(header.time[:19].replace("T", " ") + "Z"),
            },
            "duration": times.rough_span(summary.duration_s),
            "failures": summary.failures,
            "lost": "?" if getattr(summary, "ended", "") == "unclosed" else summary.lost,
            "missed": "?" if summary.missed is None else summary.missed,
            "ended": safe(summary.ended),
        }
        for header, summary in zip(headers[:_MOST_CAPTURES], summaries)
    ]
    return {"shown": shown, "rest": max(0, len(headers) - _MOST_CAPTURES)}


def others(kept: Gathered) -> dict[str, Any]:
    """Return records of types that this page has no part for: their plain values in a line each."""
    shown = []
    for values in kept.others:
        order = [name for name in _SHOWN if name in values]
        order += [name for name in values if name not in _SHOWN]
        told = [
            f"{safe(str(name))} {safe(str(values[name]))}"
            for name in order
            if name != "type" and values[name] is not None
        ]
        shown.append(
            {"type": safe(str(values.get("type"))), "text": cut("; ".join(told), _MOST_TEXT)}
        )
    return {"shown": shown, "rest": kept.more_others}


def download(archive: Archive) -> dict[str, Any] | None:
    """Return the records as a file to be saved; None: there are none."""
    packed = archive.packed()
    if not packed:
        return None
    return {
        "data": base64.b64encode(packed).decode(),
        "size": f"{max(1, len(packed) >> 10)} KiB",
        "kept": archive.kept,
        "left_out": archive.left_out,
    }
