"""What check found, as text for people. All names from the host are hostile: they pass through `names`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fork_trace.escape import safe
from fork_trace.model.records import Advice, Holder
from fork_trace.output.bars import NEAR
from fork_trace.output.tables import draw
from fork_trace.output.units import amount, count, short
from fork_trace.output.wording import WIDTH, held, remedy, tail, wrap

_LEVEL_WORDS = {"full": "full", "near": "near", "unknown": "unknown", "fine": "ok"}
_WHERE_WIDTH, _LEAST_WHERE = 25, 12
_MOST_REFUSALS = 5


def check(found: dict[str, Any], is_all: bool) -> str:
    """Say how near the limits are: the verdict, the table worst first, and each that is near."""
    shown = found["limits"] if is_all else bad(found)
    lines = [*verdict(found), *_table(shown), *details(found, is_all)]
    return "\n".join(lines) + "\n"


def bad(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the limits that are full or near, worst first."""
    return [pool for pool in found["limits"] if pool["level"] in ("full", "near")]


def verdict(found: Mapping[str, Any], width: int = WIDTH) -> list[str]:
    """Say the worst, and how many limits are on each level."""
    worst = bad(found)
    counts = ", ".join(f"{found['counts'][level]} {word}" for level, word in _LEVEL_WORDS.items())
    unread = " (some limits unreadable)" if found["counts"]["unknown"] else ""
    first = f"ok{unread}"
    if worst:
        first = f"{worst[0]['level']}: {summed_up(worst[0])}"
    elif found["level"] == "unknown":
        first = "unknown: a limit that everybody may read is unreadable here"
    elif found["refusals"]:
        name, number = max(found["refusals_total"].items(), key=lambda item: item[1])
        first = f"ok now{unread}, but {counted(name, number)}"
    return wrap(f"{first}; {counts}", "", "  ", width)


def details(found: Mapping[str, Any], is_all: bool) -> list[str]:
    """Say of each limit that is near what to do, and all that no table shows."""
    pools = found["limits"]
    lines = []
    for pool in bad(found):
        lines += ["", *_near(pool)]
    lines.append("")
    lines += _refused(found)
    measured = [pool for pool in pools if pool["level"] == "fine" and pool["percent"] is not None]
    if measured and not is_all:
        number = found["counts"]["fine"]
        text = f"ok: {number}; closest to its limit: {summed_up(measured[0])}; --all lists them"
        lines += wrap(text, "", "  ")
    # A limit of 0 is no shortage: somebody does not want it.
    off = [pool for pool in pools if pool["free"] and pool["limit"] == 0]
    lines += _unmeasured([pool for pool in pools if pool not in off], "fine", "free", "not limited")
    lines += _unmeasured(off, "fine", "free", "switched off")
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
    return lines


def _table(pools: Sequence[dict[str, Any]]) -> list[str]:
    if not pools:
        return []
    rows = [
        [
            _LEVEL_WORDS[pool["level"]],
            "-" if pool["percent"] is None else f"{pool['percent']:.0f}%",
            pool["cause"],
            _short(pool),
            place(pool),
        ]
        for pool in pools
    ]
    widths = [max(len(row[n]) for row in rows) for n in range(1, 4)]
    room = min(_WHERE_WIDTH, max(_LEAST_WHERE, WIDTH - len("unknown") - sum(widths) - 4 * 2))
    rows = [[*row[:4], tail(row[4], room)] for row in rows]
    alignment = ("left", "right", "left", "left", "left")
    return ["", draw(rows, ["LEVEL", "USE", "CAUSE", "USED/LIMIT", "WHERE"], alignment)]


def _unmeasured(pools: Sequence[dict[str, Any]], level: str, reason: str, words: str) -> list[str]:
    """Say which limits have no percentage, and why; those with the same reason in one sentence."""
    places: dict[tuple[str, str], list[str]] = {}
    for pool in pools:
        if pool["level"] == level and (pool[reason] or level == "unknown"):
            key = (pool["cause"], pool[reason] or "?")
            places.setdefault(key, []).append(place(pool))
    lines = []
    for (cause, why), names in places.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        text = f"{words}: {cause}, {', '.join(names[:3])}{more}: {safe(why)}"
        lines += wrap(text, "", "  ")
    return lines


def summed_up(pool: Mapping[str, Any]) -> str:
    """Say in a clause how full a limit is, and where."""
    numbers = f"{safe(pool['refuses'])}" if pool["refuses"] else used_of(pool)
    return f"{safe(pool['cause'])}, {numbers}, {place(pool)}"


