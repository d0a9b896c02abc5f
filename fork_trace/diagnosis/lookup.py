"""What a person asks about -> the causes: by step, cause, errno, limit or an application's text.

Pure; the words are the causes' and `texts`', drawing them is `render`'s.
"""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fork_trace.diagnosis import advice, texts
from fork_trace.diagnosis.cause import Cause, Remedies
from fork_trace.diagnosis.causes import BY_SLUG, CAUSES
from fork_trace.diagnosis.causes.memory import KERNEL_MEMORY, MEMORY_CGROUP
from fork_trace.diagnosis.causes.policy import SCHED_EXT, SECCOMP, SECURITY_MODULE
from fork_trace.diagnosis.texts import Text
from fork_trace.errors import ForkTraceError
from fork_trace.model import steps


class StepEntry(NamedTuple):
    """One step of a fork as reports name it: what it does, and the causes it can refuse for."""

    name: str
    what: str
    causes: tuple[Cause, ...]


# A step that both a function and a call go by: what it is here.
_SHOWN = {"mmap": "mmap (thread stack)", "mprotect": "mprotect (thread stack)"}


def _step_entries() -> tuple[StepEntry, ...]:
    """Derive the steps in the kernel's order, each with its causes."""
    # What stands before the end of a fork comes before it; on the wire that end is the first.
    early = [step for step in steps.STEPS if step.name in ("seccomp", "clone_args", "kernel_clone")]
    ordered = early + [step for step in steps.STEPS if step not in early]
    # What a step itself decides comes before want of memory, which can meet any of them.
    memory = [MEMORY_CGROUP, KERNEL_MEMORY]
    likeliest = [cause for cause in CAUSES if cause not in memory] + memory
    return tuple(
        StepEntry(
            _SHOWN.get(step.name, step.name),
            step.what,
            tuple(cause for cause in likeliest if step.name in cause.steps),
        )
        for step in ordered
    )


STEPS: tuple[StepEntry, ...] = _step_entries()
BY_STEP: Mapping[str, StepEntry] = {step.name: step for step in STEPS}


# Other names of a cause, mostly the settings behind it.
_CAUSE_ALIASES: Mapping[str, str] = {
    alias: cause.slug for cause in CAUSES for alias in cause.aliases
}
# Functions within a step.
_STEP_ALIASES = {
    "mmap": "mmap (thread stack)",
    "mprotect": "mprotect (thread stack)",
    "clone3_args_valid": "clone_args",
    "copy_clone_args_from_user": "clone_args",
    "is_rlimit_overlimit": "rlimit_nproc",
    "prepare_creds": "copy_creds",
    "security_create_user_ns": "create_user_ns",
    "copy_files": "dup_fd",
    "alloc_fdtable": "dup_fd",
    "copy_mm": "dup_mmap",
    "security_vm_enough_memory_mm": "__vm_enough_memory",
    "vm_enough_memory": "__vm_enough_memory",
    "copy_io": "__copy_io",
    "pids_can_fork": "cgroup_can_fork",
    "scx_fork": "sched_cgroup_fork",
    "alloc_empty_file": "pidfd_prepare",
}
_ERRNOS = {
    **errno.errorcode,
    # Of two names for one number Python gives the C library's; this is the kernel's.
    errno.EOPNOTSUPP: "EOPNOTSUPP",
    # include/linux/errno.h: the kernel's own; user space has no name for it.
    513: "ERESTARTNOINTR",
}


class Answer(NamedTuple):
    """What the book has on a query."""

    query: str
    kind: str  # "list", "step", "cause", "errno" or "text"
    causes: tuple[Cause, ...]  # likeliest first
    step: StepEntry | None = None
    errno: str | None = None  # asked for, or told by the text
    texts: tuple[Text, ...] = ()


def steps_of(cause: Cause) -> tuple[str, ...]:
    """Name the steps that can refuse for this cause, in the kernel's order."""
    return tuple(step.name for step in STEPS if cause in step.causes)


def texts_of(cause: Cause) -> tuple[Text, ...]:
    """Return the messages that can be this cause."""
    return tuple(each for each in texts.TEXTS if cause in _fitting(each.causes, each.errnos))


def by_tool(cause: Cause) -> tuple[str, ...]:
    """Say how this tool shows a cause: while it fails, before it does, and on purpose."""
    option = " --refused" if cause.is_early else ""
    told = [
        cause.shown_by
        or f"`fork-trace capture{option} --duration 60`, run while it fails, names {cause.slug} with "
        "its numbers; a * after it means that it was inferred."
    ]
    if cause.check is not None:
        told.append("`fork-trace check` shows how near the limit is, before anything fails.")
    if cause.rehearsal:
        told.append(f"`fork-trace rehearse {cause.rehearsal}` makes it happen on purpose.")
    return tuple(told)


def look_up(words: Sequence[str]) -> Answer:
    """Find what these words mean; ForkTraceError with the nearest entry if nothing does."""
    query = " ".join(words).strip()
    if not query:
        return Answer("", "list", CAUSES)
    return _cause(query) or _step(query) or _errno(query) or _text(query) or _nothing(query)


def offers() -> tuple[tuple[str, str], ...]:
    """Return the names that a shell can offer, each with what it is; none has a blank in it."""
    named = {cause.slug: cause.means for cause in CAUSES}
    for step in STEPS:
        named.setdefault(step.name.split()[0], step.what)
    for name in (name for cause in CAUSES for name in cause.errnos):
        named.setdefault(name, "an errno")
    for each in texts.TEXTS:
        named.setdefault(each.application, "an application")
    return tuple(named.items())


