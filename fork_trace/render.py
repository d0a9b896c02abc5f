"""Records and rows as text for people. All names from the host are hostile: they pass through `names`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from fork_trace import catalogue
from fork_trace.aggregate import Row, Table
from fork_trace.names import json_line, safe
from fork_trace.records import Evidence, Failure, Header, Holder, Summary

if TYPE_CHECKING:
    # The book of texts is not for those who watch.
    from fork_trace.explain import Answer

_WIDTH = 79
_CELL_WIDTHS = {"command": 15, "caller": 28, "cause": 21, "step": 18}
_CELL_WIDTH = 24
_LEAST_WIDTH = 8
_TIMES_WIDTH = 36  # of the three columns that --times adds


@dataclass(frozen=True)
class More:
    """What a report shows beyond the table and the causes, if asked."""

    times: bool = False
    stacks: bool = False


PLAIN = More()


def cell(text: str | None, width: int) -> str:
    """Fit a name into a column; an unknown one is a visible "?", a cut one ends in "~"."""
    if text is None:
        return "?"
    return _cut(safe(text), width)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "~"


def amount(value: int | None, unit: str) -> str:
    """Write a number for people: KiB in MiB or GiB where they get long; unknown is "?"."""
    if value is None:
        return "?"
    if unit != "KiB":
        return str(value)
    for name, size in (("TiB", 1 << 30), ("GiB", 1 << 20), ("MiB", 1 << 10)):
        if value >= 10 * size or (value >= size and name != "MiB"):
            return f"{value / size:.1f} {name}" if value < 100 * size else f"{value // size} {name}"
    return f"{value} KiB"


def _against(failure: Failure | None) -> str:
    if failure is None or not failure.evidence:
        return "?"
    first = failure.evidence[0]
    value = amount(first.value, first.unit).replace("iB", "").replace(" ", "")
    if first.limit is None:
        return value if first.unit in ("tasks", "KiB") else "-"
    return f"{value}/{amount(first.limit, first.unit).replace('iB', '').replace(' ', '')}"


def table(rows: Iterable[Row], by: Sequence[str], more: More = PLAIN) -> str:
    """Draw the rows, most failures first; at most 80 columns with the default `--by`."""
    headings = ["COUNT", *(name.upper() for name in by), "ERRNO", "USED/LIMIT"]
    headings += ["PER S", "FIRST", "LAST"] if more.times else []
    lines = []
    for row in rows:
        cells: list[str] = [str(row.count)]
        for name, value in zip(by, row.key):
            text = cell(value, _CELL_WIDTHS.get(name, _CELL_WIDTH))
            if name == "cause" and row.latest and row.latest.certainty != "observed":
                # The longest slugs leave no room for the blank.
                text += " *" if len(text) < _CELL_WIDTHS["cause"] else "*"
            cells.append(text)
        errnos = sorted(safe(name) for name in row.errnos)
        cells.append(errnos[0] if len(errnos) == 1 else f"{errnos[0]}+{len(errnos) - 1}")
        cells.append(_against(row.latest) if len(row.causes) == 1 else "")
        if more.times:
            rate = row.per_second()
            cells.append("-" if rate is None else f"{rate:.3g}")
            cells += [_clock(row.first_ns), _clock(row.last_ns)]
        lines.append(cells)
    alignment = ("right", *("left" for _ in headings[1:]))
    _narrow(
        lines,
        headings,
        [1 + by.index(name) for name in ("caller", "command") if name in by],
        _WIDTH + _TIMES_WIDTH * more.times,
    )
    text = tabulate(
        lines,
        headings,
        tablefmt="plain",
        colalign=alignment if lines else None,
        disable_numparse=True,
    )
    if any(row.latest and row.latest.certainty != "observed" for row in _with_cause(rows, by)):
        text += "\n* inferred from the numbers at that instant, not seen refusing"
    return text


def _clock(time_ns: int) -> str:
    try:
        return datetime.fromtimestamp(time_ns // 10**9, timezone.utc).strftime("%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return "?"


def stacks(rows: Iterable[Row], by: Sequence[str]) -> list[str]:
    """Write the whole stack of each row's latest sample, innermost frame first."""
    lines = []
    for row in rows:
        names = ", ".join(safe(value or "?") for value in row.key)
        sample = row.sample
        lines += ["", *wrap(f"{row.count} x {names}", "", "  ")]
        if sample is None:
            lines.append("  no stack was sampled")
            continue
        if sample.stack_by == "frame-pointers":
            lines.append("  by frame pointers only: callers without them are left out")
        for number, frame in enumerate(sample.stack):
            where = ""
            if frame.file is not None:
                where = f" in {safe(frame.file)}"
                where += "" if frame.offset is None else f"+{frame.offset:#x}"
            elif frame.build_id is not None:
                where = f" in a file of build id {safe(frame.build_id)}"
            name = safe(frame.symbol) if frame.symbol is not None else f"{frame.address:#x}"
            lines += wrap(f"#{number:<2} {name}{where}", "  ", "      ")
            if frame.symbol is None and frame.file is not None and frame.build_id is not None:
                lines.append(f"      build id {safe(frame.build_id)}")
    return lines


