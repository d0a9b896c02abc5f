"""What to do about a failure: the remedies of its cause, for the place where it happened. Pure text.

The remedies are the causes' own; where a cgroup runs is `containers`'. The commands are checked by the
tests as far as a shell can: each parses, whatever a name holds.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from fork_trace.diagnosis.cause import Remedies, Remedy
from fork_trace.diagnosis.causes import BY_SLUG
from fork_trace.diagnosis.evidence import is_at_limit
from fork_trace.model import places
from fork_trace.model.places import Place
from fork_trace.model.records import Advice, Evidence

# Kinds of place and of limit, in the words of `explain`.
VARIANTS: Mapping[str, str] = {
    "": "",
    "systemd-service": "systemd service",
    "systemd-scope": "systemd scope",
    "slice": "systemd slice",
    "login-session": "login session",
    "user-unit": "unit of a user's systemd",
    "docker": "docker",
    "podman": "podman",
    "containerd": "containerd, nerdctl",
    "lxc": "LXC, Incus, LXD, Proxmox",
    "unit-inside": "unit of a service manager inside a container",
    "kubernetes": "kubernetes pod",
    "kubernetes-systemd": "kubernetes, with the systemd cgroup driver",
    "kubernetes-container": "one container of a pod",
    "kubernetes-node": "all pods of a node",
    "nested": "nested pid namespace",
    "switched-off": "limit of 0",
    "above-user-namespace": "limit above the caller's user namespace",
    "a chroot": "caller in a chroot",
    "unmapped ids": "caller with unmapped ids",
    "a security module": "security module",
    "kernel.unprivileged_userns_clone": "kernel.unprivileged_userns_clone is 0",
    "kernel.apparmor_restrict_unprivileged_userns": "AppArmor's restriction",
    "overcommit-kbytes": "vm.overcommit_kbytes is set",
    "v1": "cgroup v1",
    "by-runtime": "asked by a container runtime",
    **{name: name for name in ("EBUSY", "EOPNOTSUPP", "EACCES", "ENOENT", "ENODEV", "EBADF")},
    **{name: name for name in ("EINVAL", "ENOSPC", "EPERM", "ENOSYS", "EAGAIN")},
}
# Who starts processes in containers: docker exec and probes are these, by the time they fork.
_RUNTIME = re.compile(r"(runc|crun|youki|runsc|conmon|conmonrs|kata-agent|nsenter)\b.*")
_SETS = re.compile(r"sysctl (?P<name>[a-z_.-]+)=(?P<value>\S+?)(?P<comment>\s+# .+)?")
# A number to set is twice what is needed, not infinity; some have a least or a most.
_LEAST = {
    "vm.max_map_count": 262144,  # what search engines and JVMs ask for
    # 64 MiB: a fork of next to nothing takes some, and limits like these are mistakes.
    **dict.fromkeys(("memory.max", "memory.limit_in_bytes"), 64 << 10),
}
_LEAST_OF_ALL = 32
_MOST = {"kernel.pid_max": 4194304}  # PID_MAX_LIMIT of 64-bit kernels
_KIB_PER_MIB = 1024
_IN_USERNS = "nsenter --target {} --user --preserve-credentials "
# What to put in the place of the pid of a process that has ended, and how to find it.
_ENDED = "has ended: for PID, put"
_PUT = "If process {} has ended by now, put in its place"
_ANOTHER = "one that runs the same program, now or when it is started again."
_LIST_CGROUP = "cat {own_dir}/cgroup.procs"
_IN_SAME_USERNS = (
    "a process in the same user namespace; if there is none any more, the namespace is gone, and this "
    "limit with it."
)
_LIST_USERNS = "lsns --type user"
# In a template: the number to set, and a size.
_N, _SIZE = re.compile(r"\bN\b"), re.compile(r"\bSIZE\b")
# Of a memory cgroup: what is used, the limit, how often it was hit.
_MEMORY_V2 = ("memory.current", "memory.max", "memory.events")
_MEMORY_V1 = ("memory.usage_in_bytes", "memory.limit_in_bytes", "memory.failcnt")
_V1_LIMIT = ".limit_in_bytes"
_V1 = re.compile(r"/sys/fs/cgroup/(?:[a-z_]+,)*(?:pids|memory)(?:,[a-z_]+)*(?:/|$)")
_PLAIN_NAME = re.compile(r"[a-z0-9.-]+")  # of Kubernetes' own: stands inside JSON
_SYSCTL = r"user\.max_(user|mnt|uts|ipc|pid|cgroup|net|time)_namespaces"


class About(NamedTuple):
    """What else is known of who failed: what helps can depend on it."""

    comm: str | None = None
    errno: str | None = None
    container: Mapping[str, Any] | None = None  # as a record has it
    has_ended: bool | None = False  # whoever `pid` named; None: it may have


_NOTHING_MORE = About()


def subject(syscall: str | None, pid: int | None, ppid: int | None) -> int | None:
    """Return the process whose limits are to be changed: whoever failed to start a program ends."""
    return ppid if syscall == "execve" else pid


def counted_uid(evidence: Sequence[Evidence], uid: int | None) -> int | None:
    """Return whose tasks are counted, as the deciding number tells; else who asked."""
    found = re.match(r"uid (\d+)\b", evidence[0].where) if evidence else None
    return int(found[1]) if found else uid


def says_ended(told: Iterable[Advice]) -> bool:
    """Say whether this advice knows already that the process has ended."""
    return any(_ENDED in each.text for each in told)


def means(slug: str) -> str:
    """Say in one clause what a cause is; of an unknown slug only that."""
    cause = BY_SLUG.get(slug)
    return cause.means if cause else "a cause that this version does not know"


def advise(
    slug: str,
    evidence: Sequence[Evidence] = (),
    uid: int | None = None,
    cgroup: str | None = None,
    pid: int | None = None,
    about: About = _NOTHING_MORE,
) -> tuple[Advice, ...]:
    """Say what to do about a failure: how to verify, mitigate and fix it, and what that risks.

    `cgroup` is the caller's own, by path or directory; `pid` the process that failed: where that has
    ended, no command names it. A cause of a newer version has no advice.
    """
    cause = BY_SLUG.get(slug)
    if cause is None:
        return ()
    first = evidence[0] if evidence else None
    place = places.place(cgroup)
    inside = None
    if cause.is_of_cgroup:
        # That cgroup can stand far above the caller's; what helps is up to whoever made it.
        place = places.place(first.where if first else None)
        if place.inner is not None:
            # A cgroup that the container or unit made for itself: its own setting is not at fault.
            inside = places.unit_inside(place)
            place = places.PLAIN
    keys = _keys(place, evidence, about)
    known = _known(first, uid, None if about.has_ended else pid, place, cgroup)
    known.update(_commit_numbers(evidence), **_names(about.container))
    inspect = _INSPECT.get(place.kind, _INSPECT["docker"])
    known["inspect"] = inspect.format_map({**known, "runtime": place.runtime or "docker"})
    if inside is not None:
        keys, known["unit"] = ("unit-inside", *keys), shell(inside)
    told = [(kind, choose(remedies, keys)) for kind, remedies in cause.remedies()]
    if about.has_ended is not False and pid is not None:
        put = f"Process {pid} {_ENDED}" if about.has_ended else _PUT.format(pid)
        told = [(kind, _of_ended(remedy, put, known, cgroup)) for kind, remedy in told]
    return tuple(_filled(kind, remedy, known) for kind, remedy in told)


def _of_ended(remedy: Remedy, put: str, known: Mapping[str, object], cgroup: str | None) -> Remedy:
    """Say of commands for a process that has ended which one to name instead, and how to find it."""
    commands = " ".join(remedy.commands)
    if known["in_userns"] and "{in_userns}" in commands:
        instead, found = _IN_SAME_USERNS, _LIST_USERNS
    elif "{pid}" in commands:
        instead, found = _ANOTHER, "" if cgroup in (None, "/") else _LIST_CGROUP
    else:
        return remedy
    # The first command stands for all where there is room for one.
    is_there = found in (
        command.replace("{nstype}", str(known["nstype"])) for command in remedy.commands
    )
    also = (found,) if found and not is_there else ()
    return Remedy(f"{remedy.text} {put} {instead}", (*remedy.commands, *also))


def _filled(kind: str, remedy: Remedy, known: Mapping[str, object]) -> Advice:
    # Names from the host may hold braces; they are values here, never formats.
    commands = [_with_numbers(command).format_map(known) for command in remedy.commands]
    if kind == "mitigate":
        commands += [each for command in commands for each in _without_fork(command)]
    return Advice(kind, _with_numbers(remedy.text).format_map(known), tuple(commands))


def _without_fork(command: str) -> Iterator[str]:
    """Yield what a shell's own echo does as well: where nothing can fork, sysctl cannot be started."""
    found = _SETS.fullmatch(command)
    if found:
        comment = f"{found['comment']}, " if found["comment"] else "  # "
        path = "/proc/sys/" + found["name"].replace(".", "/")
        yield f"echo {found['value']} > {path}{comment}no fork left"


