"""What a person calls a failed fork, and these programs did not watch: for the report of zero failures. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from fork_trace.model.records import Header
from fork_trace.output.wording import Remedy


class _Edge(NamedTuple):
    """One kind of failure beside the kernel's fork, and how it can be seen."""

    text: str
    commands: tuple[str, ...]


_REFUSED = _Edge(
    "A call that never reached the kernel's fork code: a seccomp filter answered it, or the arguments "
    "of clone3 were invalid.",
    ("fork-trace capture --refused",),
)
_EXECVE = _Edge(
    "execve refused with EAGAIN after a change of user over RLIMIT_NPROC (su, sudo, systemd's "
    '"Failed at step EXEC"): the system call itself could not be watched.',
    ("fork-trace capture --refused",),
)
_EXECVE_BY_BCC = _Edge(
    "execve refused with EAGAIN after a change of user over RLIMIT_NPROC (su, sudo, systemd's "
    '"Failed at step EXEC"), and unshare at a limit on namespaces: the bcc backend does not watch them.',
    ("fork-trace capture --backend libbpf", "strace -f -e trace=execve,unshare -p PID"),
)
_LATER = _Edge(
    "execve refused with EAGAIN after a change of user over RLIMIT_NPROC, unshare at a limit on "
    "namespaces, and stacks of threads: with --on-demand they are watched once a fork has failed.",
    ("fork-trace capture",),
)
# bpf/steps.h, is_of_musl: the thread pointer that tells such a program is read on x86-64 only.
_MUSL = _Edge(
    "The stack of a thread in a program that uses musl, which maps it without MAP_STACK.", ()
)
_KILLED = _Edge(
    "A fork that succeeded, and whose child was killed later as memory ran out.",
    ("dmesg | grep -i 'killed process'",),
)
_KILLERS = frozenset({"oom_kill_process", "__oom_kill_process", "mark_victim"})
# Refusals that only the call itself tells: pthread_create(3) applies attributes once the thread is there;
# unshare(2) tests flags and privileges before it makes a namespace; setns(2) makes none.
_EDGES = (
    _Edge(
        "unshare or setns refused for another reason than a limit on namespaces: flags that "
        "contradict each other, or privileges.",
        ("strace -f -e trace=unshare,setns -p PID",),
    ),
    _Edge(
        "The attributes of a new thread: clone succeeded, then its scheduling policy or its CPU "
        "affinity was refused, which pthread_create returns as EPERM or EINVAL.",
        ("strace -f -e trace=sched_setscheduler,sched_setaffinity -p PID",),
    ),
)
BY_TRACEPOINT = _Edge(
    "Tasks that the kernel makes for itself, such as io_uring workers: the tracepoint attach mode sees "
    "system calls only.",
    (),
)
LOOK_UP = Remedy("To look up what the program printed:", ("fork-trace explain TEXT",))


def unwatched(headers: Sequence[Header]) -> list[Remedy]:
    """Say what was not watched in any of these captures, with the commands that show it."""
    edges: list[_Edge] = []
    if any(_needs_refused(header) for header in headers):
        edges.append(_REFUSED)
    if any(header.backend == "bcc" for header in headers):
        edges.append(_EXECVE_BY_BCC)
    elif any(gap.get("step") == "execve" for header in headers for gap in header.missing):
        edges.append(_EXECVE)
    if any(each.get("when") == "first-failure" for header in headers for each in header.attached):
        edges.append(_LATER)
    if any(header.machine != "x86_64" or header.backend == "bcc" for header in headers):
        edges.append(_MUSL)
    edges += _EDGES
    if not headers or any(
        _KILLERS.isdisjoint(each.get("function") for each in header.attached) for header in headers
    ):
        edges.append(_KILLED)
    if any(header.attach == "tracepoint" for header in headers):
        edges.append(BY_TRACEPOINT)
    return [Remedy(each.text, each.commands) for each in edges]


def _needs_refused(header: Header) -> bool:
    # probes/plan.py says so of the steps that only this option watches.
    return any(_is_by_refused(gap) for gap in header.missing)


def _is_by_refused(gap: dict[str, object]) -> bool:
    return "--refused" in str(gap.get("reason"))


def as_json(edges: Iterable[Remedy]) -> list[dict[str, object]]:
    """Return what was not watched as JSON values."""
    return [{"what": each.sentence, "commands": list(each.commands)} for each in edges]
