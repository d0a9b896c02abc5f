"""Slow forks as a person reads them: a table, then the slowest one of each row with its numbers.

Records in, text out; what a page makes of it is `output`'s.
"""

from __future__ import annotations

from collections.abc import Sequence

from fork_trace.diagnosis.slow import BY_SLUG, UNKNOWN
from fork_trace.diagnosis.verdict import INFERRED
from fork_trace.escape import cut, safe
from fork_trace.latency.adding import Runs
from fork_trace.model.records import Forks, Slow
from fork_trace.output import tables
from fork_trace.output.paragraph import Told
from fork_trace.output.report_options import Timed
from fork_trace.output.units import amount, count
from fork_trace.output.wording import remedy

_MOST_ROWS, _MOST_TOLD, _MOST_NAME = 20, 3, 48
# The words of redis' own LATENCY DOCTOR for how many GB of memory, of 2 ** 30 bytes, are forked in a
# second (src/latency.c, createLatencyReport): less than so many.
_REDIS_WORDS = ((10, "terrible"), (25, "poor"), (100, "good"))
_LEAST_WAIT_US = 50  # what is shown as 0.0 ms says nothing
_ON_PARTS = ("dup_fd", "alloc_pid", "cgroup_can_fork")
_HEADINGS = ("COUNT", "COMMAND", "CALLER", "P50 MS", "P99 MS", "MAX MS", "TOTAL S", "REASON")
_NAMES = ("COMMAND", "CALLER", "REASON")
_INFERRED = "* inferred from the phase and the numbers of the process, not observed"


def redis_word(gib_per_s: float) -> str:
    """Return what redis calls that speed."""
    return next((word for limit, word in _REDIS_WORDS if gib_per_s < limit), "excellent")


def ms(value: float) -> str:
    """Write milliseconds, no more exactly than they matter."""
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _name(text: str | None) -> str:
    return "?" if text is None else cut(safe(text), _MOST_NAME)


def _reason(slow: Slow) -> str:
    return cut(safe(slow.reason), _MOST_NAME) + ("*" if slow.certainty == INFERRED else "")


def _phases(slow: Slow, attach: str) -> str:
    if slow.phases is None and attach == "tracepoint":
        return "parts not seen, as only system calls are watched"
    if slow.phases is None:
        return "parts not seen, as it was the first"
    return ", ".join(f"{safe(name)} {ms(value)}" for name, value in slow.phases.items())


def _numbers(slow: Slow) -> list[str]:
    """Write the numbers of the slowest one, those that are known."""
    known = {each.name: each for each in slow.evidence if each.value is not None}
    words = {"rss": "resident", "pgtables": "of page tables", "swap": "swapped out"}
    memory = [
        f"{amount(known[name].value, 'KiB')} {text}"
        for name, text in words.items()
        if name in known
    ]
    if "mappings" in known:
        memory.append(f"{known['mappings'].value} mappings")
    lines = [f"Memory: {', '.join(memory)}"] if memory else []
    speed = known["copied_per_second"].value if "copied_per_second" in known else None
    if speed is not None:
        gib = speed * 1e6 / (1 << 30)
        lines.append(f"Copied: {gib:.1f} GiB/s ({redis_word(gib)}, as redis calls it)")
    waits = [
        f"{safe(name[len('wait_') :]).replace('_', '-')} {ms((each.value or 0) / 1000)} ms"
        for name, each in known.items()
        if name.startswith("wait_") and (each.value or 0) >= _LEAST_WAIT_US
    ]
    if waits:
        lines.append(f"Waited: {', '.join(waits)}")
    if slow.holder is not None:
        who = f"{safe(str(slow.holder.get('comm')))} (pid {safe(str(slow.holder.get('pid')))})"
        lines.append(f"Held by: {who}, {safe(str(slow.holder.get('of')))}")
    return lines


def _told(slow: Slow, attach: str) -> Told:
    reason = BY_SLUG.get(slow.reason, UNKNOWN)
    head = f"{_name(slow.comm)} (pid {slow.pid}), {_name(slow.caller)}: {_name(slow.reason)}"
    head += f", {safe(slow.certainty)}" if slow.certainty else ""
    sample = "?" if slow.sample_ms is None else ms(slow.sample_ms)
    facts = (f"{reason.means}.", f"Sample: {sample} ms: {_phases(slow, attach)}", *_numbers(slow))
    return Told(head, facts, tuple(map(remedy, slow.advice)))