@lru_cache(256)
def _with_numbers(template: str) -> str:
    return _SIZE.sub("{size}", _N.sub("{n}", template))


def offline(kind: str, remedies: Remedies) -> dict[str, Advice]:
    """Return remedies by variant, with words in capitals for what differs."""
    variants = {"": remedies} if isinstance(remedies, Remedy) else remedies
    known = {**_known(None, None, None, places.PLAIN, None), **_commit_numbers(()), **_names(None)}
    known["inspect"] = _INSPECT["docker"].format_map({**known, "runtime": "docker"})
    return {key: _filled(kind, remedy, known) for key, remedy in variants.items()}


def choose(remedies: Remedies, keys: Sequence[str]) -> Remedy:
    """Return the remedy for the first of these variants that is told apart."""
    if isinstance(remedies, Remedy):
        return remedies
    return next(remedies[key] for key in (*keys, "") if key in remedies)


def _keys(place: Place, evidence: Sequence[Evidence], about: About) -> tuple[str, ...]:
    first = evidence[0] if evidence else None
    keys: list[str] = [first.name] if first is not None and first.name else []
    if about.comm is not None and _RUNTIME.fullmatch(about.comm):
        keys.append("by-runtime")
    keys += [about.errno] if about.errno else []
    if first is not None and first.limit == 0:
        keys.insert(0, "switched-off")
    if first is not None and "pid namespace" in first.where and "(level 0)" not in first.where:
        keys.append("nested")
    level = _user_level(first)
    if level is not None and any(level < (_user_level(each) or 0) for each in evidence):
        keys.insert(0, "above-user-namespace")
    if any(each.name == "vm.overcommit_kbytes" for each in evidence):
        keys.insert(0, "overcommit-kbytes")
    if place.kind == "kubernetes":
        if place.id is not None:
            keys.append("kubernetes-container")
        elif place.pod is None:
            keys.append("kubernetes-node")
        if place.unit is not None:
            keys.append("kubernetes-systemd")
    if place.user is not None:
        keys.append("user-unit")
    is_v1 = first is not None and _V1.match(first.where) and not first.name.endswith(_V1_LIMIT)
    return (*keys, place.kind, *(("v1",) if is_v1 else ()))