def _narrow(
    lines: list[list[str]], headings: list[str], columns: Sequence[int], width: int
) -> None:
    """Cut these columns, the first one first, as far as a wide table needs to keep its width."""
    # tabulate makes a column two wider than its heading.
    widths = [
        max(len(heading) + 2, *(len(line[n]) for line in lines)) if lines else 0
        for n, heading in enumerate(headings)
    ]
    for column in columns:
        over = sum(widths) + 2 * (len(widths) - 1) - width
        if over > 0:
            widths[column] = max(widths[column] - over, _LEAST_WIDTH)
            for line in lines:
                line[column] = _cut(line[column], widths[column])


def _with_cause(rows: Iterable[Row], by: Sequence[str]) -> Iterable[Row]:
    return rows if "cause" in by else ()


def _sentence(evidence: Evidence) -> str:
    text = f"{safe(evidence.name)}: {amount(evidence.value, evidence.unit)}"
    if evidence.limit is not None:
        text += f" of {amount(evidence.limit, evidence.unit)}"
    if evidence.unit not in ("KiB", "mode"):
        text += f" {safe(evidence.unit)}"
    if evidence.name == "vm.overcommit_memory":
        return text
    return f"{text}, {safe(evidence.where)}"


def _count(number: int, word: str, words: str) -> str:
    return f"{number} {word if number == 1 else words}"


def _holding(holder: Holder) -> str:
    pid = "?" if holder.pid is None else holder.pid
    name = "a parent unseen here" if holder.comm is None else f"{safe(holder.comm)}[{pid}]"
    zombies = _count(holder.zombies, "zombie", "zombies")
    if not holder.tasks:
        return f"{zombies} of {name}"
    text = f"{name} {_count(holder.tasks, 'task', 'tasks')}"
    text += f" ({_count(holder.processes, 'process', 'processes')})"
    return f"{text} and {zombies}" if holder.zombies else text


def _held(holders: Sequence[Holder], total: int | None, value: int | None) -> str:
    if not holders:
        return "held by: nobody any more when /proc was read"
    parts = [_holding(holder) for holder in holders]
    if total is None:
        parts.append("and more, as /proc was too large to read it all")
    else:
        others = total - sum(holder.tasks + holder.zombies for holder in holders)
        if others > 0:
            parts.append(f"others {others}")
        if value not in (None, total):
            parts.append(f"{total} in all by then")
    return f"held by: {'; '.join(parts)}"


