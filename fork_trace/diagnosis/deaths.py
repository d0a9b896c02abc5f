"""Why the OOM killer ended a process, and which fork is behind it. Pure: what was seen in, a judgement out.

A process that was forked and has executed no program since is no proof of copies: workers of a server
are so all their life. Copies are behind a death where the kernel was copying a page as it killed, or where
the numbers leave nothing else; and only as far as there was enough to copy.
"""

# Without annotations as strings: NamedTuple compiles each of them, and all that watch wait for it.
from typing import NamedTuple, Optional

from fork_trace.diagnosis.causes.late import COPY_ON_WRITE, HOST_OOM, MEMORY_CGROUP_OOM
from fork_trace.diagnosis.verdict import INFERRED, OBSERVED
from fork_trace.model.deaths import Killed, Kin

# What can have been copied is of no matter below this part of the limit: zero pages are copied by the
# same function, and every worker shares something.
_LEAST_SEEN, _LEAST_INFERRED = 0.1, 0.2
_MOST_AGE_S = 3600.0  # what is forked for longer does not write what it shares
_ALIKE_SHIFT = 8  # pages: what differs by less is as much
_MOST_GROWTH = 1.25  # a child that has more than its parent has memory of its own


class Surroundings(NamedTuple):
    """What decides beside the death itself."""

    is_copying: Optional[
        bool
    ]  # the kernel was copying a shared page, by its stack; None: there is none
    is_memcg: Optional[bool]  # a memory cgroup was full; None: the host, or not known
    page_bytes: int
    limit: Optional[int]  # of what was full, in bytes
    used: Optional[int]
    # Of what is used: what cannot be copies, being of files or the kernel, or of processes outside the
    # family; None: not read.
    others: Optional[int] = None


class Behind(NamedTuple):
    """The fork behind a death."""

    parent: Kin
    child: Kin
    age_s: float
    unshared_max: Optional[int]  # bytes, copied since at most


class Judgement(NamedTuple):
    """Why a process was killed."""

    cause: str
    certainty: str
    fork: Optional[Behind] = None


def judge(killed: Killed, around: Surroundings) -> Judgement:
    """Name the cause of a death, and the fork behind it."""
    fork = _fork(killed, around)
    if fork is not None:
        if around.is_copying and _is_of_family(killed) and _matters(fork, around, _LEAST_SEEN):
            return Judgement(COPY_ON_WRITE.slug, OBSERVED, fork)
        if around.is_memcg and _left_over(killed, fork, around):
            return Judgement(COPY_ON_WRITE.slug, INFERRED, fork)
    slug = MEMORY_CGROUP_OOM.slug if around.is_memcg else HOST_OOM.slug
    # What was full is known; without a stack it is not known that nothing was copied.
    is_known = around.is_memcg is not None and (fork is None or around.is_copying is not None)
    return Judgement(slug, OBSERVED if is_known else INFERRED)


def family(killed: Killed) -> list[tuple[str, Kin]]:
    """Return the others that share memory with the victim by fork: what each is to it, and itself."""
    found = []
    if killed.shares_with_parent and killed.parent is not None:
        found.append(("parent", killed.parent))
    return found + [
        ("child" if each.is_child else "sibling", each) for each in killed.kin if each.shares
    ]


def _fork(killed: Killed, around: Surroundings) -> "Optional[Behind]":
    victim, parent = killed.victim, killed.parent
    if victim is None:
        return None
    found = [(victim, each) for each in killed.kin if each.shares and each.is_child]
    if killed.shares_with_parent and parent is not None:
        found.append((parent, victim))
    # The one by which most is shared; of several the latest, as its copies are.
    pairs = sorted(
        found,
        key=lambda pair: (
            min(each.anon_pages or 0 for each in pair) >> _ALIKE_SHIFT,
            pair[1].start_ns,
        ),
    )
    return _behind(*pairs[-1], killed, around) if pairs else None


def _behind(parent: Kin, child: Kin, killed: Killed, around: Surroundings) -> Behind:
    pages = [each.anon_pages for each in (parent, child)]
    known = [pages_ * around.page_bytes for pages_ in pages if pages_ is not None]
    if around.used is not None:
        known.append(around.used)
    most = min(known) if None not in pages else None
    return Behind(parent, child, max(0.0, (killed.time_ns - child.start_ns) / 1e9), most)


def _is_of_family(killed: Killed) -> bool:
    """Say whether who asked for memory shares it with the victim, or is the victim."""
    pids = {each.pid for _, each in family(killed)}
    pids.add(killed.victim.pid if killed.victim else 0)
    return killed.allocator_pid in pids


def _matters(fork: Behind, around: Surroundings, part: float) -> bool:
    """Say whether there was enough to copy: a part of the limit, and more than one of the two has grown by."""
    parent, child = fork.parent.anon_pages, fork.child.anon_pages
    if fork.unshared_max is None or parent is None or child is None:
        return False
    if abs(parent - child) * around.page_bytes > fork.unshared_max:
        return False
    return around.limit is None or fork.unshared_max >= part * around.limit


def _left_over(killed: Killed, fork: Behind, around: Surroundings) -> bool:
    """Say whether the family's copies alone explain what is used: nothing else can be it."""
    parent, child = fork.parent.anon_pages, fork.child.anon_pages
    if parent is None or child is None or around.others is None:
        return False
    if around.limit is None or around.used is None or fork.age_s > _MOST_AGE_S:
        return False
    kin = [each.anon_pages or 0 for _, each in family(killed)]
    if max(kin, default=0) > parent * _MOST_GROWTH or child > parent * _MOST_GROWTH:
        return False  # somebody has memory of its own
    # What one has beyond its parent is its own, whoever else has as much.
    own = sum(max(0, pages - parent) for pages in kin)
    once = (max(parent, child) + own) * around.page_bytes
    copies = min(around.used - around.others - once, fork.unshared_max or 0)
    return copies >= _LEAST_INFERRED * around.limit
