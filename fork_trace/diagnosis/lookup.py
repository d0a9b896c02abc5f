"""What a person asks about -> the causes: by step, cause, errno, limit or an application's text.

Pure; the words are the causes' and `texts`', drawing them is `render`'s.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from fork_trace.diagnosis import advice, applications, errnos, kinds, slow, successes, texts
from fork_trace.diagnosis.cause import Cause, Remedies
from fork_trace.diagnosis.causes import BY_SLUG, CAUSES
from fork_trace.diagnosis.causes.arguments import INVALID_FLAGS
from fork_trace.diagnosis.causes.descriptors import RLIMIT_NOFILE
from fork_trace.diagnosis.causes.late import COPY_ON_WRITE, MEMORY_CGROUP_OOM
from fork_trace.diagnosis.causes.memory import (
    KERNEL_MEMORY,
    MEMORY_CGROUP,
    OVERCOMMIT_HEURISTIC,
    OVERCOMMIT_NEVER,
    THREAD_STACK,
)
from fork_trace.diagnosis.causes.namespaces import USER_NAMESPACE_DENIED
from fork_trace.diagnosis.causes.policy import SCHED_EXT, SECCOMP, SECURITY_MODULE
from fork_trace.diagnosis.causes.tasks import PID_MAX, PIDS_CGROUP, RLIMIT_NPROC
from fork_trace.diagnosis.texts import Text
from fork_trace.errors import ForkTraceError
from fork_trace.model import steps


class StepEntry(NamedTuple):
    """One step of a fork as reports name it: what it does, and the causes it can refuse for."""

    name: str
    what: str
    causes: tuple[Cause, ...]


MOST_LETTERS = 4096  # of a text that are looked at
MOST_QUOTED = 200  # of a text that tells of nothing

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
    # A sysctl also by its last word: max_map_count.
    **{
        alias.partition(".")[2]: cause.slug
        for cause in CAUSES
        for alias in cause.aliases
        if re.match(r"(?:kernel|vm|fs|user)\.", alias)
    },
    **{alias: cause.slug for cause in CAUSES for alias in cause.aliases},
}
# Functions within a step.
_STEP_ALIASES = {
    "mmap": "mmap (thread stack)",
    "mprotect": "mprotect (thread stack)",
    "clone3_args_valid": "clone_args",
    "copy_clone_args_from_user": "clone_args",
    "capable": "rlimit_nproc",
    "is_rlimit_overlimit": "rlimit_nproc",
    "is_ucounts_overlimit": "rlimit_nproc",
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
# A setting that several causes have, likeliest first.
_SETTINGS: Mapping[str, tuple[Cause, ...]] = {
    "vm.overcommit_memory": (OVERCOMMIT_HEURISTIC, OVERCOMMIT_NEVER),
    "overcommit": (OVERCOMMIT_HEURISTIC, OVERCOMMIT_NEVER),
    "ulimit": (RLIMIT_NPROC, RLIMIT_NOFILE, THREAD_STACK),
    "limits.conf": (RLIMIT_NPROC, RLIMIT_NOFILE),
    "ulimits": (RLIMIT_NPROC, RLIMIT_NOFILE),
    "apparmor": (USER_NAMESPACE_DENIED, SECURITY_MODULE),
    "zombie": (PID_MAX, PIDS_CGROUP),
    "zombies": (PID_MAX, PIDS_CGROUP),
    "fork bomb": (PIDS_CGROUP, RLIMIT_NPROC),
}
# Calls, and what the kinds are called otherwise -> the kinds that they can be.
_CALLS: Mapping[str, tuple[str, ...]] = {
    **{kind.name: (kind.name,) for kind in kinds.KINDS},
    **dict.fromkeys(("fork", "vfork", "posix_spawn", "popen", "system", "spawn"), ("process",)),
    **dict.fromkeys(("subprocess", "child process", "child_process"), ("process",)),
    **dict.fromkeys(("clone", "clone3"), ("process", "thread", "namespace")),
    **dict.fromkeys(("pthread_create", "threads", "pthread", "thrd_create"), ("thread",)),
    **dict.fromkeys(
        ("pthread_attr_setstacksize", "pthread_setaffinity_np"), ("thread-attributes",)
    ),
    **dict.fromkeys(("unshare", "setns", "namespaces", "userns"), ("namespace",)),
    **dict.fromkeys(("execve", "execveat", "execvp", "setuid", "setresuid"), ("exec",)),
    **dict.fromkeys(("kthread", "kthreadd", "kernel thread"), ("kernel-thread",)),
    **dict.fromkeys(("oom", "oomkilled", "oom-kill", "oom killer"), ("late",)),
}
# What a call has besides the causes of its kinds.
_FIRST: Mapping[str, tuple[Cause, ...]] = {
    "clone3": (SECCOMP, INVALID_FLAGS),
    "oomkilled": (
        COPY_ON_WRITE,
        MEMORY_CGROUP_OOM,
    ),  # what a container's state is when its limit was hit
}
_BEFORE_4_1 = (
    "Before Linux 4.1 ENOMEM was also the answer when pid numbers had run out (commit 35f71bc0a09a): "
    "there, see pid-max first."
)
_MAPPED = (
    "The namespace was made: what was refused is the mapping of its ids. On Ubuntu 23.10 and newer "
    "AppArmor allows no more in an unprivileged namespace without a profile; elsewhere the ids are "
    "not in /etc/subuid and /etc/subgid, or newuidmap lacks its privileges."
)
_OVERWRITTEN = "The errno printed is not the fork's own, which was EAGAIN."


class Answer(NamedTuple):
    """What the book has on a query."""

    query: str
    # "list", "step", "cause", "reason", "setting", "errno", "call", "application" or "text"
    kind: str
    causes: tuple[Cause, ...]  # likeliest first
    step: StepEntry | None = None
    errno: str | None = None  # asked for, or told by the text
    texts: tuple[Text, ...] = ()
    application: str | None = None  # that prints it
    kinds: tuple[str, ...] = ()  # of `kinds`, likeliest first: what was refused
    notes: tuple[str, ...] = ()  # sentences
    is_harmless: bool = False  # it tells of a success, say: there is nothing to decide

    @property
    def decides(self) -> tuple[str, ...]:
        """Commands that decide between the causes here and now."""
        if not self.kinds or self.is_harmless:
            return ()
        return kinds.decides(self.kinds[0], self.errno)


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
    return (
        _cause(query)
        or _step(query)
        or _reason(query)
        or _errno(query)
        or _call(query)
        or _application(query)
        or read(query)
        or _nothing(query)
    )


def offers() -> tuple[tuple[str, str], ...]:
    """Return the names that a shell can offer, each with what it is; none has a blank in it."""
    named = {cause.slug: cause.means for cause in CAUSES}
    for step in STEPS:
        named.setdefault(step.name.split()[0], step.what)
    for name in (name for cause in CAUSES for name in cause.errnos):
        named.setdefault(name, "an errno")
    for each in applications.APPLICATIONS:
        if " " not in each.name:
            named.setdefault(each.name, "an application")
    return tuple(named.items())


def as_json(answer: Answer) -> dict[str, Any]:
    """Return an answer as one JSON object; advice by variant, "" for all that have none."""
    step = answer.step
    return {
        "text": answer.query,
        "asked": answer.kind,
        "application": answer.application,
        "errno": answer.errno,
        "kinds": list(answer.kinds),
        "means": kinds.means(answer.kinds[0], answer.errno) if answer.kinds else None,
        "step": None
        if step is None
        else {
            "step": step.name,
            "what": step.what,
            "causes": [cause.slug for cause in step.causes],
        },
        "texts": [_text_json(each) for each in answer.texts],
        "notes": list(answer.notes),
        "causes": [_cause_json(cause) for cause in answer.causes],
        "decide": list(answer.decides),
    }


def _cause_json(cause: Cause) -> dict[str, Any]:
    return {
        "cause": cause.slug,
        "errnos": list(cause.errnos),
        "means": cause.means,
        "limit": cause.limit.replace("`", ""),
        "steps": list(steps_of(cause)),
        "by_tool": list(by_tool(cause)),
        "careful": {},
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
    return cause.remedies()


def _text_json(each: Text) -> dict[str, Any]:
    return {
        "application": each.application,
        "text": each.text,
        "errnos": list(each.errnos),
        "causes": [cause.slug for cause in each.causes],
        "note": each.note or None,
    }


def _cause(query: str) -> Answer | None:
    for word in _names(query):
        causes = _SETTINGS.get(word)
        if causes:
            asked = (name for cause in causes for name in kinds.of_cause(cause))
            return Answer(query, "setting", causes, kinds=tuple(dict.fromkeys(asked)))
        cause = BY_SLUG.get(_CAUSE_ALIASES.get(word, word)) or BY_SLUG.get(
            word.replace("_", "-").replace(" ", "-")
        )
        if cause:
            # threads_max, seccomp: a step and a cause by one name; the cause tells more.
            return Answer(query, "cause", (cause,), kinds=kinds.of_cause(cause))
    return None


def _names(query: str) -> Iterator[str]:
    """The forms in which a setting is written: with its value, as a file of /proc/sys, as an option."""
    word = query.lower().strip()
    yield word
    word = re.sub(r"^(?:sysctl (?:-w )?|cat |echo \S+ > ?)", "", word)
    word = re.sub(r"^/proc/sys/(.*)", lambda found: found[1].replace("/", "."), word)
    word = re.sub(r" *[=:] *[^ =:]*$|(?<=^ulimit -\w) \S+$", "", word)
    yield word
    yield word.lstrip("-")
    yield word.rpartition("/")[2]


def _step(query: str) -> Answer | None:
    word = re.sub(r"\(\)$", "", query.lower())
    step = BY_STEP.get(_STEP_ALIASES.get(word, word))
    return Answer(query, "step", step.causes, step) if step else None


def _reason(query: str) -> Answer | None:
    """One of the reasons why a fork that succeeds takes long."""
    reason = slow.BY_SLUG.get(query.strip().lower())
    if reason is None or reason is slow.UNKNOWN:
        return None
    told = [f"{each.kind.capitalize()}: {each.text}" for each in reason.advice]
    means = f"A reason why forks take long: {reason.means}."
    return Answer(query, "reason", (), kinds=("slow",), notes=(means, *told))


def _errno(query: str) -> Answer | None:
    name = errnos.named(query)
    return None if name is None else _of_errno(query, name)


def _of_errno(query: str, name: str) -> Answer:
    # A cause that seldom gives it comes after those for which it is one of the first two.
    found = [cause for cause in CAUSES if name in cause.errnos]
    found.sort(key=lambda cause: cause.errnos.index(name) > 1)
    # A security module, a filter or a BPF scheduler can answer anything.
    found = found or [SECCOMP, SECURITY_MODULE, SCHED_EXT]
    if name == "ENOMEM":
        found.append(PID_MAX)
    asked = kinds.read(errnos.normal(name), name)
    notes = _notes(name, ("process",))
    return Answer(query, "errno", tuple(found), errno=name, kinds=asked, notes=notes)


def _call(query: str) -> Answer | None:
    word = re.sub(r"\(\d?\)$", "", query.lower())
    asked = _CALLS.get(word)
    if asked is None:
        return None
    found = (*_FIRST.get(word, ()), *_causes_of(asked, None))
    return Answer(query, "call", kinds.unique(found), kinds=asked)


def _application(query: str) -> Answer | None:
    found = applications.named(query)
    if found is None:
        return None
    printed = tuple(each for each in texts.TEXTS if each.application == found.name)
    return Answer(
        query,
        "application",
        _causes_of(found.kinds, None),
        texts=printed,
        application=found.name,
        kinds=found.kinds,
    )


def read(text: str, is_typed: bool = True) -> Answer | None:
    """Find what a message of an application means; None if it tells of nothing that was refused."""
    # What is behind that is a stack trace, and costs more than it tells.
    normal = errnos.normal(text[:MOST_LETTERS])
    found = texts.find(text[:MOST_LETTERS])
    error = errnos.told(text[:MOST_LETTERS], is_typed)
    notes: list[str] = []
    is_retried = found and found[0].errnos == ("EAGAIN",)
    if is_retried and (error == "EINTR" or "no child process" in normal):
        error = "EAGAIN"
        notes.append(_OVERWRITTEN)
    why = successes.why(normal, error)
    if why is not None:
        return _harmless(text, normal, why)
    if error is None:
        error = _only_errno(text, found)
    asked = _kinds_of(normal, error, found)
    if not asked:
        return None
    by = applications.of(normal)
    application = by.name if by else None
    # A name that is on the line itself says more than who else prints these words.
    is_open = by is None or by.name in applications.COMMON
    if is_open and found and found[0].application != "pthread" and texts.holds(text, found[0]):
        application = found[0].application
    return Answer(
        text,
        "text",
        _causes_of(asked, error, found),
        errno=error,
        texts=tuple(found),
        application=application,
        kinds=asked,
        notes=(*notes, *_notes(error, asked, kinds.is_mapping(normal))),
    )


def _harmless(text: str, normal: str, why: str) -> Answer:
    by = applications.of(normal)
    application = by.name if by else None
    return Answer(
        *(text, "text", ()),
        application=application,
        kinds=("not-a-fork",),
        notes=(why,),
        is_harmless=True,
    )


def _only_errno(text: str, found: Sequence[Text]) -> str | None:
    """The errno that a message always has; of a part of several messages, the one that all have."""
    known = found[:1] if found and texts.holds(text, found[0]) else found
    names = {each.errnos for each in known}
    return found[0].errnos[0] if len(names) == 1 and len(found[0].errnos) == 1 else None


def _kinds_of(normal: str, error: str | None, found: Sequence[Text]) -> tuple[str, ...]:
    if found and found[0].kind:
        asked = kinds.read(normal, error)
        # What one application means; a rule that sees more in the rest of the line is believed.
        more = asked and asked[0] not in ("process", "not-a-fork")
        return asked if more else kinds.refine(found[0].kind, normal, error)
    return kinds.read(normal, error)


def _causes_of(
    asked: Sequence[str], error: str | None, found: Sequence[Text] = ()
) -> tuple[Cause, ...]:
    """Return the causes of these kinds with this errno, likeliest first: an application's own before all."""
    causes: list[Cause] = []
    if asked[0] == "not-a-fork":
        return ()  # a cause of a fork would be the wrong one
    if asked[0] == "late" and found:
        return found[0].causes
    if found and asked[0] in ("process", "thread", "namespace"):
        own = [cause for each in found for cause in each.causes]
        told = [error] if error else [name for each in found for name in each.errnos]
        causes += _fitting(own, told)
    for name in asked:
        # A text has its own; of the general ones only those of its other kinds are added.
        if not causes or name != asked[0]:
            causes += kinds.causes(name, error)
    if error == "ENOMEM" and causes and {"process", "thread"} & set(asked):
        causes.append(PID_MAX)
    return kinds.unique(causes)


