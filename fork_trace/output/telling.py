"""What is told of each place where forks failed: its numbers, who holds the pool, and what to do. Pure.

The worst place of a cause is told whole, the others in a line each with their numbers and their commands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from fork_trace.diagnosis import makers
from fork_trace.diagnosis.advice import (
    About,
    advise,
    counted_uid,
    means,
    says_ended,
    subject,
)
from fork_trace.diagnosis.evidence import counted_limit, is_at_limit
from fork_trace.escape import safe
from fork_trace.model.places import path_of
from fork_trace.model.records import Advice, Evidence, Failure
from fork_trace.output.aggregate import Table
from fork_trace.output.paragraph import Told
from fork_trace.output.place import How, Place, first_of
from fork_trace.output.report_options import MANY_HOSTS
from fork_trace.output.units import amount, count
from fork_trace.output.wording import Remedy, cut, held, held_mostly, remedy

# Places of one cause that have a line of their own.
MOST_LINES = 20
_LINES_OF_MANY = 3  # the same of many hosts
_MOST_COMMANDS, _MOST_ERRNOS, _MOST_STEPS, _MOST_LIMITS = 4, 6, 3, 4
_MOST_POSSIBLE = 6  # steps; more than that say no more than their number
# bpf/logic.h, ft_count: FT_STAT_OVERFLOWED. Else the user's commands alone had no room.
_NO_ROOM = "more commands failed than can be tracked; the rest are counted by step only"
# Units of what has no number: a rule that was broken, and why a number is missing.
_NO_NUMBER = ("rule", "not read")


def tell_all(counted: Table, hosts: Sequence[str] = ()) -> list[Told]:
    """Explain every cause, the one of the worst place first; hosts are named if there are several."""
    names_host = len(hosts) > 1
    most = MOST_LINES if len(hosts) <= MANY_HOSTS else _LINES_OF_MANY
    found = counted.by_cause().values()
    return [tell(each, names_host, counted.when, most) for each in found]


def tell(
    found: Sequence[Place],
    names_host: bool = False,
    when: Callable[[int], str] = lambda _time_ns: "",
    most: int = MOST_LINES,
) -> Told:
    """Explain one cause by its places: the first whole, `most` of the others in a line each.

    `when` writes an instant, or nothing where all of them are close to each other.
    """
    unknown = [_steps(each) for each in found if _has_only_steps(each)]
    known = [each for each in found if not _has_only_steps(each)]
    if not known:
        return Told(f"unknown: {_NO_ROOM}", tuple(unknown), ())
    place, others = known[0], known[1:]
    facts = [_headline(place, names_host, when(place.latest.time_ns)), *_who(place)]
    facts += [*_maker(place.latest), *_alternatives(place.told), *_numbers(place)]
    facts += [*holders(place), *_fallback(place), *_other_call(place)]
    facts += [f"{each}; {_NO_ROOM}" for each in unknown]
    advice = tuple(remedy(each) for each in advice_of(place.told, place.has_ended))
    return _whole(Told(title(place.key.cause), tuple(facts), advice), others, names_host, most)


def advice_of(
    failure: Failure, has_ended: Callable[[int], bool | None] | None = None
) -> tuple[Advice, ...]:
    """Return what to do; a recorder's records leave it to the reader, for it follows from the rest.

    A record's own advice names a process that lived then. `has_ended` says of a pid whether it has ended
    since, or None: it may have.
    """
    pid = subject(failure.syscall, failure.pid, failure.ppid)
    ended = False if failure.advice else None
    if has_ended is not None and pid is not None:
        ended = has_ended(pid)
    if failure.comm is None or (failure.advice and (ended is False or says_ended(failure.advice))):
        return failure.advice
    about = About(failure.comm, failure.errno, failure.container, has_ended=ended)
    uid = counted_uid(failure.evidence, failure.uid)
    told = advise(failure.cause, failure.evidence, uid, failure.cgroup, pid, about)
    # What follows is of who made the task.
    return told + failure.advice[len(told) :]


def _whole(told: Told, others: Sequence[Place], names_host: bool, most: int = MOST_LINES) -> Told:
    """Add the other places of a cause, each in a line as long as these are not too many."""
    lines = tuple(in_a_line(each, names_host) for each in others[:most])
    more = _more(others[most:])
    if more and most < MOST_LINES:
        more += "; `--by host,cause` shows the counts"
    return replace(told, places=lines, more=more)


def _has_only_steps(place: Place) -> bool:
    """Say whether nothing but the step is known of all failures of a place."""
    return place.sample is None and set(place.errnos) == {"?"} and set(place.commands) == {None}


def _steps(place: Place) -> str:
    steps = Counter[str]()
    for how, number in place.found.items():
        steps[how.step] += number
    return "; ".join(f"{number} x rejected in {safe(step)}" for step, number in steps.items())


def tell_briefly(
    found: Sequence[Place], lists_others: bool = False, names_host: bool = False
) -> Told:
    """Say of a cause only what it means, its worst place's number, who holds it, and what mitigates it.

    The other places are counted, or with `lists_others` told in a line each.
    """
    place, others = found[0], found[1:]
    facts = [_sentence(item, place.told) for item in place.told.evidence[:1]]
    advice = advice_of(place.told, place.has_ended)
    mitigations = [each for each in advice if each.kind == "mitigate"]
    told = Told(
        title(place.key.cause),
        (*facts, *holders(place)),
        tuple(remedy(each) for each in (mitigations or advice)[:1]),
    )
    return _whole(told, others, names_host) if lists_others else replace(told, more=_more(others))


def title(cause: str) -> str:
    """Say what a cause means."""
    return f"{safe(cause)}: {means(cause)}"


def tell_in_a_line(cause: str, width: int) -> str:
    """Say of a cause only what it means, in one line; its numbers are in the table."""
    return cut(title(cause).partition(";")[0], width)


def in_a_line(place: Place, names_host: bool = False) -> Remedy:
    """Tell a place in a line: how often, at which limit, where, for whom, who holds it; what mitigates it."""
    first = first_of(place.sample)
    what = _errnos(place)
    what += f" on {safe(place.key.host or '?')}" if names_host else ""
    what += f" at {_amounts(first)}" if first is not None else ""
    parts = [what, *([safe(place.key.where)] if place.key.where else [])]
    text = ", ".join(parts)
    # A process is named by its command.
    text += "" if place.key.kind in ("process", "rule") else f": {_commands(place)}"
    holder = held_mostly(place.held.holders or ()) if place.held else ""
    text += f"; {holder}" if holder else ""
    found = [each for each in advice_of(place.told, place.has_ended) if each.kind == "mitigate"]
    # The first of alternatives; the place that is told whole has them all.
    commands = tuple(safe(command) for each in found for command in each.commands[:1])
    return Remedy(text, commands)


def _more(rest: Sequence[Place]) -> str:
    if not rest:
        return ""
    failures = count(sum(each.count for each in rest), "failure", "failures")
    return f"... and {count(len(rest), 'more place', 'more places')} with {failures}"


def _headline(place: Place, names_host: bool, when: str) -> str:
    latest = place.latest
    host = f" on {safe(place.key.host or '?')}" if names_host else ""
    return (
        f"{_errnos(place)}{host}, {_found(place)}; last: {_last(latest)}, "
        f"cgroup {safe(latest.cgroup or '?')}{when}"
    )


def _errnos(place: Place) -> str:
    """Count the failures by errno, most first."""
    found = place.errnos.most_common()
    if len(found) == 1:
        return f"{place.count} x {safe(found[0][0])}"
    named = [f"{number} x {safe(errno)}" for errno, number in found[:_MOST_ERRNOS]]
    return f"{place.count} failures ({', '.join(named)}{', ...' if found[_MOST_ERRNOS:] else ''})"


def _found(place: Place) -> str:
    """Say how the cause is known, by count where that differs."""
    found = place.found.most_common()
    if len(found) == 1:
        return _how(found[0][0])
    told = [f"{number} {_how(how)}" for how, number in found[:_MOST_STEPS]]
    rest = sum(number for _, number in found[_MOST_STEPS:])
    return ", ".join(told) + (f", {rest} elsewhere" if rest else "")


def _how(how: How) -> str:
    if how.certainty == "observed":
        return f"rejected by {safe(how.function or how.step)} (observed)"
    if how.step == "copy_process":
        return _somewhere(how.possible_steps)
    return f"inferred at {safe(how.step)} from kernel state"


def _somewhere(steps: Sequence[str]) -> str:
    if not steps:
        return "rejected somewhere in copy_process"
    if len(steps) > _MOST_POSSIBLE:
        return f"rejected in one of {len(steps)} steps of copy_process"
    *rest, last = map(safe, steps)
    return f"rejected in {', '.join(rest)} or {last}"


def _who(place: Place) -> list[str]:
    """Name the commands, where there are several."""
    return [f"commands: {_commands(place)}"] if len(place.commands) > 1 else []


def _commands(place: Place) -> str:
    found = place.commands.most_common()
    if len(found) == 1 and found[0][0] is not None:
        return safe(found[0][0])
    named = [
        f"{_several(place.latest) if comm is None else safe(comm)} {number}"
        for comm, number in found[:_MOST_COMMANDS]
    ]
    rest = place.count - sum(number for _, number in found[:_MOST_COMMANDS])
    return ", ".join(named) + (f", others {rest}" if rest else "")


def _several(latest: Failure) -> str:
    if latest.uid is None:
        return "several commands" if latest.errno else "?"
    return f"several commands of uid {latest.uid}"


def worst_command(place: Place) -> str:
    """Name the command that a place refused most often."""
    comm = place.commands.most_common(1)[0][0]
    return _several(place.latest) if comm is None else safe(comm)


def _last(latest: Failure) -> str:
    if latest.comm is None:
        return _several(latest)
    pid = "?" if latest.pid is None else latest.pid
    return f"{safe(latest.comm)}[{pid}] {safe(latest.syscall or '?')}"


def _maker(latest: Failure) -> list[str]:
    """Say who gets the error of a task that the kernel makes by itself."""
    made = makers.told(latest.maker) if latest.maker is not None else None
    return [] if made is None else [f"{safe(made)}."]


def _alternatives(failure: Failure) -> list[str]:
    if not failure.alternatives:
        return []
    return [f"Also possible: {', '.join(map(safe, failure.alternatives))}."]


def _numbers(place: Place) -> list[str]:
    facts = [_sentence(item, place.told) for item in place.told.evidence]
    first = first_of(place.sample)
    others = [limit for limit, _ in place.limits.most_common() if first and limit != first.limit]
    if first is not None and others:
        named = ", ".join(amount(limit, first.unit) for limit in others[:_MOST_LIMITS])
        more = ", ..." if others[_MOST_LIMITS:] else ""
        facts.insert(1, f"the limit was also {named}{more}: it was changed, or differs by process")
    return facts


def _other_call(place: Place) -> list[str]:
    """Say of a call that makes no task what it is: nobody's fork failed."""
    if place.latest.syscall == "execve":
        return [
            "no fork failed: the caller changed its user, which the kernel lets pass over the limit, "
            "and may then start no program"
        ]
    if place.latest.syscall == "unshare":
        return ["no fork failed: the caller asked for a namespace of its own"]
    return []


