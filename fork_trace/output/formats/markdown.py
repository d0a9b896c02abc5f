"""A report as Markdown, for a ticket or a page."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fork_trace.model.records import Header, Summary
from fork_trace.output import lacking, report, tables, telling
from fork_trace.output.aggregate import Row, Table
from fork_trace.output.paragraph import Told
from fork_trace.output.report_options import PLAIN, ReportOptions
from fork_trace.output.wording import Remedy

# What would be markup outside of a code span: a program may be called "[x](y)".
_MARKUP = re.compile(
    r"[\\`*\[\]<>|~&]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|^[-+#=]|(?<=^[0-9])[.)](?= )"
)
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_. /:+?-]*( ?\*)?")


def write(
    counted: Table,
    summaries: Sequence[Summary],
    headers: Sequence[Header],
    options: ReportOptions = PLAIN,
) -> str:
    """Write the report as Markdown, for a ticket or a page."""
    hosts = report.hosts_of(headers)
    hidden = report.outside(summaries, headers)
    headline = report.verdict(counted, report.longest(summaries), hosts, None, hidden)
    besides = counted.incidents.headlines()
    lines = [f"**{escaped(headline)}**"]
    lines += ["", escaped(report.beside(besides))] if besides else []
    if counted.failures:
        rows, rest = report.shown(counted, options)
        lines += ["", *_table(rows, counted, options)]
        lines += ["", *map(_spans, rest)] if rest else []
        if "cause" in counted.by and any(map(tables.is_inferred, rows)):
            lines += ["", escaped(tables.INFERRED)]
        if options.stacks:
            lines += ["", *fenced(report.stacks(rows)[1:])]
        paragraphs = telling.tell_all(counted, hosts)
    else:
        paragraphs = []
        found = [] if besides else report.elsewhere(counted, headers)
        lines += ["", _spans(report.NOTHING), ""] if found else []
        for remedy in found:
            lines += _item(remedy)
    for told in (*paragraphs, *counted.incidents.told(len(hosts) > 1)):
        lines += _paragraph(told)
    closing = [*lacking.closing(summaries, headers), *lacking.sentences(counted.completeness)]
    lines += ["", *(f"{_spans(sentence)}  " for sentence in closing)]
    return "\n".join(lines) + "\n"


def _paragraph(told: Told) -> list[str]:
    lines = ["", f"### {_spans(told.title)}", ""]
    lines += [f"- {_spans(sentence)}" for sentence in told.facts]
    for remedy in (*told.advice, *told.places):
        lines += _item(remedy)
    return lines + ([f"- {_spans(told.more)}"] if told.more else [])


def _item(remedy: Remedy) -> list[str]:
    """Write a sentence as an item of a list, with its commands in a block to copy."""
    lines = [f"- {_spans(remedy.sentence)}"]
    if remedy.commands:
        lines += [f"  {line}" for line in fenced(remedy.commands)]
    return lines


def _table(rows: Sequence[Row], counted: Table, options: ReportOptions) -> list[str]:
    days = counted.spans_days()
    headings, lines = tables.cells(rows, counted.by, options.times, has_days=days)
    alignment = ["right"] + ["left"] * (len(headings) - 1)
    filled = [[_cell(text) for text in line] for line in lines]
    return tables.draw(filled, headings, alignment, "pipe").splitlines()


def _cell(text: str) -> str:
    """Write a name into a cell: as it is, or as a code span, in which nothing is markup."""
    if _PLAIN_NAME.fullmatch(text):
        return text
    if "|" in text and "\\" in text:
        return escaped(text)  # in a code span the one could not be told to escape the other
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{text}{pad}{fence}".replace("|", "\\|")


def escaped(text: str) -> str:
    """Escape what Markdown would take for markup."""
    return _MARKUP.sub(r"\\\g<0>", text)


def _spans(text: str) -> str:
    """Keep the commands of a sentence as code spans; all else in it is escaped."""
    # A name can bring backticks of its own. As long as each stands alone, they pair up here just
    # as they do for whoever renders it; otherwise none is taken for one.
    parts = text.split("`")
    if "``" in text or len(parts) % 2 == 0:
        return escaped(text)
    return "`".join(part if n % 2 else escaped(part) for n, part in enumerate(parts))


def fenced(lines: Sequence[str]) -> list[str]:
    longest = max((len(run) for run in re.findall("`+", "\n".join(lines))), default=0)
    fence = "`" * max(3, longest + 1)
    return [fence, *lines, fence]