def _notes(error: str | None, asked: Sequence[str], is_mapping: bool = False) -> tuple[str, ...]:
    if is_mapping and asked[0] == "namespace":
        return (_MAPPED,)
    is_task = asked and asked[0] in ("process", "thread")
    return (_BEFORE_4_1,) if error == "ENOMEM" and is_task else ()


def _fitting(causes: Sequence[Cause], errnos: Sequence[str]) -> tuple[Cause, ...]:
    """Return those causes that can give one of these errnos; all of them if none is told."""
    if not errnos:
        return tuple(causes)
    return tuple(cause for cause in causes if not cause.errnos or set(errnos) & set(cause.errnos))


def _nothing(query: str) -> Answer:
    if len(query.split()) > 1:
        message = f"nothing in {query[:MOST_QUOTED]!r} tells of a fork or thread that was refused"
        names = {errnos.normal(each.text): each.text for each in texts.TEXTS}
        names.update({knob: knob for knob in _CAUSE_ALIASES})
    else:
        message = f"no such step, cause or errno: {query[:MOST_QUOTED]!r}"
        names = {name.lower(): name for name in _words()}
    near = difflib.get_close_matches(errnos.normal(query), names, 1, 0.5)
    if near:
        raise ForkTraceError(message, f"Did you mean {names[near[0]]}?")
    raise ForkTraceError(message, "Run `fork-trace explain` to list all causes.")


def _words() -> tuple[str, ...]:
    """Every single word that finds an entry; of two that are as near, the first is suggested."""
    return (
        *BY_SLUG,
        *slow.BY_SLUG,
        *BY_STEP,
        *(name for cause in CAUSES for name in cause.errnos),
        *(each.name for each in applications.APPLICATIONS),
        *_CAUSE_ALIASES,
        *_STEP_ALIASES,
        *_SETTINGS,
        *_CALLS,
    )