def wrap(text: str, first: str, rest: str) -> list[str]:
    """Break a sentence into lines under 80 columns, the first and the others indented as given."""
    # Long paths stay whole, so that they can be copied.
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def cause_details(failure: Failure, count: int) -> list[str]:
    """Explain one cause by its latest failure: what it means, the numbers, what to do."""
    lines = wrap(f"{safe(failure.cause)}: {catalogue.means(failure.cause)}", "", "  ")
    if failure.certainty == "observed":
        where = f"seen refusing in {safe(failure.function or failure.step)}"
    elif failure.step == "copy_process":
        where = "refused somewhere in copy_process"
    else:
        where = f"inferred at {safe(failure.step)}, by the state at that instant"
    lines += wrap(
        f"{count} x {safe(failure.errno or '?')}, {where}; last: {safe(failure.comm or '?')}"
        f"[{'?' if failure.pid is None else failure.pid}] {safe(failure.syscall or '?')}, "
        f"cgroup {safe(failure.cgroup or '?')}",
        "  ",
        "  ",
    )
    if failure.also:
        lines += wrap(f"It can be as well: {', '.join(map(safe, failure.also))}.", "  ", "    ")
    for item in failure.evidence:
        lines += wrap(_sentence(item), "  ", "    ")
    if failure.holders is not None:
        value = failure.evidence[0].value if failure.evidence else None
        lines += wrap(_held(failure.holders, failure.holders_total, value), "  ", "    ")
    for sentence in failure.advice:
        lines += wrap(safe(sentence), "  -> ", "     ")
    return lines


def verdict(counted: Table, duration_s: float | None, hosts: Sequence[str] = ()) -> str:
    """Say the result in one line, worst first."""
    span = f" in {duration_s:.0f} s" if duration_s is not None else ""
    on = f" on {len(hosts)} hosts" if len(hosts) > 1 else ""
    if not counted.failures:
        return f"No fork failed{on}{span}."
    causes = len(counted.causes)
    worst = counted.causes.most_common(1)[0][0]
    latest = counted.latest[worst]
    text = (
        f"{causes} cause{'s' if causes > 1 else ''}, {counted.failures} "
        f"failed fork{'s' if counted.failures > 1 else ''}{on}{span}; worst: {safe(worst)}"
    )
    if latest.evidence:
        first = latest.evidence[0]
        text += f", {amount(first.value, first.unit)}"
        if first.limit is not None:
            text += f" of {amount(first.limit, first.unit)}"
        text += f", {safe(first.where)}"
    return text


def losses(summary: Summary) -> str:
    """Say what the details lack; the counts are exact unless calls were missed."""
    missed = "not counted by this kernel" if summary.missed is None else str(summary.missed)
    parts = [f"lost samples: {summary.lost}", f"missed calls: {missed}"]
    if summary.missed:
        # Programs skipped by the kernel, as other tasks ran them on the same CPU at that moment.
        parts.append("so counts are lower bounds, and some causes may be unknown")
    if summary.skipped:
        parts.append(f"counted without a sample: {summary.skipped}")
    if summary.stackless:
        parts.append(f"samples without a stack: {summary.stackless}")
    if summary.folded:
        parts.append(f"counted by step only: {summary.folded}")
    if summary.retries:
        parts.append(f"restarted by a signal, not failed: {summary.retries}")
    if summary.dying:
        parts.append(f"callers killed in the middle: {summary.dying}")
    if summary.filtered:
        parts.append(f"outside the filter: {summary.filtered}")
    return "; ".join(parts)


def report(
    counted: Table,
    summaries: Sequence[Summary],
    headers: Sequence[Header],
    details: bool = True,
    more: More = PLAIN,
) -> str:
    """Write the whole report: verdict, table, each cause with numbers and advice, losses."""
    duration = max((summary.duration_s for summary in summaries), default=None)
    hosts = sorted({header.host for header in headers})
    lines = wrap(verdict(counted, duration, hosts), "", "  ")
    if counted.failures:
        lines += ["", table(counted.rows(), counted.by, more)]
        if more.stacks:
            lines += stacks(counted.rows(), counted.by)
        if details:
            for cause, count in counted.causes.most_common():
                lines += ["", *cause_details(counted.latest[cause], count)]
    lines.append("")
    for summary, header in zip(summaries, headers):
        prefix = f"{safe(header.host)}, " if len(headers) > 1 else ""
        lines += wrap(
            f"{prefix}{safe(header.kernel)}, {safe(header.rung)} by {safe(header.backend)}; "
            f"{losses(summary)}",
            "",
            "  ",
        )
        if header.passed_over:
            better = header.passed_over[0]
            text = f"not by {better.get('rung')}: {better.get('reason')}"
            lines += wrap(safe(f"{text} (`fork-trace doctor` says more)"), "", "  ")
        # Tests that are inline on every kernel are marked in the table; this is about this kernel.
        gaps = [str(gap.get("step")) for gap in header.missing if gap.get("function")]
        if gaps:
            text = f"no function to watch on this kernel for: {', '.join(gaps)}"
            lines += wrap(safe(f"{text} (`fork-trace doctor` says why)"), "", "  ")
    return "\n".join(lines) + "\n"


