"""A cgroup's path -> where it runs: container, pod, systemd unit or session. Pure; a form not listed is "plain".

Finding the path is `cgroup`'s and `procfs`'s; what follows from the place is `diagnosis`'.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Place:
    """Where a cgroup runs; what the path does not tell is None."""

    # "kubernetes", "docker", "podman", "containerd", "crio", "systemd-service", "systemd-scope",
    # "login-session", "slice" or "plain"
    kind: str
    runtime: str | None = None  # "containerd", "crio", "docker", "podman" or "systemd"
    id: str | None = None  # of the container
    pod: str | None = None  # its uid
    unit: str | None = None  # the systemd unit, where there is one
    name: str | None = None  # no path tells it, but its runtime's files can: see `runtimes`
    pod_name: str | None = None  # the same: NAMESPACE/POD
    user: int | None = None  # whose service manager (user@UID.service) runs the unit, if one does
    inner: str | None = None  # the path below the container or unit; None: it is its own cgroup

    def as_record(self) -> dict[str, str | None] | None:
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
        }


PLAIN = Place("plain")


def place(path: str | None) -> Place:
    """Name where a cgroup runs, given its path in /proc/PID/cgroup or its directory.

    Of containers within one another the innermost counts, of units the one that the host's own
    service manager, or the user's, knows.
    """
    parts = [part for part in (path or "").split("/") if part]
    for last in range(len(parts) - 1, -1, -1):
        found = _container(parts, last) or _pods(parts, last)
        if found is not None:
            return found
    return _unit(parts)


def _container(parts: list[str], last: int) -> Place | None:
    part, above = parts[last], parts[:last]
    inner = "/".join(parts[last + 1 :]) or None
    pod = next(filter(None, map(_pod_of, reversed(above))), None)
    scope = _SCOPE.fullmatch(part)
    if scope:
        return _made(_RUNTIMES[scope[1]], scope[2], pod, part, inner)
    colons = _COLONS.fullmatch(part)
    if colons:
        return _made(_RUNTIMES[colons[2]], colons[3], _pod_of(colons[1]) or pod, None, inner)
    directory = _DIRECTORY.fullmatch(part)
    if directory:
        return _made(_RUNTIMES[directory[1]], directory[2], pod, None, inner)
    if _BARE_ID.fullmatch(part) and above:
        if above[-1] == "docker":
            return _made("docker", part, pod, None, inner)
        if "kubepods" in above and _POD_DIRECTORY.fullmatch(above[-1]):
            # dockershim and containerd both make it so.
            return _made(None, part, pod, None, inner)
    return None


def _made(
    runtime: str | None, id_: str, pod: str | None, unit: str | None, inner: str | None
) -> Place:
    kind = "kubernetes" if pod else str(runtime)
    return Place(kind, runtime, id_, pod, unit, inner=inner)


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
            # Only the mount point and a v1 hierarchy's name stand above the units.
            if unit is not None:
                break
            continue
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
