"""A report as one JSON object: what it says, and what it says it of."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fork_trace.diagnosis.advice import means
from fork_trace.escape import json_line
from fork_trace.model import records
from fork_trace.model.records import Failure, Forks, Header, Record, Slow, Summary
from fork_trace.output import report, telling, times
from fork_trace.output.aggregate import Table
from fork_trace.output.place import Place, first_of
from fork_trace.output.report_options import PLAIN, ReportOptions
from fork_trace.output.summary import merged_summary
from fork_trace.output.unwatched import as_json, unwatched


def write(
    counted: Table,
    summaries: Sequence[Summary],
    headers: Sequence[Header],
    options: ReportOptions = PLAIN,
) -> str:
    """Write the whole report on one line."""
    return json_line(whole(counted, summaries, headers, options)) + "\n"


def whole(
    counted: Table,
    summaries: Sequence[Summary],
    headers: Sequence[Header],
    options: ReportOptions = PLAIN,
) -> dict[str, Any]:
    """Return a report as one JSON object: what it says, and what it says it of."""
    hosts = report.hosts_of(headers)
    merged = merged_summary(counted, summaries, options)
    places = counted.places()
    captures = [
        {
            **{name: getattr(header, name) for name in ("host", "kernel", "machine", "tool")},
            **{name: getattr(header, name) for name in ("attach", "backend", "time")},
            **{name: getattr(summary, name) for name in ("duration_s", "failures", "ended")},
        }
        for header, summary in zip(headers, summaries)
    ]
    return {
        **merged,
        "type": "report",
        "verdict": report.verdict(
            counted,
            report.longest(summaries),
            hosts,
            width=None,
            outside=report.outside(summaries, headers),
        ),
        "captures": captures,
        "causes": _causes(places),
        "places": [_place(each) for each in places],
        **json.loads(json_line(counted.incidents.as_json())),
        "not_watched": as_json(unwatched(headers)),
        "notes": list(counted.completeness.notes),
        "slow": [_plain(each) for each in options.timed if isinstance(each, Slow)],
        "forks": [_plain(each) for each in options.timed if isinstance(each, Forks)],
    }


def _plain(record: Record) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(records.to_json(record))
    return found


def _causes(places: Sequence[Place]) -> list[dict[str, Any]]:
    """Count the failures of each cause on each host, with a record of its worst place."""
    found: dict[tuple[str, str | None], dict[str, Any]] = {}
    totals = Counter[str]()
    for place in places:
        key = place.key
        totals[key.cause] += place.count
        known = found.setdefault(
            (key.cause, key.host),
            {
                "cause": key.cause,
                "host": key.host,
                "count": 0,
                "means": means(key.cause),
                "latest": _plain(_advised(place.told)),
            },
        )
        known["count"] += place.count
    return sorted(
        found.values(), key=lambda each: (-totals[each["cause"]], each["cause"], -each["count"])
    )


def _place(place: Place) -> dict[str, Any]:
    """Return one place: what decided there, how often, and what to do about it."""
    key, told = place.key, place.told
    first = first_of(place.sample)
    held = place.held or told
    certain = Counter[str]()
    for how, number in place.found.items():
        certain[how.certainty] += number
    return {
        "cause": key.cause,
        "host": key.host,
        "limit_name": key.limit,
        "where": key.where,
        "used": first.value if first else None,
        "limit": first.limit if first else None,
        "unit": first.unit if first else None,
        "count": place.count,
        "errnos": dict(place.errnos.most_common()),
        "commands": [
            {"comm": comm, "count": number} for comm, number in place.commands.most_common()
        ],
        "certainties": dict(certain),
        "first": times.moment(place.first_ns),
        "last": times.moment(place.last_ns),
        "means": means(key.cause),
        "evidence": [vars(each) for each in told.evidence],
        "holders": None if held.holders is None else [vars(each) for each in held.holders],
        "holders_total": held.holders_total,
        "advice": [
            {**vars(each), "commands": list(each.commands)} for each in telling.advice_of(told)
        ],
        "latest": _plain(_advised(place.latest)),
    }


def _advised(failure: Failure) -> Failure:
    advice = telling.advice_of(failure)
    return replace(failure, advice=advice) if advice != failure.advice else failure