def json_rows(counted: Table, more: More = PLAIN) -> list[dict[str, Any]]:
    """Return the rows of a report as JSON objects."""
    rows: list[dict[str, Any]] = []
    for row in counted.rows():
        rows.append(
            {
                **dict(zip(counted.by, row.key)),
                "count": row.count,
                "errnos": dict(row.errnos),
                "causes": dict(row.causes),
                "first_ns": row.first_ns,
                "last_ns": row.last_ns,
                "per_second": row.per_second(),
            }
        )
        if more.stacks:
            stack = row.sample.stack if row.sample else ()
            rows[-1]["stack"] = [asdict(frame) for frame in stack]
    return rows


def merged_summary(
    counted: Table, summaries: Sequence[Summary], more: More = PLAIN
) -> dict[str, Any]:
    """Add up the summaries of several captures, with the rows of the merged table."""
    missed = [summary.missed for summary in summaries]
    return {
        "type": "summary",
        "captures": len(summaries),
        "failures": counted.failures,
        "causes": dict(sorted(counted.causes.items())),
        "rows": json_rows(counted, more),
        "lost": sum(summary.lost for summary in summaries),
        "missed": None if None in missed else sum(number or 0 for number in missed),
        "skipped": sum(summary.skipped for summary in summaries),
        "folded": sum(summary.folded for summary in summaries),
        "retries": sum(summary.retries for summary in summaries),
        "dying": sum(summary.dying for summary in summaries),
    }


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
    lines.append(tabulate(rows, ["FEATURE", "HERE", "WHY"], tablefmt="plain"))
    better = [
        [
            item["rung"],
            item["backend"],
            "\n".join(textwrap.wrap(safe(item["reason"]), 53)),
        ]
        for item in found["passed_over"]
    ]
    if better:
        lines += ["", tabulate(better, ["NOT TAKEN", "BY", "WHY"], tablefmt="plain")]
    steps = [
        [item["step"] or "-", "on demand" if item["later"] else "observed", item["function"]]
        for item in found["attached"]
    ]
    steps += [
        [item["step"], "inferred", "\n".join(textwrap.wrap(safe(item["reason"]), 47))]
        for item in found["missing"]
    ]
    if steps:
        lines += ["", tabulate(steps, ["STEP", "HOW", "BY"], tablefmt="plain")]
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
    return tabulate(rows, ["SCENARIO", "TOUCHES", "ERRNO", "WHAT"], tablefmt="plain") + "\n"


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
        lines += wrap("What can refuse a fork or a thread, the most frequent first:", "", "")
    elif answer.kind == "errno":
        lines += wrap(f"{answer.errno} from a fork or a thread, the most frequent first:", "", "")
    for each in answer.texts:
        lines += wrap(_said(each.application, each.text), "", "  ")
        lines += wrap(each.note, "    ", "    ") if each.note else []
    if answer.texts:
        tells = f", as it says {answer.errno}" if answer.errno else ""
        lines += wrap(f"It can be{tells}, the likeliest first:", "", "")
    if len(answer.causes) == 1:
        return "\n".join([*lines, *([""] if lines else []), *_whole(answer)]) + "\n"
    for entry in answer.causes:
        errnos = ", ".join(entry.errnos) or "any errno"
        lines += ["", *wrap(f"{entry.cause} ({errnos})", "  ", "    ")]
        lines += wrap(entry.means, "    ", "    ")
    lines += ["", "`fork-trace explain CAUSE` tells how to confirm and to cure one of them."]
    return "\n".join(lines) + "\n"