def _unseen(forks: Forks) -> list[str]:
    """Say what was not seen, in a sentence each; nothing where all was."""
    told = []
    if forks.lost:
        told.append(
            f"{count(forks.lost, 'slow fork is', 'slow forks are')} not in the table: the buffer was full."
        )
    if forks.unpaired:
        told.append(
            f"Of {count(forks.unpaired, 'fork', 'forks')} the begin or the end was not seen."
        )
    if forks.missed is None:
        told.append("This kernel does not count the forks that a program was left out of.")
    elif forks.missed:
        told.append(
            f"Up to {count(forks.missed, 'fork was', 'forks were')} missed: a program was left out."
        )
    if forks.untallied:
        told.append(
            f"{count(forks.untallied, 'fork', 'forks')} of too many commands are not counted."
        )
    if forks.unmeasured:
        told.append(
            f"{count(forks.unmeasured, 'vfork', 'vforks')} not measured: in this attach mode they "
            "cannot be told from waiting for the child."
        )
    parts = [each for each in forks.missing if str(each.get("program")).endswith(_ON_PARTS)]
    if forks.slow and parts:
        name, why = (safe(str(parts[0].get(key))) for key in ("program", "reason"))
        told.append(f"Not every part of a fork is told apart: {name}: {why}.")
    if forks.slow and forks.waits != "all":
        told.append("Not every lock that a fork can wait for is watched on this kernel.")
    return told


def tell(slow: Sequence[Slow], forks: Forks) -> Timed:
    """Tell a run: a sentence about all, the table, and the worst rows whole."""
    when = f"{safe(forks.host)}, Linux {safe(forks.kernel)}, until {safe(forks.time)}"
    counts = (each.get("count") for each in forks.commands)
    seen = sum(each for each in counts if isinstance(each, int))
    over = f"{forks.over_ms:g} ms"
    time_s = f"{forks.duration_s:.1f} s"
    stall = sum(each.total_ms for each in slow) / 1000
    head = (
        f"{count(sum(each.count for each in slow), 'fork', 'forks')} took {over} or longer, "
        f"{stall:.2f} s in all (of {seen} seen in {time_s})."
    )
    if not slow:
        head = f"No fork took {over} or longer ({count(seen, 'fork', 'forks')} seen in {time_s})."
    rows = [
        [
            *(str(each.count), _name(each.comm), _name(each.caller), ms(each.p50_ms)),
            *(ms(each.p99_ms), ms(each.max_ms), f"{each.total_ms / 1000:.2f}", _reason(each)),
        ]
        for each in slow[:_MOST_ROWS]
    ]
    is_inferred = any(each.certainty == INFERRED for each in slow[:_MOST_ROWS])
    notes = [_INFERRED] if is_inferred else []
    if len(slow) > _MOST_ROWS:
        notes.append(f"and {len(slow) - _MOST_ROWS} rows more: --json shows all")
    return Timed(
        title=f"{when}, by {safe(forks.attach)}",
        head=head,
        headings=_HEADINGS,
        rows=rows,
        notes=notes,
        told=[_told(each, forks.attach) for each in slow[:_MOST_TOLD]],
        unseen=_unseen(forks),
    )


def text(slow: Sequence[Slow], forks: Forks) -> str:
    """Write the report of a run."""
    return _text(tell(slow, forks))


def _text(timed: Timed) -> str:
    if not timed.rows:
        return "\n".join([timed.head, *timed.unseen]) + "\n"
    sides = ["left" if name in _NAMES else "right" for name in timed.headings]
    table = tables.draw(timed.rows, timed.headings, sides)
    parts = [timed.head, "\n".join([table, *timed.notes])]
    parts += ["\n".join(each.lines()) for each in timed.told]
    parts += ["\n".join(timed.unseen)] if timed.unseen else []
    return "\n\n".join(parts) + "\n"


def tell_all(runs: Runs) -> list[Timed]:
    """Tell the runs that were kept, one for each host."""
    return [tell(slow, forks) for slow, forks in runs.records()]


def recorded(timed: Sequence[Timed]) -> str:
    """Write the reports of runs that were kept."""
    return "\n".join(f"{each.title}\n{_text(each)}" for each in timed)