_INSPECT: Mapping[str, str] = {
    **dict.fromkeys(("docker", "podman"), "{runtime} inspect {id}"),
    "containerd": "nerdctl inspect {id}",
    "kubernetes": "kubectl{in_namespace} describe pod {pod}",
    "lxc": "lxc info {lxc}",
}


def _names(container: Mapping[str, Any] | None) -> dict[str, object]:
    """Return the pod's and the container's names for commands; words in capitals where nobody told."""
    pod, name = (container or {}).get("pod_name"), (container or {}).get("name")
    namespace, _, own = str(pod or "").rpartition("/")
    return {
        "pod": shell(own) if own else "POD",
        "in_namespace": f" --namespace {shell(namespace)}" if namespace else "",
        "of_pod": name if isinstance(name, str) and _PLAIN_NAME.fullmatch(name) else "CONTAINER",
    }


def _user_level(item: Evidence | None) -> int | None:
    """Return how deep the user namespace lies that counted this; None: it is not one's count."""
    if item is None:
        return None
    if item.where.endswith(", the whole host"):
        return 0
    found = re.search(r"user namespace level (\d+)$", item.where)
    return int(found[1]) if found else None


def _number(first: Evidence | None) -> int | None:
    """Return what to set a limit to: twice what is used or allowed; None: neither is known."""
    if first is None or first.limit is None:
        return None
    twice = max(2 * max(first.limit, first.value or 0), _LEAST.get(first.name, _LEAST_OF_ALL))
    number = min(twice, _MOST.get(first.name, twice))
    return number if number > first.limit else None


