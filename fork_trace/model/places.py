"""A cgroup's path -> where it runs: container, pod, systemd unit or session. Pure; a form not listed is "plain".

Finding the path is `cgroup`'s and `procfs`'s; what follows from the place is `diagnosis`'.
"""

from __future__ import annotations

import re
from functools import lru_cache

from fork_trace.model.dataclass import dataclass

_ID = r"([0-9a-f]{64})"
# kubelet, cgroup_manager_linux.go: with systemd the pod's dashes are underscores; static pods have
# the 32 digits of a hash. A cgroup root (kind: /kubelet) becomes a prefix of each slice.
_POD_SLICE = re.compile(
    r"(?:[a-z0-9]+-)*kubepods(?:-burstable|-besteffort)?-pod([0-9a-f]{8}(?:_[0-9a-f]{4}){3}_[0-9a-f]{12}|[0-9a-f]{32})\.slice"
)
_POD_DIRECTORY = re.compile(r"pod([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32})")
_KUBEPODS_SLICE = re.compile(r"(?:[a-z0-9]+-)*kubepods(?:-burstable|-besteffort)?\.slice")
# runc, systemd driver: <prefix>-<id>.scope
_SCOPE = re.compile(rf"(cri-containerd|nerdctl|docker|crio|libpod)-{_ID}\.scope")
# runc, cgroupfs driver given the systemd driver's path: it becomes one directory, literally.
_COLONS = re.compile(rf"(\S+\.slice):(cri-containerd|docker|crio|libpod):{_ID}")
# podman and CRI-O, cgroupfs driver; `podman run --cgroups=split` inside a unit of the user's
_DIRECTORY = re.compile(rf"(crio|libpod|libpod-payload)-{_ID}")
_BARE_ID = re.compile(_ID)
# The services of these make cgroups of the containers that they start below their own.
_ENGINE = re.compile(
    r"(containerd|docker|crio|cri-o|kubelet|k3s(-agent)?|rke2-(server|agent)|k0s(controller|worker))\.service"
)
# Directories at the top of a hierarchy in which the cgroupfs drivers make theirs.
_TOPS = frozenset({"docker", "kubepods", "kubelet", "libpod_parent"})
# Where hierarchies are mounted: v1's have a directory each, by a controller or several.
_MOUNT = "/sys/fs/cgroup"
_V1 = frozenset(
    {
        *("blkio", "cpu", "cpu,cpuacct", "cpuacct", "cpuset", "devices", "elogind", "freezer"),
        *("hugetlb", "memory", "misc", "net_cls", "net_cls,net_prio", "net_prio", "perf_event"),
        *("pids", "rdma", "systemd", "unified"),
    }
)
_RUNTIMES = {
    "cri-containerd": "containerd",
    "nerdctl": "containerd",
    "crio": "crio",
    "libpod": "podman",
    "libpod-payload": "podman",
    "docker": "docker",
}
_UNIT = re.compile(r".+\.(service|scope|slice)")
_USER_SLICE = re.compile(r"user-([0-9]+)\.slice")
_USER_MANAGER = re.compile(r"user@([0-9]+)\.service")
_SESSION = re.compile(r"session-[a-z]*[0-9]+\.scope")
# LXC, and with it LXD, Incus and Proxmox: cgfsng.c makes lxc.payload.NAME; before LXC 4, and on Proxmox
# to this day, a directory in /lxc.
_PAYLOAD = re.compile(r"lxc\.payload\.(.+)")


@dataclass(frozen=True)
class Place:
    """Where a cgroup runs; what the path does not tell is None."""

    # "kubernetes", "docker", "podman", "containerd", "crio", "lxc", "systemd-service",
    # "systemd-scope", "login-session", "slice" or "plain"
    kind: str
    runtime: str | None = None  # "containerd", "crio", "docker", "lxc", "podman" or "systemd"
    id: str | None = None  # of the container
    pod: str | None = None  # its uid
    unit: str | None = None  # the systemd unit, where there is one
    name: str | None = None  # LXC's paths tell it, else its runtime's files can: see `runtimes`
    pod_name: str | None = None  # the same: NAMESPACE/POD
    # Whose service manager (user@UID.service) it is below, if any: that user names it as he likes.
    user: int | None = None
    inner: str | None = None  # the path below the container or unit; None: it is its own cgroup

    def as_record(self) -> dict[str, str | int | None] | None:
        """Return what a failure record tells of it: None for a plain cgroup."""
        if self.kind == "plain":
            return None
        return {
            "runtime": self.runtime,
            "id": self.id,
            "name": self.name,
            "pod": self.pod,
            "pod_name": self.pod_name,
            "unit": self.unit,
            "user": self.user,
        }