def _fallback(place: Place) -> list[str]:
    # One that went through in another way is no failure: bpf/logic.h, ft_on_next_call.
    number = place.errnos["ENOSYS"]
    if place.latest.syscall != "clone3" or not number:
        return []
    return [
        f"{number} x ENOSYS from clone3, and the program did not call clone, fork or vfork instead, "
        "as libc does"
    ]


def holders(place: Place) -> list[str]:
    """Say who holds the pool of a place; nothing where it was not read."""
    failure = place.held or place.told
    if failure.holders is None:
        return []
    first = first_of(failure)
    return [held(failure.holders, failure.holders_total, first.value if first else None)]


def _amounts(evidence: Evidence) -> str:
    if evidence.value is None and evidence.unit in _NO_NUMBER:
        return f"{safe(evidence.name)}: {safe(evidence.where)}"
    text = f"{safe(evidence.name)} {amount(evidence.value, evidence.unit)}"
    limit = counted_limit(evidence)
    return text if limit is None else f"{text}/{amount(limit, evidence.unit)}"


def _sentence(evidence: Evidence, failure: Failure) -> str:
    """Write one number with its limit and where that is: a cgroup by one spelling everywhere."""
    where = evidence.where
    if where.startswith("/"):
        where = f"cgroup {path_of(where, failure.cgroup)}"
    if evidence.value is None and evidence.unit in _NO_NUMBER:
        words = "" if evidence.unit == "rule" else f"{evidence.unit}, "
        return f"{safe(evidence.name)}: {words}{safe(where)}"
    text = f"{safe(evidence.name)}: {amount(evidence.value, evidence.unit)}"
    limit = counted_limit(evidence)
    if limit is not None:
        text += f" of {amount(limit, evidence.unit)}"
    if evidence.limit not in (None, limit):
        where += f" (it is {evidence.limit}; the reserved numbers are not given out)"
    if evidence.unit not in ("KiB", "mode"):
        text += f" {safe(evidence.unit)}"
    if evidence.name == "vm.overcommit_memory":
        return text
    return f"{text}, {safe(where)}{_read_when(evidence)}"


def _read_when(evidence: Evidence) -> str:
    """Say of a number that cannot be the one at the refusal when it was read."""
    if evidence.value is None or evidence.limit is None or is_at_limit(evidence):
        return ""
    if evidence.read == "proc":
        return ", read afterwards"
    return ", read just after the refusal" if _is_count(evidence) else ""


def _is_count(evidence: Evidence) -> bool:
    # Each fork asks for one of these; of memory it asks for more at a time.
    return evidence.unit in ("tasks", "threads", "pids in use", "namespaces")