def errno_name(word: str) -> str | None:
    """Name an errno given by name, number or libc's words; None: it is none."""
    number = re.fullmatch(r"-?(?:errno[ =]*)?([0-9]{1,4})", word.strip().lower())
    if number:
        return _ERRNOS.get(int(number[1]))
    name = word.strip().lstrip("-").upper()
    # The kernel's and Linux' other name for the same number.
    name = {"EWOULDBLOCK": "EAGAIN", "ENOTSUP": "EOPNOTSUPP"}.get(name, name)
    if name in _ERRNOS.values():
        return name
    return texts.strerror(word)


def as_json(answer: Answer) -> dict[str, Any]:
    """Return an answer as one JSON object; advice by variant, "" for all that have none."""
    step = answer.step
    return {
        "query": answer.query,
        "kind": answer.kind,
        "errno": answer.errno,
        "step": None
        if step is None
        else {
            "step": step.name,
            "what": step.what,
            "causes": [cause.slug for cause in step.causes],
        },
        "texts": [_text_json(each) for each in answer.texts],
        "causes": [_cause_json(cause) for cause in answer.causes],
    }


def _cause_json(cause: Cause) -> dict[str, Any]:
    return {
        "cause": cause.slug,
        "errnos": list(cause.errnos),
        "means": cause.means,
        "limit": cause.limit.replace("`", ""),
        "steps": list(steps_of(cause)),
        "by_tool": list(by_tool(cause)),
        **{
            kind: {
                variant: {"text": each.text, "commands": list(each.commands)}
                for variant, each in advice.offline(kind, remedies).items()
            }
            for kind, remedies in remedies_of(cause)
        },
        "myths": list(cause.myths),
        "texts": [_text_json(each) for each in texts_of(cause)],
    }


def remedies_of(cause: Cause) -> tuple[tuple[str, Remedies], ...]:
    """Return the remedies of a cause by kind, in the order in which they are tried."""
    return ("verify", cause.verify), ("mitigate", cause.mitigate), ("fix", cause.fix)


def _text_json(each: Text) -> dict[str, Any]:
    return {
        "application": each.application,
        "text": each.text,
        "errnos": list(each.errnos),
        "causes": [cause.slug for cause in each.causes],
        "note": each.note or None,
    }


def _cause(query: str) -> Answer | None:
    word = query.lower()
    cause = BY_SLUG.get(_CAUSE_ALIASES.get(word, word)) or BY_SLUG.get(
        word.replace("_", "-").replace(" ", "-")
    )
    # threads_max, seccomp: a step and a cause by one name; the cause tells more.
    return Answer(query, "cause", (cause,)) if cause else None


def _step(query: str) -> Answer | None:
    word = re.sub(r"\(\)$", "", query.lower())
    step = BY_STEP.get(_STEP_ALIASES.get(word, word))
    return Answer(query, "step", step.causes, step) if step else None


def _errno(query: str) -> Answer | None:
    name = errno_name(query)
    if name is None:
        return None
    found = tuple(cause for cause in CAUSES if name in cause.errnos)
    # A security module, a filter or a BPF scheduler can answer anything.
    found = found or (SECCOMP, SECURITY_MODULE, SCHED_EXT)
    return Answer(query, "errno", found, errno=name)


def _fitting(causes: Sequence[Cause], errnos: Sequence[str]) -> tuple[Cause, ...]:
    """Return those causes that can give one of these errnos; all of them if none is told."""
    if not errnos:
        return tuple(causes)
    return tuple(cause for cause in causes if not cause.errnos or set(errnos) & set(cause.errnos))


def _text(query: str) -> Answer | None:
    found = texts.find(query)
    told = texts.errno_in(query)
    if not found:
        return None if told is None or len(query.split()) < 2 else _told(query, told)
    errnos = (told,) if told else sorted({name for each in found for name in each.errnos})
    causes = [cause for each in found for cause in each.causes]
    unique = {cause.slug: cause for cause in _fitting(causes, errnos) or causes}
    return Answer(query, "text", tuple(unique.values()), errno=told, texts=tuple(found))


def _told(query: str, name: str) -> Answer | None:
    """A message that nobody wrote down, but with an errno in it."""
    answer = _errno(name)
    return answer and Answer(query, "errno", answer.causes, errno=name)


def _nothing(query: str) -> Answer:
    if len(query.split()) > 1:
        message = f"no known application prints {query!r}"
        names = {texts.normal(each.text): each.text for each in texts.TEXTS}
        names.update({knob: knob for knob in _CAUSE_ALIASES})
    else:
        message = f"no such step, cause or errno: {query!r}"
        names = {name.lower(): name for name in _words()}
    near = difflib.get_close_matches(texts.normal(query), names, 1, 0.5)
    if near:
        raise ForkTraceError(message, f"Did you mean {names[near[0]]}?")
    raise ForkTraceError(message, "Run `fork-trace explain` to list all causes.")


def _words() -> tuple[str, ...]:
    """Every single word that finds an entry; of two that are as near, the first is suggested."""
    return (
        *BY_SLUG,
        *BY_STEP,
        *(name for cause in CAUSES for name in cause.errnos),
        *(each.application for each in texts.TEXTS),
        *_CAUSE_ALIASES,
        *_STEP_ALIASES,
    )