# What a cgroup counts -> one of them, several, and what became of them.
_COUNTED = {
    "pids.events max": ("fork", "forks", "refused so far"),
    "memory.events oom_kill": ("process", "processes", "killed by the OOM killer so far"),
    "memory.oom_control oom_kill": ("process", "processes", "killed by the OOM killer so far"),
    "memory.events oom": ("time", "times", "out of memory so far, with nothing killed"),
}


def counted(name: str, number: int) -> str:
    """Say what a counter of a cgroup has counted."""
    one, many, became = _COUNTED.get(name, ("event", "events", f"counted as {name}"))
    return f"{count(number, one, many)} {became}"


def _refused(found: Mapping[str, Any]) -> list[str]:
    """Say what was refused or killed before, as what is fine now may not have been a minute ago."""
    lines = []
    for each in found["refusals"][:_MOST_REFUSALS]:
        text = f"{counted(each['name'], each['count'])}: {safe(each['where'])} ({each['name']})"
        lines += wrap(text, "", "  ")
    left = len(found["refusals"]) - _MOST_REFUSALS
    if left > 0:
        lines.append(f"{left} more cgroups with such counts: --json lists them")
    inside = sum(
        number for name, number in found["refusals_total"].items() if name.endswith("oom_kill")
    )
    others = (found["oom_kills"] or 0) - inside
    if others > 0:
        text = f"{count(others, 'process', 'processes')} killed by the OOM killer since the boot"
        lines += wrap(f"{text}, elsewhere or in cgroups that are gone (/proc/vmstat)", "", "  ")
    return lines


def _zombies(found: Mapping[str, Any]) -> list[str]:
    if not found["zombies"]:
        return []
    parts = []
    for each in found["zombies"]:
        name = (
            f"{safe(each['comm'])}[{each['pid']}]" if each["comm"] else "a parent not visible here"
        )
        part = f"{each['zombies']} of {name}"
        if each["per_hour"] is not None:
            part += f" (growing: about {each['per_hour']:.0f} an hour)"
        parts.append(part)
    text = f"zombies: {found['zombies_total']}; their parents must reap them: "
    return wrap(text + ", ".join(parts), "", "  ")


def title(pool: Mapping[str, Any]) -> list[str]:
    """Name a limit that is near or full, above what is told of it."""
    return wrap(f"{safe(pool['cause'])}, {pool['level']}: {place(pool)}", "", "  ")


def few_left(pool: Mapping[str, Any]) -> str:
    """Say what makes a limit near of which not much is used: there is room for so few tasks."""
    is_few = pool["level"] == "near" and pool["percent"] is not None and pool["percent"] < NEAR
    return f" ({pool['tasks_left']} left)" if is_few and pool["tasks_left"] is not None else ""


def _near(pool: dict[str, Any]) -> list[str]:
    lines = title(pool)
    numbers = safe(pool["refuses"]) if pool["refuses"] else used_of(pool)
    numbers += few_left(pool)
    lines += wrap(f"{safe(pool['name'])}: {numbers}", "  ", "    ")
    facts = [pool["note"], pool["why"]]
    if place(pool) != safe(pool["where"]) and not pool["where"].startswith("process "):
        facts.insert(0, pool["where"])
    if pool["default"]:
        facts.append(
            f"probably by {pool['default']}=, as it is just that; set TasksMax= for the unit"
        )
    if pool["peak"] is not None and pool["used"] is not None and pool["peak"] > pool["used"]:
        facts.append(f"at most so far: {amount(pool['peak'], pool['unit'])} (pids.peak)")
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
        lines += remedy(Advice(**each)).lines(WIDTH, "  -> ", "     ")
    return lines


def used_of(pool: Mapping[str, Any]) -> str:
    """Write what is used of a limit."""
    more = " or more" if pool["at_least"] else ""
    text = f"{amount(pool['used'], pool['unit'])}{more} of {amount(pool['limit'], pool['unit'])}"
    return text if pool["unit"] == "KiB" else f"{text} {pool['unit']}"


def _short(pool: dict[str, Any]) -> str:
    if pool["free"] or pool["refuses"]:
        return "-"
    used, limit = (short(pool[name], pool["unit"]) for name in ("used", "limit"))
    return f"{used}{'+' if pool['at_least'] else ''}/{limit}"


def place(pool: Mapping[str, Any]) -> str:
    """Say where a limit is, harmless."""
    process = pool["process"]
    if process and pool["uid"] is None:
        return f"{safe(process['comm'])}[{process['pid']}]"
    return safe(pool["where"])