PLAIN = Place("plain")


@lru_cache(256)
def place(path: str | None) -> Place:
    """Name where a cgroup runs, given its path in /proc/PID/cgroup or its directory.

    Of containers within one another the outermost counts: what lies inside it anybody in it can name
    as he likes, after another container or a unit of the host's too. So it is below a user's service
    manager, whose containers are told as that user's, and below any other unit or unknown directory.
    """
    parts = _below_mount(path)
    system_container = _lxc(parts)
    if system_container is not None:
        return system_container
    user: int | None = None
    pods: Place | None = None
    unit: str | None = None  # a service or scope: what is below it is its own
    for number, part in enumerate(parts):
        if unit is None:
            found = _container(parts, number, user)
            pods = (_pods(parts, number) if user is None else None) or pods
        else:
            found = _split(parts, number, user, _ENGINE.fullmatch(unit) is not None)
        if found is not None:
            return found
        manager = _USER_MANAGER.fullmatch(part)
        if unit is not None:
            break
        if manager and user is None:
            user = int(manager[1])
        elif _UNIT.fullmatch(part) and not part.endswith(".slice"):
            unit = part
        elif not part.endswith(".slice") and parts[0] not in _TOPS:
            break
    return pods or _unit(parts)


def _lxc(parts: list[str]) -> Place | None:
    """A container of LXC, at the top of its hierarchy; of a user's own the unit above it is told."""
    payload = _PAYLOAD.fullmatch(parts[0]) if parts else None
    if payload:
        return Place("lxc", "lxc", name=payload[1], inner="/".join(parts[1:]) or None)
    if len(parts) > 1 and parts[0] == "lxc":
        return Place("lxc", "lxc", name=parts[1], inner="/".join(parts[2:]) or None)
    return None


def unit_inside(found: Place) -> str | None:
    """Return the unit that the service manager of a container made: on the host nobody knows it.

    One of a user's service manager in there is none: whose it is, that of the container does not say.
    """
    is_container = found.id is not None or found.kind == "lxc" or _is_machine(found)
    parts = (found.inner or "").split("/") if is_container else []
    # Proxmox, systemd-nspawn and crun put what the container sees as its root one further down.
    if parts[:1] in (["ns"], ["payload"], ["container"]):
        del parts[0]
    if not parts or any(_USER_MANAGER.fullmatch(part) for part in parts):
        return None
    units = [part for part in parts if _UNIT.fullmatch(part)]
    return units[-1] if units == parts else None


def _is_machine(found: Place) -> bool:
    unit = found.unit or ""
    return unit.startswith("systemd-nspawn@") or (
        unit.startswith("machine-") and unit.endswith(".scope")
    )


def _below_mount(path: str | None) -> list[str]:
    path = path or ""
    is_directory = (path + "/").startswith(_MOUNT + "/")
    parts = [part for part in path[len(_MOUNT) * is_directory :].split("/") if part]
    if is_directory and parts[:1] and parts[0] in _V1:
        del parts[0]
    while parts[:1] == [".."]:
        del parts[0]  # from within a cgroup namespace
    return parts


def path_of(where: str, own: str | None = None) -> str:
    """Spell a cgroup as /proc/PID/cgroup does, given its directory; `own` is a cgroup in or below it.

    Below /sys/fs/cgroup a v1 hierarchy has a directory by the name of its controllers, and so may a
    cgroup of v2: the caller's own cgroup tells which.
    """
    if not (where + "/").startswith(_MOUNT + "/"):
        return where
    whole = where[len(_MOUNT) :] or "/"
    first, _, rest = whole[1:].partition("/")
    is_own = own is not None and (own + "/").startswith(whole + "/")
    return "/" + rest if first in _V1 and not is_own else whole


