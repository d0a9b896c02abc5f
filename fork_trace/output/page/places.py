"""The causes and places of a page as plain values: what `telling` says, with bars beside it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fork_trace.diagnosis.evidence import counted_limit
from fork_trace.escape import safe
from fork_trace.model.records import Holder
from fork_trace.output import telling
from fork_trace.output.aggregate import Table
from fork_trace.output.page import parts
from fork_trace.output.paragraph import Told
from fork_trace.output.place import Place, first_of
from fork_trace.output.report_options import Timed
from fork_trace.output.units import amount
from fork_trace.output.wording import Remedy

_WHOLE = 12  # places of a cause that are shown whole
_LINES = 100  # and in a line each


def causes(counted: Table, hosts: Sequence[str]) -> list[dict[str, Any]]:
    """Return each cause with its places, that of most failures first."""
    ranks = [cause for cause, _ in counted.causes.most_common(parts.COLORS)]
    names_host = len(hosts) > 1
    found = []
    for cause, places in counted.by_cause().items():
        rest = places[_WHOLE + _LINES :]
        found.append(
            {
                "title": telling.title(cause),
                "color": f"c{ranks.index(cause)}" if cause in ranks else "rest",
                "count": counted.causes[cause],
                "places": [_place(each, names_host, counted.when) for each in places[:_WHOLE]],
                "lines": [
                    _remedy(telling.in_a_line(each, names_host))
                    for each in places[_WHOLE : _WHOLE + _LINES]
                ],
                "rest": len(rest),
                "rest_failures": sum(each.count for each in rest),
            }
        )
    return found


def incidents(counted: Table, hosts: Sequence[str]) -> list[dict[str, Any]]:
    """Return what was seen beside refused forks: a paragraph for each cause."""
    return list(map(_paragraph, counted.incidents.told(len(hosts) > 1)))


def slow(timed: Sequence[Timed]) -> list[dict[str, Any]]:
    """Return the slow forks of each host."""
    return [{**each._asdict(), "told": list(map(_paragraph, each.told))} for each in timed]


def _paragraph(told: Told) -> dict[str, Any]:
    return {
        "title": told.title,
        "facts": told.facts,
        "advice": [_remedy(each) for each in told.advice],
        "lines": [_remedy(each) for each in told.places],
        "more": told.more,
    }


def _place(place: Place, names_host: bool, when: Callable[[int], str]) -> dict[str, Any]:
    told = telling.tell([place], names_host, when)
    held = telling.holders(place)
    where = safe(place.key.where or "place unknown")
    host = f" on {safe(place.key.host or '?')}" if names_host else ""
    failure = place.held or place.told
    return {
        "where": f"{where}{host}",
        "count": place.count,
        "first": parts.instant(place.first_ns),
        "last": parts.instant(place.last_ns),
        "bar": _bar(place),
        "facts": [each for each in told.facts if each not in held],
        "held": held,
        "holders": _holders(failure.holders or (), failure.holders_total),
        "advice": [_remedy(each) for each in told.advice],
    }


def _bar(place: Place) -> dict[str, Any] | None:
    """Return how much was used of the deciding limit; None: that is no matter of numbers."""
    first = first_of(place.sample)
    limit = counted_limit(first) if first is not None else None
    if first is None or first.value is None or limit is None or limit <= 0:
        return None
    percent = 100.0 * first.value / limit
    return {
        "name": safe(first.name),
        "text": f"{amount(first.value, first.unit)} of {amount(limit, first.unit)}"
        + ("" if first.unit == "KiB" else f" {safe(first.unit)}"),
        "percent": f"{percent:.0f}%",
        "width": f"{min(100.0, max(0.0, percent)):.1f}",
        "level": "full" if percent >= 100 else "near" if percent >= 80 else "fine",
    }


def _holders(holders: Sequence[Holder], total: int | None) -> list[dict[str, Any]]:
    most = total or sum(each.tasks + each.zombies for each in holders) or 1
    return [
        {
            "name": "a parent not visible here" if each.comm is None else safe(each.comm),
            "pid": "?" if each.pid is None else each.pid,
            "tasks": each.tasks,
            "processes": each.processes,
            "zombies": each.zombies,
            "width": f"{min(100.0, 100.0 * (each.tasks + each.zombies) / most):.1f}",
        }
        for each in holders
    ]


def _remedy(remedy: Remedy) -> dict[str, Any]:
    kind, colon, rest = remedy.sentence.partition(": ")
    is_kind = bool(colon) and kind in ("Verify", "Mitigate", "Fix", "Careful")
    return {
        "kind": kind if is_kind else "",
        "text": rest if is_kind else remedy.sentence,
        "commands": list(remedy.commands),
    }