def _whole(answer: Answer) -> list[str]:
    (entry,) = answer.causes
    lines = wrap(f"{entry.cause}: {entry.means}", "", "  ")
    steps = ", ".join(answer.steps_of(entry.cause)) or "none of its own"
    lines += ["", *wrap(f"errno: {', '.join(entry.errnos) or 'any'}", "  ", "         ")]
    lines += wrap(f"limit: {entry.limit.replace('`', '')}", "  ", "         ")
    lines += wrap(f"step:  {steps}", "  ", "         ")
    for heading, remedy in (
        ("To confirm", entry.confirm),
        ("For now", entry.relieve),
        ("For good", entry.cure),
    ):
        lines += ["", heading]
        by_sentence: dict[str, list[str]] = {}
        for key, sentence in catalogue.offline(remedy).items():
            by_sentence.setdefault(sentence, []).append(catalogue.VARIANTS[key])
        for sentence, names in by_sentence.items():
            where = ", ".join(names)
            lines += wrap(f"{where}: {sentence}" if where else sentence, "  ", "    ")
    if entry.myths:
        lines += ["", "What is wrongly believed"]
        for myth in entry.myths:
            lines += wrap(myth, "  ", "    ")
    texts = answer.texts_of(entry.cause)
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
    first = "fine as far as it could be read" if found["counts"]["unknown"] else "fine"
    if bad:
        first = f"{bad[0]['level']}: {safe(bad[0]['cause'])}, {_used(bad[0])}, {_place(bad[0])}"
    lines = wrap(f"{first}; {counts}", "", "  ")
    rows = [
        [
            _LEVEL_WORDS[pool["level"]],
            "-" if pool["percent"] is None else f"{pool['percent']:.0f} %",
            pool["cause"],
            _short(pool),
            _tail(_place(pool), _WHERE_WIDTH),
        ]
        for pool in (pools if is_all else bad)
    ]
    if rows:
        headings = ["LEVEL", "FULL", "CAUSE", "USED/LIMIT", "WHERE"]
        alignment = ("left", "right", "left", "left", "left")
        drawn = tabulate(
            rows, headings, tablefmt="plain", colalign=alignment, disable_numparse=True
        )
        lines += ["", drawn]
    for pool in bad:
        lines += ["", *_near(pool)]
    lines.append("")
    measured = [pool for pool in pools if pool["level"] == "fine" and pool["percent"] is not None]
    if measured and not is_all:
        most = measured[0]
        text = f"fine: {found['counts']['fine']}, the fullest is {most['cause']}, {_used(most)}"
        lines += wrap(f"{text}, {_place(most)}; --all shows them", "", "  ")
    for level, reason, words in (
        ("fine", "free", "nothing to refuse"),
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
        lines += wrap(_held(who, pool["holders_total"], pool["used"]), "  ", "    ")
    for sentence in pool["advice"]:
        lines += wrap(safe(sentence), "  -> ", "     ")
    return lines


def _used(pool: dict[str, Any]) -> str:
    more = " or more" if pool["at_least"] else ""
    text = f"{amount(pool['used'], pool['unit'])}{more} of {amount(pool['limit'], pool['unit'])}"
    return text if pool["unit"] == "KiB" else f"{text} {pool['unit']}"


def _short(pool: dict[str, Any]) -> str:
    if pool["free"]:
        return "-"
    values = [amount(pool[name], pool["unit"]) for name in ("used", "limit")]
    return ("+/" if pool["at_least"] else "/").join(
        value.replace("iB", "").replace(" ", "") for value in values
    )


def _place(pool: dict[str, Any]) -> str:
    process = pool["process"]
    if process and pool["uid"] is None:
        return f"{safe(process['comm'])}[{process['pid']}]"
    return safe(pool["where"])


def _tail(text: str, width: int) -> str:
    # Of a path the end tells most.
    return text if len(text) <= width else "~" + text[1 - width :]
