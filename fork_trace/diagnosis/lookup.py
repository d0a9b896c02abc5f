"""What a person asks about -> the entries of the book: by step, cause, errno, limit or an application's text.

Pure; the words are `catalogue`'s and `texts`', drawing them is `render`'s.
"""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fork_trace.diagnosis import advice as catalogue
from fork_trace.diagnosis import texts
from fork_trace.diagnosis.advice import Entry, StepEntry
from fork_trace.diagnosis.texts import Text
from fork_trace.errors import ForkTraceError

# What people have in hand beside the names of the book: the knobs, and functions within a step.
_CAUSE_ALIASES = {
    "pids.max": "pids-cgroup",
    "tasksmax": "pids-cgroup",
    "--pids-limit": "pids-cgroup",
    "podpidslimit": "pids-cgroup",
    "rlimit_nproc": "rlimit-nproc",
    "ulimit -u": "rlimit-nproc",
    "limitnproc": "rlimit-nproc",
    "nproc": "rlimit-nproc",
    "kernel.threads-max": "threads-max",
    "kernel.pid_max": "pid-max",
    "memory.max": "memory-cgroup",
    "memorymax": "memory-cgroup",
    "fs.nr_open": "fd-table-limit",
    "rlimit_nofile": "rlimit-nofile",
    "ulimit -n": "rlimit-nofile",
    "fs.file-max": "file-max",
    "fs.mount-max": "mount-limit",
    "vm.max_map_count": "thread-stack",
    "rlimit_as": "thread-stack",
    "kernel.unprivileged_userns_clone": "user-namespace-denied",
}
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
    "copy_sighand": "copy_signal",
    "copy_mm": "dup_mmap",
    "dup_mm": "dup_mmap",
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


@dataclass(frozen=True)
class Answer:
    """What the book has on a query."""

    query: str
    kind: str  # "list", "step", "cause", "errno" or "text"
    causes: tuple[Entry, ...]  # likeliest first
    step: StepEntry | None = None
    errno: str | None = None  # asked for, or told by the text
    texts: tuple[Text, ...] = ()

    @staticmethod
    def steps_of(cause: str) -> tuple[str, ...]:
        """Name the steps that can refuse for this cause, in the kernel's order."""
        return tuple(step.name for step in catalogue.STEPS if cause in step.causes)

    @staticmethod
    def texts_of(cause: str) -> tuple[Text, ...]:
        """Return the messages that can be this cause."""
        return tuple(each for each in texts.TEXTS if cause in _fitting(each.causes, each.errnos))


def look_up(words: Sequence[str]) -> Answer:
    """Find what these words mean; ForkTraceError with the nearest entry if nothing does."""
    query = " ".join(words).strip()
    if not query:
        return Answer("", "list", catalogue.ENTRIES)
    return _cause(query) or _step(query) or _errno(query) or _text(query) or _nothing(query)


def offers() -> tuple[tuple[str, str], ...]:
    """Return the names that a shell can offer, each with what it is; none has a blank in it."""
    named = {entry.cause: entry.means for entry in catalogue.ENTRIES}
    for step in catalogue.STEPS:
        named.setdefault(step.name.split()[0], step.what)
    for name in (name for entry in catalogue.ENTRIES for name in entry.errnos):
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
    """Return an answer as one JSON object; remedies by variant, "" for all that have none."""
    return {
        "query": answer.query,
        "kind": answer.kind,
        "errno": answer.errno,
        "step": None
        if answer.step is None
        else {
            "step": answer.step.name,
            "what": answer.step.what,
            "causes": list(answer.step.causes),
        },
        "texts": [_text_json(each) for each in answer.texts],
        "causes": [
            {
                "cause": entry.cause,
                "errnos": list(entry.errnos),
                "means": entry.means,
                "limit": entry.limit.replace("`", ""),
                "steps": list(answer.steps_of(entry.cause)),
                "by_tool": list(catalogue.by_tool(entry.cause)),
                "confirm": catalogue.offline(entry.confirm),
                "relieve": catalogue.offline(entry.relieve),
                "cure": catalogue.offline(entry.cure),
                "myths": list(entry.myths),
                "texts": [_text_json(each) for each in answer.texts_of(entry.cause)],
            }
            for entry in answer.causes
        ],
    }