def _container(parts: list[str], last: int, user: int | None) -> Place | None:
    part, above = parts[last], parts[:last]
    inner = "/".join(parts[last + 1 :]) or None
    pods = map(_pod_of, reversed(above)) if user is None else ()
    pod = next(filter(None, pods), None)
    scope = _SCOPE.fullmatch(part)
    if scope:
        return _made(_RUNTIMES[scope[1]], scope[2], pod, part, inner, user)
    directory = _DIRECTORY.fullmatch(part)
    if directory:
        return _made(_RUNTIMES[directory[1]], directory[2], pod, None, inner, user)
    if _BARE_ID.fullmatch(part) and user is None:
        if above == ["docker"]:
            return _made("docker", part, pod, None, inner)
        if "kubepods" in above and _POD_DIRECTORY.fullmatch(above[-1]):
            # dockershim and containerd both make it so.
            return _made(None, part, pod, None, inner)
    return None


def _split(parts: list[str], last: int, user: int | None, is_engine: bool) -> Place | None:
    """A container right below a unit: of `podman run --cgroups=split`, or of an engine's own service."""
    inner = "/".join(parts[last + 1 :]) or None
    directory = _DIRECTORY.fullmatch(parts[last])
    if directory and directory[1] == "libpod-payload":
        return _made("podman", directory[2], None, None, inner, user)
    colons = _COLONS.fullmatch(parts[last])
    if colons and is_engine and user is None:
        return _made(_RUNTIMES[colons[2]], colons[3], _pod_of(colons[1]), None, inner)
    return None


def _made(
    runtime: str | None,
    id_: str,
    pod: str | None,
    unit: str | None,
    inner: str | None,
    user: int | None = None,
) -> Place:
    kind = "kubernetes" if pod else str(runtime)
    return Place(kind, runtime, id_, pod, unit, user=user, inner=inner)


def _pod_of(part: str) -> str | None:
    in_slice = _POD_SLICE.fullmatch(part)
    if in_slice:
        return in_slice[1].replace("_", "-")
    directory = _POD_DIRECTORY.fullmatch(part)
    return directory[1] if directory else None


def _pods(parts: list[str], last: int) -> Place | None:
    """A cgroup of the kubelet's that is above the containers: of a pod, a class or of all pods."""
    part = parts[last]
    inner = "/".join(parts[last + 1 :]) or None
    unit = part if part.endswith(".slice") else None
    if _POD_SLICE.fullmatch(part) or (
        _POD_DIRECTORY.fullmatch(part) and "kubepods" in parts[:last]
    ):
        return Place("kubernetes", pod=_pod_of(part), unit=unit, inner=inner)
    is_class = part in ("burstable", "besteffort") and parts[last - 1 : last] == ["kubepods"]
    if _KUBEPODS_SLICE.fullmatch(part) or part == "kubepods" or is_class:
        return Place("kubernetes", unit=unit, inner=inner)
    return None


def _unit(parts: list[str]) -> Place:
    """The unit of the deepest part that the service manager of the host, or of a user, made."""
    session, user, unit, end = False, None, None, 0
    for number, part in enumerate(parts):
        if not _UNIT.fullmatch(part):
            break  # a directory that is none, as /lxc.payload.web: the units below are another host's
        manager = _USER_MANAGER.fullmatch(part)
        above = parts[number - 1] if number else ""
        if unit is not None and not unit.endswith(".slice") and not _USER_MANAGER.fullmatch(unit):
            break  # below a service or scope only what it makes for itself
        if unit is not None and _USER_MANAGER.fullmatch(unit):
            user = int(unit[len("user@") : -len(".service")])
        session = session or bool(
            _USER_SLICE.fullmatch(part)
            or (_SESSION.fullmatch(part) and _USER_SLICE.fullmatch(above))
            or manager
        )
        unit, end = part, number + 1
    if unit is None:
        return PLAIN
    inner = "/".join(parts[end:]) or None
    if session:
        kind = "login-session"
    elif unit.endswith(".slice"):
        kind = "slice"
    else:
        kind = "systemd-" + unit.rpartition(".")[2]
    return Place(kind, "systemd", unit=unit, user=user, inner=inner)
