"""A report as one page for a ticket: it fetches nothing, and no name in it is markup. Owns Jinja2."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import os
from collections.abc import Sequence
from typing import Any

from fork_trace.errors import ForkTraceError
from fork_trace.escape import safe
from fork_trace.model.records import Header, Summary
from fork_trace.output import lacking, report, tables
from fork_trace.output.aggregate import Table
from fork_trace.output.page import parts, places
from fork_trace.output.page.gathered import Gathered
from fork_trace.output.report_options import PLAIN, ReportOptions

_PAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "page")


def gathered() -> Gathered:
    """Return what is to see each record; ForkTraceError where Jinja2 is not installed."""
    if importlib.util.find_spec("jinja2") is None:
        raise ForkTraceError(
            "--format html needs Jinja2, which is not installed.",
            "Install python3-jinja2, or use --format markdown.",
        )
    return Gathered()


def write(
    counted: Table,
    summaries: Sequence[Summary],
    headers: Sequence[Header],
    options: ReportOptions = PLAIN,
) -> str:
    """Write the report as one HTML file, in ASCII; without `options.gathered` it has no times or records."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    pages = FileSystemLoader(_PAGE)
    environment = Environment(
        loader=pages,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # What the page may run and look like is these two texts and nothing else.
    style, script = (pages.get_source(environment, f"page.{each}")[0] for each in ("css", "js"))
    page = environment.get_template("page.html").render(
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
        **_values(counted, summaries, headers, options),
    )
    return page.encode("ascii", "xmlcharrefreplace").decode() + "\n"


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _values(
    counted: Table, summaries: Sequence[Summary], headers: Sequence[Header], options: ReportOptions
) -> dict[str, Any]:
    hosts = report.hosts_of(headers)
    kept = options.gathered or Gathered()
    rows, rest = report.shown(counted, options)
    headings, cells = tables.cells(rows, counted.by, options.times, has_days=counted.spans_days())
    is_inferred = "cause" in counted.by and any(map(tables.is_inferred, rows))
    besides = counted.incidents.headlines()
    found = () if counted.failures or besides else report.elsewhere(counted, headers)
    verdict = report.verdict(
        counted, report.longest(summaries), hosts, None, report.outside(summaries, headers)
    )
    if options.slow and not headers:
        # Failures were not looked for.
        verdict, found = " ".join(each.head for each in options.slow), ()
    return {
        "verdict": verdict,
        "besides": report.beside(besides),
        "hosts": [safe(each) for each in hosts],
        "first": parts.instant(counted.first_ns),
        "last": parts.instant(counted.last_ns),
        "timeline": parts.timeline(kept.timeline, counted),
        "headings": headings,
        "rows": cells,
        "names": [n for n, each in enumerate(headings) if each.lower() in tables.NARROWABLE],
        "notes_on_rows": [*rest, *([tables.INFERRED] if is_inferred else [])],
        "causes": places.causes(counted, hosts),
        "incidents": places.incidents(counted, hosts),
        "slow": places.slow(options.slow),
        "elsewhere": [report.NOTHING, *(each.sentence for each in found)] if found else [],
        "stacks": parts.stacks(kept, len(hosts) > 1),
        "captures": parts.captures(headers, summaries),
        "closing": [
            *lacking.closing(summaries, headers),
            *lacking.sentences(counted.completeness),
        ],
        "others": parts.others(kept),
        "download": parts.download(kept.archive),
    }