def _text_json(each: Text) -> dict[str, Any]:
    return {
        "application": each.application,
        "text": each.text,
        "errnos": list(each.errnos),
        "causes": list(each.causes),
        "note": each.note or None,
    }


def _cause(query: str) -> Answer | None:
    word = query.lower()
    entry = catalogue.BY_CAUSE.get(_CAUSE_ALIASES.get(word, word)) or catalogue.BY_CAUSE.get(
        word.replace("_", "-").replace(" ", "-")
    )
    # threads_max, seccomp: a step and a cause by one name; the cause tells more.
    return Answer(query, "cause", (entry,)) if entry else None


def _step(query: str) -> Answer | None:
    word = re.sub(r"\(\)$", "", query.lower())
    step = catalogue.BY_STEP.get(_STEP_ALIASES.get(word, word))
    if step is None:
        return None
    return Answer(query, "step", tuple(catalogue.BY_CAUSE[cause] for cause in step.causes), step)


def _errno(query: str) -> Answer | None:
    name = errno_name(query)
    if name is None:
        return None
    found = tuple(entry for entry in catalogue.ENTRIES if name in entry.errnos)
    if not found:
        # A security module, a filter or a BPF scheduler can answer anything.
        found = tuple(
            catalogue.BY_CAUSE[cause] for cause in ("seccomp", "security-module", "sched-ext")
        )
    return Answer(query, "errno", found, errno=name)


def _fitting(causes: Sequence[str], errnos: Sequence[str]) -> tuple[str, ...]:
    """Return those causes that can give one of these errnos; all of them if none is told."""
    if not errnos:
        return tuple(causes)
    return tuple(
        cause
        for cause in causes
        if not catalogue.BY_CAUSE[cause].errnos
        or set(errnos) & set(catalogue.BY_CAUSE[cause].errnos)
    )


def _text(query: str) -> Answer | None:
    found = texts.find(query)
    told = texts.errno_in(query)
    if not found:
        return None if told is None or len(query.split()) < 2 else _told(query, told)
    errnos = (told,) if told else sorted({name for each in found for name in each.errnos})
    slugs = [cause for each in found for cause in each.causes]
    fitting = _fitting(slugs, errnos) or tuple(slugs)
    unique = tuple(catalogue.BY_CAUSE[cause] for cause in dict.fromkeys(fitting))
    return Answer(query, "text", unique, errno=told, texts=tuple(found))


def _told(query: str, name: str) -> Answer | None:
    """A message that nobody wrote down, but with an errno in it."""
    answer = _errno(name)
    return answer and Answer(query, "errno", answer.causes, errno=name)


def _nothing(query: str) -> Answer:
    if len(query.split()) > 1:
        message = f"no application is known to print {query!r}"
        names = {texts.normal(each.text): each.text for each in texts.TEXTS}
        names.update({knob: knob for knob in _CAUSE_ALIASES})
    else:
        message = f"there is no step, cause or errno {query!r}"
        names = {name.lower(): name for name in _words()}
    near = difflib.get_close_matches(texts.normal(query), names, 1, 0.5)
    if near:
        raise ForkTraceError(message, f"Did you mean {names[near[0]]}?")
    raise ForkTraceError(message, "`fork-trace explain` without a word lists all causes.")


def _words() -> tuple[str, ...]:
    """Every single word that finds an entry; of two that are as near, the first is suggested."""
    return (
        *catalogue.BY_CAUSE,
        *catalogue.BY_STEP,
        *(name for entry in catalogue.ENTRIES for name in entry.errnos),
        *(each.application for each in texts.TEXTS),
        *_CAUSE_ALIASES,
        *_STEP_ALIASES,
    )
