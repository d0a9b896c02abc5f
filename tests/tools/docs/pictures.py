"""The pictures: the screen of `live` over a recorded capture, and what watching costs. Pure: text in, SVG out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import groupby
from operator import itemgetter
from typing import Any

from bench import table as bench

from fork_trace.model import reading, records
from fork_trace.output import aggregate, check_bars, columns
from fork_trace.output.live import screen
from fork_trace.output.live.line import Line
from fork_trace.output.live.look import Look
from fork_trace.output.live.screen import Moment
from fork_trace.output.live.trends import Trends

_COLUMNS, _LINES = 132, 34
_CHECK_COLUMNS = 100
_INTERVAL_NS = 1_000_000_000
_CHAR, _LEADING, _MARGIN = 8.4, 19, 16
_FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
_SANS = "system-ui, 'DejaVu Sans', sans-serif"
_PAPER, _INK = "#1b1f24", "#c9d1d9"
_COLORS = {
    "bar": _PAPER,
    "strong": "#ffffff",
    "dim": "#8b949e",
    "trend": "#39c5cf",
    "command": "#39c5cf",
    "full": "#ff7b72",
    "near": "#e3b341",
    "fine": "#56d364",
}

# What the plot compares: the price that nobody can avoid, ours, and the nearest peer.
_BARS = {
    "floor": "#b3bac2",
    "fexit-default": "#0b6bcb",
    "fexit-on-demand": "#53a8f5",
    "bpftrace kretfunc": "#c0762a",
    "newest bpftrace kretfunc": "#8a5a2b",
}
_GROUPS = ("fork", "fork-2000-mappings", "fork-2000-accountable", "mmap-pair", "getppid")


def live(lines: Iterable[str], how_to_end: str) -> str:
    """Draw the screen as it stood when the last failure of a capture had come in."""
    counted, changes, trends = aggregate.Table(columns.DEFAULT_BY), screen.Changes(), Trends()
    new: Mapping[tuple[str | None, ...], int] = {}
    host, first_ns, next_ns, last_ns = "?", 0, 0, 0
    for record in reading.read("the recorded capture", (line.encode() for line in lines)):
        if isinstance(record, records.Header):
            host = record.host
        elif isinstance(record, records.Failure):
            first_ns = first_ns or record.time_ns
            if record.time_ns >= next_ns:
                fresh = changes.take(counted)
                trends.add(fresh, (record.time_ns - first_ns) / 1e9)
                new = fresh or new
                next_ns = record.time_ns + _INTERVAL_NS
            counted.add(record, host)
            last_ns = record.time_ns
    fresh = changes.take(counted)
    trends.add(fresh, (last_ns - first_ns) / 1e9)
    moment = Moment(host, (last_ns - first_ns) / 1e9, 0.0, how_to_end, now_ns=last_ns)
    size = (_COLUMNS, _LINES)
    drawn = screen.frame(counted, fresh or new, moment, size, look=Look(trends=trends))
    return terminal(drawn, "fork-trace live, a screen", _COLUMNS)


def check(found: Mapping[str, Any]) -> str:
    """Draw what `check` wrote on a terminal, from a check that was kept as JSON."""
    lines = check_bars.lines(found, False, _CHECK_COLUMNS, is_ascii=False)
    return terminal(lines, "fork-trace check, on a terminal", _CHECK_COLUMNS)


def terminal(lines: Sequence[Line], title: str, columns: int) -> str:
    """Draw the lines of a screen as a terminal would."""
    width = round(columns * _CHAR) + 2 * _MARGIN
    height = len(lines) * _LEADING + 2 * _MARGIN
    parts = []
    for number, line in enumerate(lines):
        y = _MARGIN + number * _LEADING
        if line.style == "bar":
            parts.append(
                f'<rect x="{_MARGIN - 4}" y="{y}" width="{width - 2 * _MARGIN + 8}" '
                f'height="{_LEADING}" fill="{_INK}"/>'
            )
        at = 0
        for style, group in groupby(line.cells(), key=itemgetter(1)):
            text = "".join(char for char, _ in group)
            parts += _run(text, at, y, style)
            at += len(text)
    return _picture(width, height, title, _FONT, 14, _PAPER, parts)


def _run(text: str, at: int, y: int, style: str) -> list[str]:
    """Draw characters of one style: whatever font there is, each stands in its column."""
    shown = text.strip()
    if not shown:
        return []
    x = _MARGIN + (at + len(text) - len(text.lstrip())) * _CHAR
    weight = {"strong": ' font-weight="bold"', "heading": ' text-decoration="underline"'}.get(
        style, ""
    )
    return [
        f'<text x="{x:.1f}" y="{y + 14}" fill="{_COLORS.get(style, _INK)}"{weight} '
        f'textLength="{len(shown) * _CHAR:.1f}" lengthAdjust="spacingAndGlyphs" '
        f'xml:space="preserve">{escape(shown)}</text>'
    ]


def _picture(
    width: int, height: int, title: str, font: str, size: int, paper: str, parts: Sequence[str]
) -> str:
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" font-family="{escape(font)}" font-size="{size}">',
            f"<title>{escape(title)}</title>",
            f'<rect width="{width}" height="{height}" rx="6" fill="{paper}"/>',
            *parts,
            "</svg>\n",
        ]
    )


def overhead(result: dict[str, Any]) -> str:
    """Plot what is added to each operation, as bars from the numbers of the bench."""
    over = result["overhead_percent"]
    bars = [config for config in _BARS if config in over]
    most = max(over[config][group] for config in bars for group in _GROUPS)
    left, right, top, bar, gap = 250, 70, 76, 15, 16
    scale = (760 - left - right) / most
    parts = [
        _text(16, 26, "Instructions added to each operation", size=16, weight="bold"),
        _text(
            16, 46, f"Linux {result['kernel']}, x86-64, scripts/bench, {result['date']}", "#57606a"
        ),
    ]
    x = 16.0
    for config in bars:
        parts.append(f'<rect x="{x}" y="55" width="10" height="10" fill="{_BARS[config]}"/>')
        name = bench.name(result, config)
        parts.append(_text(x + 15, 64.5, name, size=12))
        x += 34 + 6 * len(name)
    y = top + 8
    for group in _GROUPS:
        parts.append(_text(16, y + len(bars) * bar / 2 + 4, _SHORT[group]))
        for config in bars:
            value = over[config][group]
            width = max(1.0, value * scale)
            parts.append(
                f'<rect x="{left}" y="{y}" width="{width:.1f}" height="{bar - 3}" '
                f'fill="{_BARS[config]}"/>'
            )
            parts.append(_text(left + width + 6, y + 10, bench.percent(value), "#57606a", 11))
            y += bar
        y += gap
    return _picture(760, y, "What watching costs", _SANS, 13, "#ffffff", parts)


_SHORT = {
    "fork": "small fork",
    "fork-2000-mappings": "2,000 mappings, half accountable",
    "fork-2000-accountable": "2,000 mappings, all accountable",
    "mmap-pair": "mmap and munmap",
    "getppid": "getppid",
}


def _text(
    x: float, y: float, words: str, fill: str = "#1f2328", size: int = 13, weight: str = "normal"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{fill}" font-size="{size}" '
        f'font-weight="{weight}">{escape(words)}</text>'
    )
