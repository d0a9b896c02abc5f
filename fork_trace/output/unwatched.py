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
    steps: tuple[
        str, ...
    ] = ()  # that watch it, on kernels and with options where they are attached


_REFUSED = _Edge(
    "A call that never reached the kernel's fork code: a seccomp filter answered it, or the arguments "
    "of clone3 were invalid.",
    ("fork-trace capture --refused",),
)
# pthread_create(3): attributes are applied once the thread is there; execve(2) on EAGAIN; unshare(2).
_EDGES = (
    _Edge(
        "execve refused with EAGAIN after a change of user over RLIMIT_NPROC (su, sudo, systemd's "
        '"Failed at step EXEC"), and unshare or setns at a limit on namespaces.',
        ("strace -f -e trace=execve,unshare,setns -p PID",),
        ("execve", "unshare"),
    ),
    _Edge(
        "The attributes of a new thread: clone succeeded, then its scheduling policy or its CPU "
        "affinity was refused, which pthread_create returns as EPERM or EINVAL.",
        ("strace -f -e trace=sched_setscheduler,sched_setaffinity -p PID",),
    ),
    _Edge(
        "The stack of a thread in a program that uses musl, which maps it without MAP_STACK.", ()
    ),
    _Edge(
        "A fork that succeeded, and whose child was killed later as memory ran out.",
        ("dmesg | grep -i 'killed process'",),
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
    watched = [{each.get("step") for each in header.attached} for header in headers]
    edges += [
        edge
        for edge in _EDGES
        if not edge.steps or not watched or any(not found & set(edge.steps) for found in watched)
    ]
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
