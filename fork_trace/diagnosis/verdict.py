"""What failed and why: the step, the errno and the state that a failed fork met in, its cause out. Pure.

The rules are the causes' own; here is how they are weighed against each other.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from fork_trace.diagnosis.cause import ASKED, REFUSES, UNREAD, Cause, Fit
from fork_trace.diagnosis.causes import CAUSES
from fork_trace.diagnosis.causes.memory import (
    KERNEL_MEMORY,
    MEMORY_CGROUP,
    OVERCOMMIT_HEURISTIC,
    OVERCOMMIT_NEVER,
)
from fork_trace.diagnosis.causes.namespaces import NAMESPACE_LIMIT, PID_NAMESPACE_DEAD
from fork_trace.diagnosis.causes.state import UNKNOWN
from fork_trace.diagnosis.causes.tasks import THREADS_MAX
from fork_trace.diagnosis.narrowing import possible_steps
from fork_trace.diagnosis.readings import ProcReadings
from fork_trace.model.events import Key
from fork_trace.model.steps import BY_NAME, BY_NUMBER, MAY_BE_INLINED, SEEN_IN_PART, name_of

OBSERVED = "observed"
INFERRED = "inferred"


class Verdict(NamedTuple):
    """Why a fork failed, at which step, and whether that was observed or concluded."""

    cause: str
    certainty: str
    step: str = "copy_process"
    alternatives: tuple[str, ...] = ()  # other causes that fit as well, likeliest first
    # Of a fork that no program saw refused: the steps that can have, in the kernel's order; empty
    # where only one can, or where that is not narrowed down.
    possible_steps: tuple[str, ...] = ()


# Where Python knows two names of a number, it gives the C library's: these are the kernel's.
_KERNEL_NAMES = {errno.EDEADLK: "EDEADLK", errno.EOPNOTSUPP: "EOPNOTSUPP"}


def errno_name(number: int) -> str:
    """Name an errno as the kernel does; an unknown one stays visible as unknown:N."""
    return _KERNEL_NAMES.get(number) or errno.errorcode.get(number, f"unknown:{number}")


def _by_step() -> dict[str, dict[int, str]]:
    found: dict[str, dict[int, str]] = {}
    for cause in CAUSES:
        for refusal in cause.refusals:
            if not refusal.detail:
                found.setdefault(refusal.step, {})[refusal.errno] = cause.slug
    return found


def _by_state() -> dict[int, tuple[tuple[Fit, Cause], ...]]:
    found: dict[int, list[tuple[Fit, Cause]]] = {}
    for cause in CAUSES:
        for fit in cause.fits:
            found.setdefault(fit.errno, []).append((fit, cause))
    return {number: tuple(sorted(rows, key=_place)) for number, rows in found.items()}


def _place(row: tuple[Fit, Cause]) -> tuple[bool, int, int]:
    fit = row[0]
    if fit.strength != REFUSES:
        return True, 0, fit.place
    # copy_process has number 0, and is what is left when no step of it is known.
    return False, BY_NAME[fit.step].number or len(BY_NAME), fit.place


# A step that was observed refusing -> its cause by errno; 0 is any other errno. ENOMEM is always
# memory unless it stands here.
BY_STEP: Mapping[str, Mapping[int, str]] = _by_step()
# The same where a detail decides.
BY_DETAIL: Mapping[tuple[str, int, str], str] = {
    (refusal.step, refusal.errno, refusal.detail): cause.slug
    for cause in CAUSES
    for refusal in cause.refusals
    if refusal.detail
}
# For a failure that no watched step explains: what can fit, by errno. Those that refuse stand in the
# kernel's order, so that of two causes at once the one that the kernel meets first is blamed.
BY_STATE: Mapping[int, tuple[tuple[Fit, Cause], ...]] = _by_state()


_UNREAD = ProcReadings()
# The kernel side has looked whether one mapping of the caller is larger than RAM and swap.
MAPPINGS_SEEN = frozenset({"one-mapping", "small-mappings"})


def diagnose(key: Key, watched: Collection[str] = (), after: ProcReadings = _UNREAD) -> Verdict:
    """Name the cause of a failure by its step, errno and deciding detail, or by the state it met.

    `watched` are the steps whose functions have a program that surely ran: what was silent there has
    let the call pass, as far as anybody can tell.
    `after` serves only where the kernel side could not read or decide; the cause is inferred then.
    """
    if MAPPINGS_SEEN.intersection(key.fits):
        after = after._replace(has_huge_mapping="one-mapping" in key.fits)
    verdict = _diagnose(key, watched, after)
    is_open = verdict.step == "copy_process" and key.error == errno.ENOMEM
    if not is_open or verdict.cause not in (KERNEL_MEMORY.slug, MEMORY_CGROUP.slug):
        return verdict
    steps = possible_steps(key, [each for each in watched if each not in _SILENT])
    if len(steps) == 1 and not key.is_memcg:
        return verdict._replace(step=steps[0])
    return verdict._replace(possible_steps=steps)


# Steps that the exit of a system call tells of: no function refused, and none else can have.
_SEEN_AT_EXIT = ("seccomp", "kernel_clone", "mmap", "mprotect", "execve")


def _diagnose(key: Key, watched: Collection[str], after: ProcReadings) -> Verdict:
    name = name_of(key.step)
    is_seen = key.is_observed or name in _SEEN_AT_EXIT
    if name == "copy_process" and key.is_memcg:
        return Verdict(MEMORY_CGROUP.slug, OBSERVED)
    if BY_NUMBER.get(key.step) is None or (not is_seen and name != "copy_process"):
        return Verdict(UNKNOWN.slug, INFERRED, name)
    if not is_seen:
        return _of_user_namespace(_judged_by_state(key, watched, after), key, watched)
    certainty = OBSERVED if key.is_observed else INFERRED
    inside = _refused_inside(key, watched, after)
    if inside is not None:
        return inside
    if name == "__vm_enough_memory":
        return _overcommit(key.detail, after, certainty)
    is_of_memcg = key.is_memcg or "memcg" in key.fits
    if (name, key.error, key.detail) == ("alloc_pid", errno.ENOMEM, "") and not is_of_memcg:
        # Whether its init lives could not be read: both stay possible.
        return Verdict(PID_NAMESPACE_DEAD.slug, INFERRED, name, (KERNEL_MEMORY.slug,))
    if key.error == errno.ENOSPC and key.detail in _UNPROVEN and name in _MAKE_NAMESPACES:
        return _unproven(key.detail, name)
    by_errno = BY_STEP.get(name, {})
    cause = (
        BY_DETAIL.get((name, key.error, key.detail))
        or BY_DETAIL.get(("", 0, key.detail))
        or by_errno.get(key.error)
    )
    if cause is None and key.error == errno.ENOMEM:
        return _memory(key, certainty, name)
    cause = cause or by_errno.get(0)
    return Verdict(cause, certainty, name) if cause else Verdict(UNKNOWN.slug, INFERRED, name)


def _refused_inside(key: Key, watched: Collection[str], after: ProcReadings) -> Verdict | None:
    """Name the limit that refused in a function inside the one that was seen, where that one was missed."""
    outer = BY_NUMBER[key.step]
    if not outer.last_inner or key.is_memcg:
        return None
    last = next(step.number for step in BY_NAME.values() if step.ident == outer.last_inner)
    found = [
        verdict
        for fit, verdict in _candidates(key, watched, after)
        if fit.strength == REFUSES
        and fit.word in key.fits
        and outer.number <= BY_NAME[fit.step].number <= last
        and (verdict.cause != OVERCOMMIT_HEURISTIC.slug or after.has_huge_mapping)
    ]
    return _first_of(found) if found else None


_MAKE_NAMESPACES = ("copy_namespaces", *NAMESPACE_LIMIT.steps)
# ENOSPC of a namespace, by detail: a count was near its limit, so that one may have ended since; not
# all of the counts could be read, and no limit was seen reached.
_UNPROVEN = {"ns-near": (NAMESPACE_LIMIT, KERNEL_MEMORY), "": (KERNEL_MEMORY, NAMESPACE_LIMIT)}


def _unproven(detail: str, step: str) -> Verdict:
    likelier, other = _UNPROVEN[detail]
    return Verdict(likelier.slug, INFERRED, step, (other.slug,))


def _memory(key: Key, certainty: str, step: str) -> Verdict:
    if key.is_memcg:
        return Verdict(MEMORY_CGROUP.slug, OBSERVED, step)
    if "memcg" in key.fits:
        return Verdict(MEMORY_CGROUP.slug, INFERRED, step, (KERNEL_MEMORY.slug,))
    return Verdict(KERNEL_MEMORY.slug, certainty, step)


def _overcommit(detail: str, after: ProcReadings, certainty: str) -> Verdict:
    step = "__vm_enough_memory"
    heuristic, never = OVERCOMMIT_HEURISTIC.slug, OVERCOMMIT_NEVER.slug
    if detail == "overcommit-guess":
        return Verdict(heuristic, certainty, step)
    if detail == "overcommit-never":
        return Verdict(never, certainty, step)
    if detail.startswith("overcommit-") or after.overcommit_memory == 1:
        return Verdict(UNKNOWN.slug, INFERRED, step)
    # The mode was read too late to be sure: both rules stay possible, unless no mapping is so large.
    if after.has_huge_mapping is False or (after.overcommit_memory is None):
        rest = () if after.has_huge_mapping is False else (heuristic,)
        return Verdict(never, INFERRED, step, rest)
    rules = [heuristic, never]
    is_never = after.overcommit_memory == 2
    return Verdict(rules[is_never], INFERRED, step, (rules[not is_never],))


_SILENT = ("copy_process", *MAY_BE_INLINED, *SEEN_IN_PART)  # steps whose silence proves nothing


def _candidates(
    key: Key, watched: Collection[str], after: ProcReadings
) -> Iterator[tuple[Fit, Verdict]]:
    """Yield what the state allows, by the overcommit rule where that decides."""
    for fit, cause in BY_STATE.get(key.error, ()):
        step = fit.step
        if step in watched and step not in _SILENT:
            if not fit.later_step:
                continue
            step = fit.later_step
        if fit.word and fit.word not in key.fits and fit.word != key.detail:
            continue
        if cause is NAMESPACE_LIMIT and fit.strength == ASKED:
            if key.detail in _UNPROVEN:
                yield fit, _unproven(key.detail, step)
            continue
        if cause is THREADS_MAX and fit.strength != REFUSES and after.threads_are_far:
            continue
        if cause is not OVERCOMMIT_NEVER:
            yield fit, Verdict(cause.slug, INFERRED, step)
            continue
        if fit.strength == UNREAD and "copies-mm" not in key.fits:
            continue
        verdict = _overcommit(key.detail, after, INFERRED)
        if verdict.cause == UNKNOWN.slug:  # mode 1 refuses nothing
            continue
        if not key.detail and after.overcommit_memory == 0 and after.has_huge_mapping is False:
            continue  # nor does mode 0, unless a mapping is so large
        yield fit, verdict


def _contradicted(key: Key, watched: Collection[str]) -> list[Verdict]:
    """Name the limits that are reached, by numbers that leave no doubt, at steps that were silent all the same.

    That program was inlined, filtered or left out in a way that nobody knows of: what is reached still
    speaks louder than what was only asked for.
    """
    return [
        Verdict(cause.slug, INFERRED, fit.step)
        for fit, cause in BY_STATE.get(key.error, ())
        if fit.strength == REFUSES
        and fit.word in key.fits
        and fit.step in watched
        and fit.step not in _SILENT
        and not fit.later_step
        and cause is not OVERCOMMIT_NEVER
    ]


def _of_user_namespace(verdict: Verdict, key: Key, watched: Collection[str]) -> Verdict:
    """Leave open which namespace was refused where a new user namespace, counted before all others, is one of them."""
    is_of_count = (verdict.step, key.error) == ("copy_namespaces", errno.ENOSPC)
    if not is_of_count or "asked-newuser" not in key.fits or "create_user_ns" in watched:
        return verdict
    if "asked-namespace" not in key.fits:
        return verdict._replace(step="create_user_ns")
    steps = ("create_user_ns", "copy_namespaces")
    return verdict._replace(step="copy_process", possible_steps=steps)


def _judged_by_state(key: Key, watched: Collection[str], after: ProcReadings) -> Verdict:
    strong: list[Verdict] = []
    weak: list[tuple[Fit, Verdict]] = []
    doubtful: list[Verdict] = []
    if "unjudged" in key.fits:
        # There was no room to look, or what was seen did not fit the error: blame nobody.
        return Verdict(UNKNOWN.slug, INFERRED)
    for fit, verdict in _candidates(key, watched, after):
        # All mappings together pass RAM and swap, but the rule asks for one at a time.
        if verdict.cause == OVERCOMMIT_HEURISTIC.slug and not after.has_huge_mapping:
            doubtful += [verdict] * (after.has_huge_mapping is None)
        elif fit.strength == REFUSES:
            strong.append(verdict)
        else:
            weak.append((fit, verdict))
    # A cgroup full of page cache is near its limit all the time: that alone decides nothing.
    if strong and strong[0].cause == MEMORY_CGROUP.slug:
        strong += [each for _, each in weak if each.cause == KERNEL_MEMORY.slug]
    # A number that could not be read leaves its cause possible, whatever else fits.
    unread = [each for fit, each in weak if fit.strength == UNREAD]
    possible = [each for _, each in weak]
    contradicted = [] if strong else _contradicted(key, watched)
    found = strong + unread if strong else contradicted + possible
    if not strong and doubtful and not contradicted:
        found = doubtful + possible
    if found:
        return _first_of(found)
    # The threads that were there could not be counted; now there are few.
    rest = (THREADS_MAX.slug,) if "threads-unknown" in key.fits else ()
    return Verdict(UNKNOWN.slug, INFERRED, alternatives=rest)


def _first_of(found: Sequence[Verdict]) -> Verdict:
    first = found[0]
    also = [
        *first.alternatives,
        *(cause for each in found[1:] for cause in (each.cause, *each.alternatives)),
    ]
    distinct = dict.fromkeys(cause for cause in also if cause not in (first.cause, UNKNOWN.slug))
    return Verdict(first.cause, INFERRED, first.step, tuple(distinct))
