"""What the other commands found, as text for people: doctor, check, explain, rehearse.

What failed is `report`'s. All names from the host are hostile: they pass through `names`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fork_trace.diagnosis import advice
from fork_trace.names import json_line, safe
from fork_trace.records import Advice, Holder
from fork_trace.tables import draw
from fork_trace.wording import advised, amount, held, short, tail, wrap

if TYPE_CHECKING:
    # The book of texts is not for those who watch.
    from fork_trace.diagnosis.lookup import Answer


def doctor(found: dict[str, Any]) -> str:
    """Draw what doctor found: the verdict, the features, the steps."""
    if found["usable"]:
        first = f"fork-trace works here: {found['rung']} rung by {found['backend']}."
    else:
        first = f"fork-trace cannot watch forks here: {safe(str(found['why']))}."
    lines = wrap(first, "", "  ")
    if found["remedy"]:
        lines += wrap(safe(found["remedy"]), "  -> ", "     ")
    lines += [
        "",
        f"kernel {safe(found['kernel'])} on {found['machine']}, lockdown: "
        f"{found['lockdown'] or 'not built in'}",
        "",
    ]
    words = {True: "yes", False: "no", None: "?"}
    rows = [
        [name, words[fact["value"]], "\n".join(textwrap.wrap(safe(fact["why"]), 58))]
        for name, fact in found["features"].items()
    ]
    lines.append(draw(rows, ["FEATURE", "HERE", "WHY"]))
    better = [
        [
            item["rung"],
            item["backend"],
            "\n".join(textwrap.wrap(safe(item["reason"]), 53)),
        ]
        for item in found["passed_over"]
    ]
    if better:
        lines += ["", draw(better, ["NOT TAKEN", "BY", "WHY"])]
    steps = [
        [item["step"] or "-", "on demand" if item["later"] else "observed", item["function"]]
        for item in found["attached"]
    ]
    steps += [
        [item["step"], "inferred", "\n".join(textwrap.wrap(safe(item["reason"]), 47))]
        for item in found["missing"]
    ]
    if steps:
        lines += ["", draw(steps, ["STEP", "HOW", "BY"])]
    return "\n".join(lines) + "\n"


def scenarios(known: Sequence[Any], as_json: bool) -> str:
    """List the rehearsals: name, whether it touches the whole host, what it makes."""
    if as_json:
        return "".join(
            json_line(
                {
                    name: getattr(each, name)
                    for name in (
                        *("name", "title", "how", "cause", "step", "errno", "comm"),
                        *("host_wide", "needs_root", "syscall", "creates", "is_early"),
                    )
                }
            )
            + "\n"
            for each in known
        )
    # What a terminal of 80 columns leaves beside the other three.
    title_columns = 57 - max(len(each.name) for each in known)
    rows = [
        [
            each.name,
            "host" if each.host_wide else "own",
            each.errno,
            "\n".join(textwrap.wrap(each.title, title_columns)),
        ]
        for each in known
    ]
    return draw(rows, ["SCENARIO", "TOUCHES", "ERRNO", "WHAT"]) + "\n"


def outcome(done: Any, as_json: bool) -> str:
    """Say what a rehearsal did."""
    if as_json:
        return (
            json_line(
                {
                    "scenario": done.scenario.name,
                    "cause": done.scenario.cause,
                    "step": done.scenario.step,
                    "errno": done.scenario.errno,
                    "pid": done.pid,
                    "comm": done.comm,
                    "count": done.count,
                    "attempts": done.attempts,
                    "failures": dict(done.failures),
                    "successes": done.successes,
                    "as_planned": done.is_as_planned,
                    "ended_by": done.ended_by or None,
                    "notes": done.notes,
                }
            )
            + "\n"
        )
    counts = ", ".join(f"{count} x {name}" for name, count in sorted(done.failures.items()))
    mark = "" if done.is_as_planned else " (not as planned)"
    lines = wrap(
        f"{done.scenario.name}: {counts or 'no failure'} of {done.attempts} forks by "
        f"{done.comm}[{done.pid}]{mark}",
        "",
        "  ",
    )
    for note in done.notes:
        lines += wrap(safe(note), "  ", "  ")
    return "\n".join(lines) + "\n"


def explanation(answer: Answer) -> str:
    """Write what the book has: a list of several causes, one whole, and what applications print."""
    lines: list[str] = []
    if answer.step is not None:
        lines += wrap(f"{answer.step.name}: {answer.step.what}", "", "  ")
    elif answer.kind == "list":
        lines += wrap("What can make a fork or a thread fail, most frequent first:", "", "")
    elif answer.kind == "errno":
        lines += wrap(f"{answer.errno} from a fork or a thread, most frequent first:", "", "")
    for each in answer.texts:
        lines += wrap(_said(each.application, each.text), "", "  ")
        lines += wrap(each.note, "    ", "    ") if each.note else []
    if answer.texts:
        tells = f" (it says {answer.errno})" if answer.errno else ""
        lines += wrap(f"Possible causes{tells}, likeliest first:", "", "")
    if len(answer.causes) == 1:
        return "\n".join([*lines, *([""] if lines else []), *_whole(answer)]) + "\n"
    for cause in answer.causes:
        errnos = ", ".join(cause.errnos) or "any errno"
        lines += ["", *wrap(f"{cause.slug} ({errnos})", "  ", "    ")]
        lines += wrap(cause.means, "    ", "    ")
    lines += ["", "`fork-trace explain CAUSE` says how to verify and fix one of them."]
    return "\n".join(lines) + "\n"


def _whole(answer: Answer) -> list[str]:
    from fork_trace.diagnosis import lookup

    (cause,) = answer.causes
    lines = wrap(f"{cause.slug}: {cause.means}", "", "  ")
    steps = ", ".join(lookup.steps_of(cause)) or "none of its own"
    lines += ["", *wrap(f"errno: {', '.join(cause.errnos) or 'any'}", "  ", "         ")]
    lines += wrap(f"limit: {cause.limit.replace('`', '')}", "  ", "         ")
    lines += wrap(f"step:  {steps}", "  ", "         ")
    lines += ["", "With fork-trace"]
    for sentence in lookup.by_tool(cause):
        lines += wrap(sentence, "  ", "    ")
    for kind, remedies in lookup.remedies_of(cause):
        lines += ["", kind.capitalize()]
        by_sentence: dict[str, list[str]] = {}
        for key, remedy in advice.offline(kind, remedies).items():
            sentence = advised(remedy).partition(": ")[2]
            by_sentence.setdefault(sentence, []).append(advice.VARIANTS.get(key, key))
        for sentence, names in by_sentence.items():
            where = ", ".join(names)
            lines += wrap(f"{where}: {sentence}" if where else sentence, "  ", "    ")
    lines += ["", "Common misconceptions"]
    for myth in cause.myths:
        lines += wrap(myth, "  ", "    ")
    texts = lookup.texts_of(cause)
    if texts:
        lines += ["", "What applications print"]
        for each in texts:
            lines += wrap(_said(each.application, each.text), "  ", "    ")
    return lines


def _said(application: str, text: str) -> str:
    return text if text.lower().startswith(application.lower()) else f"{application}: {text}"


def not_here(scenario: str, why: str, as_json: bool) -> str:
    """Say that a rehearsal is not possible on this host."""
    if as_json:
        return json_line({"scenario": scenario, "not_here": why}) + "\n"
    return "\n".join(wrap(f"{scenario}: not possible here: {safe(why)}", "", "  ")) + "\n"


_LEVEL_WORDS = {"full": "full", "near": "near", "unknown": "not known", "fine": "fine"}
_WHERE_WIDTH = 25


def check(found: dict[str, Any], is_all: bool) -> str:
    """Say how near the limits are: the verdict, the table worst first, and each that is near."""
    pools = found["limits"]
    bad = [pool for pool in pools if pool["level"] in ("full", "near")]
    counts = ", ".join(f"{found['counts'][level]} {word}" for level, word in _LEVEL_WORDS.items())
    first = "ok (some limits unreadable)" if found["counts"]["unknown"] else "fine"
    if bad:
        first = f"{bad[0]['level']}: {safe(bad[0]['cause'])}, {_used(bad[0])}, {_place(bad[0])}"
    lines = wrap(f"{first}; {counts}", "", "  ")
    rows = [
        [
            _LEVEL_WORDS[pool["level"]],
            "-" if pool["percent"] is None else f"{pool['percent']:.0f} %",
            pool["cause"],
            _short(pool),
            tail(_place(pool), _WHERE_WIDTH),
        ]
        for pool in (pools if is_all else bad)
    ]
    if rows:
        headings = ["LEVEL", "FULL", "CAUSE", "USED/LIMIT", "WHERE"]
        alignment = ("left", "right", "left", "left", "left")
        lines += ["", draw(rows, headings, alignment)]
    for pool in bad:
        lines += ["", *_near(pool)]
    lines.append("")
    measured = [pool for pool in pools if pool["level"] == "fine" and pool["percent"] is not None]
    if measured and not is_all:
        most = measured[0]
        text = f"fine: {found['counts']['fine']}, the fullest is {most['cause']}, {_used(most)}"
        lines += wrap(f"{text}, {_place(most)}; --all shows them", "", "  ")
    for level, reason, words in (
        ("fine", "free", "not limited"),
        ("unknown", "why", "not known"),
    ):
        places: dict[tuple[str, str], list[str]] = {}
        for pool in pools:
            if pool["level"] == level and (pool[reason] or level == "unknown"):
                key = (pool["cause"], pool[reason] or "?")
                places.setdefault(key, []).append(_place(pool))
        for (cause, why), names in places.items():
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            text = f"{words}: {cause}, {', '.join(names[:3])}{more}: {safe(why)}"
            lines += wrap(text, "", "  ")
    if found["unseen"]:
        lines += wrap(f"counts are lower bounds: {safe(found['unseen'])}", "", "  ")
    if found["zombies"]:
        parts = [
            f"{each['zombies']} of "
            + (f"{safe(each['comm'])}[{each['pid']}]" if each["comm"] else "a parent unseen here")
            for each in found["zombies"]
        ]
        text = f"zombies: {found['zombies_total']}; their parents must reap them: "
        lines += wrap(text + ", ".join(parts), "", "  ")
    lines += wrap(
        f"{safe(found['host'])}, {safe(found['kernel'])}: {found['tasks']} tasks of "
        f"{found['processes']} processes read in {found['seconds']:.2f} s",
        "",
        "  ",
    )
    return "\n".join(lines) + "\n"


def _near(pool: dict[str, Any]) -> list[str]:
    lines = wrap(f"{safe(pool['cause'])}, {pool['level']}: {_place(pool)}", "", "  ")
    lines += wrap(f"{safe(pool['name'])}: {_used(pool)}", "  ", "    ")
    facts = [pool["note"], pool["why"]]
    if pool["setting"] not in (None, pool["limit"]):
        facts.insert(0, f"{pool['name']} is {amount(pool['setting'], pool['unit'])}")
    if pool["hits"]:
        facts.append(f"max of pids.events is {pool['hits']}")
    if pool["process"] and pool["uid"] is not None:
        process = pool["process"]
        facts.append(f"the lowest limit is that of {process['comm']}[{process['pid']}]")
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
