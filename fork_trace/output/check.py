"""What check found, as text for people. All names from the host are hostile: they pass through `names`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fork_trace.escape import safe
from fork_trace.model.records import Advice, Holder
from fork_trace.output.tables import draw
from fork_trace.output.units import amount, short
from fork_trace.output.wording import advised, held, tail, wrap

_LEVEL_WORDS = {"full": "full", "near": "near", "unknown": "unknown", "fine": "ok"}
_WHERE_WIDTH = 25


def check(found: dict[str, Any], is_all: bool) -> str:
    """Say how near the limits are: the verdict, the table worst first, and each that is near."""
    pools = found["limits"]
    bad = [pool for pool in pools if pool["level"] in ("full", "near")]
    counts = ", ".join(f"{found['counts'][level]} {word}" for level, word in _LEVEL_WORDS.items())
    first = "ok (some limits unreadable)" if found["counts"]["unknown"] else "ok"
    if bad:
        first = f"{bad[0]['level']}: {safe(bad[0]['cause'])}, {_used(bad[0])}, {_place(bad[0])}"
    lines = wrap(f"{first}; {counts}", "", "  ")
    lines += _table(pools if is_all else bad)
    for pool in bad:
        lines += ["", *_near(pool)]
    lines.append("")
    measured = [pool for pool in pools if pool["level"] == "fine" and pool["percent"] is not None]
    if measured and not is_all:
        most = measured[0]
        number = found["counts"]["fine"]
        text = f"ok: {number}; closest to its limit: {most['cause']}, {_used(most)}, {_place(most)}"
        lines += wrap(f"{text}; --all lists them", "", "  ")
    lines += _unmeasured(pools, "fine", "free", "not limited")
    lines += _unmeasured(pools, "unknown", "why", "unknown")
    if found["unseen"]:
        lines += wrap(f"counts are lower bounds: {safe(found['unseen'])}", "", "  ")
    lines += _zombies(found)
    lines += wrap(
        f"{safe(found['host'])}, {safe(found['kernel'])}: {found['tasks']} tasks in "
        f"{found['processes']} processes, read in {found['seconds']:.2f} s",
        "",
        "  ",
    )
    return "\n".join(lines) + "\n"


def _table(pools: Sequence[dict[str, Any]]) -> list[str]:
    if not pools:
        return []
    rows = [
        [
            _LEVEL_WORDS[pool["level"]],
            "-" if pool["percent"] is None else f"{pool['percent']:.0f}%",
            pool["cause"],
            _short(pool),
            tail(_place(pool), _WHERE_WIDTH),
        ]
        for pool in pools
    ]
    alignment = ("left", "right", "left", "left", "left")
    return ["", draw(rows, ["LEVEL", "USE", "CAUSE", "USED/LIMIT", "WHERE"], alignment)]


def _unmeasured(pools: Sequence[dict[str, Any]], level: str, reason: str, words: str) -> list[str]:
    """Say which limits have no percentage, and why; those with the same reason in one sentence."""
    places: dict[tuple[str, str], list[str]] = {}
    for pool in pools:
        if pool["level"] == level and (pool[reason] or level == "unknown"):
            key = (pool["cause"], pool[reason] or "?")
            places.setdefault(key, []).append(_place(pool))
    lines = []
    for (cause, why), names in places.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        text = f"{words}: {cause}, {', '.join(names[:3])}{more}: {safe(why)}"
        lines += wrap(text, "", "  ")
    return lines


def _zombies(found: dict[str, Any]) -> list[str]:
    if not found["zombies"]:
        return []
    parts = []
    for each in found["zombies"]:
        name = (
            f"{safe(each['comm'])}[{each['pid']}]" if each["comm"] else "a parent not visible here"
        )
        parts.append(f"{each['zombies']} of {name}")
    text = f"zombies: {found['zombies_total']}; their parents must reap them: "
    return wrap(text + ", ".join(parts), "", "  ")


def _near(pool: dict[str, Any]) -> list[str]:
    lines = wrap(f"{safe(pool['cause'])}, {pool['level']}: {_place(pool)}", "", "  ")
    lines += wrap(f"{safe(pool['name'])}: {_used(pool)}", "  ", "    ")
    facts = [pool["note"], pool["why"]]
    if pool["setting"] not in (None, pool["limit"]):
        facts.insert(0, f"{pool['name']} is {amount(pool['setting'], pool['unit'])}")
    if pool["hits"]:
        facts.append(f"pids.events max: {pool['hits']}")
    if pool["process"] and pool["uid"] is not None:
        process = pool["process"]
        facts.append(f"lowest limit: {process['comm']}[{process['pid']}]")
    for fact in filter(None, facts):
        lines += wrap(safe(fact), "  ", "    ")
    if pool["holders"] is not None:
        who = [Holder(**each) for each in pool["holders"]]
        lines += wrap(held(who, pool["holders_total"], pool["used"]), "  ", "    ")
    for each in pool["advice"]:
        lines += wrap(safe(advised(Advice(**each))), "  -> ", "     ")
    return lines


def _used(pool: dict[str, Any]) -> str:
    more = " or more" if pool["at_least"] else ""
    text = f"{amount(pool['used'], pool['unit'])}{more} of {amount(pool['limit'], pool['unit'])}"
    return text if pool["unit"] == "KiB" else f"{text} {pool['unit']}"


def _short(pool: dict[str, Any]) -> str:
    if pool["free"]:
        return "-"
    used, limit = (short(pool[name], pool["unit"]) for name in ("used", "limit"))
    return f"{used}{'+' if pool['at_least'] else ''}/{limit}"


def _place(pool: dict[str, Any]) -> str:
    process = pool["process"]
    if process and pool["uid"] is None:
        return f"{safe(process['comm'])}[{process['pid']}]"
    return safe(pool["where"])