def _commit_numbers(evidence: Sequence[Evidence]) -> dict[str, object]:
    """Return the ratio and kbytes with which the commit limit holds a copy of the whole parent.

    Source: mm/util.c, vm_commit_limit: kbytes, or RAM without huge pages times ratio; then swap.
    """
    values = {each.name: each.value for each in evidence}
    limits = {each.name: each.limit for each in evidence}
    charge, allowed = values.get("commit charge"), limits.get("commit charge")
    base, ram = values.get("commit limit without swap"), limits.get("commit limit without swap")
    if charge is None or allowed is None or base is None or not ram:
        return {"ratio": "R", "kbytes": "KBYTES"}
    asked = values.get("one mapping of the parent") or 0
    whole = values.get("accountable memory of the parent") or 0
    needed = charge + max(whole - asked, 0) + (values.get("stack of the new thread") or 0)
    # The next one needs room too.
    kbytes = base + max(needed - allowed, 0) + max(whole, asked) + needed // 16
    return {"ratio": -(-100 * kbytes // ram), "kbytes": kbytes}


def shell(text: str) -> str:
    """Quote a name for a shell command; one with control characters in the form of bash ($'...')."""
    if text.isprintable():
        return shlex.quote(text)
    escaped = text.encode("utf-8", "surrogatepass").decode("latin-1")
    return "$'" + "".join(_ansi_c(char) for char in escaped) + "'"


def _ansi_c(char: str) -> str:
    if char in "\\'":
        return "\\" + char
    return char if " " <= char <= "~" else f"\\x{ord(char):02x}"


def _directory(where: str | None) -> str:
    """Write a cgroup's directory for a shell; words in capitals where it is not known."""
    number = re.fullmatch(r"cgroup id ([0-9]+)", where or "")
    if number:
        # The id is the directory's inode (since Linux 5.5, on 64-bit kernels).
        return f'"$(find /sys/fs/cgroup -type d -inum {number[1]})"'
    if where is None or not where.startswith("/"):
        return "/sys/fs/cgroup/PATH"
    if where.startswith("/sys/fs/cgroup"):
        return shell(where)
    return shell("/sys/fs/cgroup" + where.rstrip("/"))


def _known(
    first: Evidence | None, uid: int | None, pid: int | None, place: Place, cgroup: str | None
) -> dict[str, object]:
    where = first.where if first else None
    value = first.value if first else None
    limit = first.limit if first else None
    seen = now = ""
    if first is not None and value is not None and limit is not None:
        when = "when" if is_at_limit(first) else "shortly after"
        seen = f" ({value} of {limit} {first.unit} {when} the fork failed)"
    if limit is not None:
        now = f" (it was {limit})"
    named = re.fullmatch(_SYSCTL, first.name) if first else None
    is_v1_memory = where is not None and where.startswith("/sys/fs/cgroup/memory/")
    memory = _MEMORY_V1 if is_v1_memory else _MEMORY_V2
    if first is not None and first.name.endswith(_V1_LIMIT):
        # Of v1 memory with swap, and that of the kernel, have counters of their own.
        own = first.name[: -len(_V1_LIMIT)]
        memory = (f"{own}.usage_in_bytes", first.name, f"{own}.failcnt")
    number = _number(first)
    above = " to N, above the current one" if number is None else f" to {number} (it was {limit})"
    is_kib = first is not None and first.unit == "KiB"
    size = f"{-(-number // _KIB_PER_MIB)}M" if number is not None and is_kib else "SIZE"
    unit = shell(place.unit) if place.unit is not None else "UNIT"
    lxc = shell(place.name) if place.kind == "lxc" and place.name else "NAME"
    return {
        "seen": seen,
        "now": now,
        # Above both: a limit that was lowered below what is used refuses at once.
        "n": "N" if number is None else number,
        "above": above,
        "size": size,
        # As Kubernetes, and as Incus and LXD, write what systemd and the kernel call M.
        "size_mi": size if size == "SIZE" else f"{size}i",
        "size_mib": size if size == "SIZE" else f"{size}iB",
        "pidns": "that pid namespace" if where is None else where,
        "at": "" if where is None else f" ({where})",
        "dir": _directory(where),
        "own_dir": _directory(cgroup),
        "uid": "UID" if uid is None else uid,
        "pid": "PID" if pid is None else pid,
        "unit": unit,
        "id": place.id[:12] if place.id else "CONTAINER",
        "lxc": lxc,
        "owner": "UID" if place.user is None else place.user,
        # kernel/ucount.c: /proc/sys/user has the limits of the user namespace of who looks.
        "in_userns": _IN_USERNS.format("PID" if pid is None else pid) if _user_level(first) else "",
        "sysctl": named[0] if named else "user.max_TYPE_namespaces",
        "nstype": named[1] if named else "TYPE",
        **dict(zip(("mem_now", "mem_max", "mem_events"), memory)),
        "mem_property": "MemoryLimit" if is_v1_memory else "MemoryMax",
    }
