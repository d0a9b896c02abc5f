"""Names of containers and pods, from the files that their runtimes keep. Nothing is run or called.

Whose container it is tells the cgroup's path: see `containers`. What a runtime wrote can come from
whoever may start containers, so it is bounded here and escaped where it is shown.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from fork_trace import files
from fork_trace.model.places import Place

_MOST_BYTES = 4 << 20  # podman's list holds all containers of a host
_MOST_ENTRIES = 10_000
_MOST_NAME = 253  # what Kubernetes allows
_KEPT = 1024
_AGAIN_S = 10.0  # a container's files can come a moment after its first process
# Whoever makes containers makes ids: so many are looked for in a second, and a list is read so often.
_LOOKS_PER_S = 20
_LIST_AGAIN_S = 1.0
# Each storage driver of podman and CRI-O has a list of its own.
_DRIVERS = ("overlay", "vfs", "btrfs", "zfs")
# Where it lies; with `transient_store` in the one that is gone with the next boot.
_STORAGES = ("var/lib/containers/storage", "run/containers/storage")

# Annotations of the OCI configuration, by who made it: containerd's CRI, CRI-O, nerdctl; and of Docker's
# labels under Kubernetes.
_CONTAINER = ("io.kubernetes.cri.container-name", "io.kubernetes.container.name", "nerdctl/name")
_POD = ("io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name")
_NAMESPACE = ("io.kubernetes.cri.sandbox-namespace", "io.kubernetes.pod.namespace")


class Names:
    """Finds the names of containers and remembers them."""

    def __init__(self, root: str = "/") -> None:
        self._root = root.rstrip("/")
        self._known: OrderedDict[tuple[str | None, str | None], tuple[float, Place]] = OrderedDict()
        self._nameless: OrderedDict[tuple[str | None, str | None], tuple[float, Place]] = (
            OrderedDict()
        )
        self._second, self._looks = 0, 0
        # Of lists: when they were read, what the file was then, and what was in it.
        self._lists: dict[str, tuple[float, tuple[int, ...] | None, Any]] = {}

    def named(self, place: Place, directory: str | None = None) -> Place:
        """Return the place with the names of its container and pod, as far as files tell them.

        `directory` is the caller's cgroup as mounted here. The files are the host's own runtimes':
        a place that these did not make, as root, has none.
        """
        if (place.id is None and place.pod is None) or place.user is not None:
            return place
        if not self._can_be_root_s(place, directory):
            return place
        key = (place.id, place.pod)
        now_s = time.monotonic()
        found = self._known.get(key)
        if found is None:
            found = self._nameless.get(key)
            if found is None or now_s > found[0] + _AGAIN_S:
                if not self._may_look(now_s):
                    return place
                found = (now_s, self._look(place))
                self._nameless.pop(key, None)
                kept = self._nameless if found[1].name is None else self._known
                kept[key] = found
                while len(kept) > _KEPT:
                    kept.popitem(last=False)
        return replace(place, name=found[1].name, pod_name=found[1].pod_name)

    def _may_look(self, now_s: float) -> bool:
        if int(now_s) != self._second:
            self._second, self._looks = int(now_s), 0
        self._looks += 1
        return self._looks <= _LOOKS_PER_S

    @staticmethod
    def _can_be_root_s(place: Place, directory: str | None) -> bool:
        """Say whether only root can have made a container's cgroup: nobody else may, in the one above it."""
        if directory is None or place.id is None:
            return True  # it is gone: its path is all there is
        inner = f"/{place.inner}" if place.inner else ""
        try:
            status = os.stat(os.path.dirname(directory[: len(directory) - len(inner)]))
        except (OSError, ValueError):
            return True
        return status.st_uid == 0 and not status.st_mode & 0o002

    def _look(self, place: Place) -> Place:
        for name, pod_name in self._tellings(place):
            place = replace(
                place,
                name=place.name or _bounded(name),
                pod_name=place.pod_name or _bounded(pod_name),
            )
            if place.name and (place.pod_name or place.pod is None):
                break
        return place

    def _tellings(self, place: Place) -> Iterator[tuple[str | None, str | None]]:
        """What each source tells: a container's name and a pod's, either can be None."""
        if place.id is not None:
            yield self._docker(place.id)
            yield from self._oci(place.id)
            yield self._storage(place.id), None
            yield self._log_of_container(place.id)
        if place.pod is not None:
            yield None, self._log_of_pod(place.pod)

    def _docker(self, id_: str) -> tuple[str | None, str | None]:
        config = self._json(f"var/lib/docker/containers/{id_}/config.v2.json")
        if not isinstance(config, dict):
            return None, None
        name = config.get("Name")
        inner = config.get("Config")
        labels = inner.get("Labels") if isinstance(inner, dict) else None
        own = name.lstrip("/") if isinstance(name, str) else None
        told = _annotated(labels)
        return told[0] or own, told[1]

    def _oci(self, id_: str) -> Iterator[tuple[str | None, str | None]]:
        """containerd keeps what it starts by namespace: k8s.io, moby, default."""
        above = "run/containerd/io.containerd.runtime.v2.task"
        for namespace in self._entries(above):
            config = self._json(f"{above}/{namespace}/{id_}/config.json")
            if isinstance(config, dict):
                yield _annotated(config.get("annotations"))
        for driver in _DRIVERS:
            config = self._json(
                f"run/containers/storage/{driver}-containers/{id_}/userdata/config.json"
            )
            if isinstance(config, dict):
                yield _annotated(config.get("annotations"))

    def _storage(self, id_: str) -> str | None:
        """podman and CRI-O list all of them in a file, and those of `podman run --rm` in another one."""
        for directory in _STORAGES:
            for driver in _DRIVERS:
                for kind in ("containers", "volatile-containers"):
                    path = f"{directory}/{driver}-containers/{kind}.json"
                    listed = self._list(path, lambda path: _listed(self._json(path)), {})
                    name: str | None = listed.get(id_)
                    if name is not None:
                        return name
        return None

    def _list(self, path: str, read: Callable[[str], Any], none: Any) -> Any:
        """Return what a file or directory holds, read again once it has changed, but not at once."""
        now_s = time.monotonic()
        known = self._lists.get(path)
        if known is not None and now_s < known[0] + _LIST_AGAIN_S:
            return known[2]
        try:
            status = os.stat(f"{self._root}/{path}")
            mark = (status.st_mtime_ns, status.st_size, status.st_ino)
        except OSError:
            mark = None
        if known is None or known[1] != mark:
            held = none if mark is None else read(path)
            known = self._lists[path] = (now_s, mark, held)
        return known[2]

    def _log_of_container(self, id_: str) -> tuple[str | None, str | None]:
        """The kubelet links the logs: POD_NAMESPACE_CONTAINER-ID.log."""
        pattern = re.compile(rf"([^_]+)_([^_]+)_(.+)-{re.escape(id_)}\.log")
        for name in self._list("var/log/containers", self._entries, []):
            match = pattern.fullmatch(name) if id_ in name else None
            if match:
                return match[3], f"{match[2]}/{match[1]}"
        return None, None

    def _log_of_pod(self, pod: str) -> str | None:
        """The kubelet's directory of a pod's logs: NAMESPACE_POD_UID."""
        for name in self._list("var/log/pods", self._entries, []):
            namespace, _, rest = name.partition("_")
            if rest.endswith(f"_{pod}"):
                return f"{namespace}/{rest[: -len(pod) - 1]}"
        return None

    def _entries(self, path: str) -> list[str]:
        found: list[str] = []
        try:
            with os.scandir(f"{self._root}/{path}") as entries:
                for entry in entries:
                    found.append(entry.name)
                    if len(found) >= _MOST_ENTRIES:
                        break
        except OSError:
            pass
        return found

    def _json(self, path: str) -> Any:
        raw = files.read(f"{self._root}/{path}", _MOST_BYTES)
        if raw is None:
            return None
        try:
            return json.loads(raw)
        except (ValueError, RecursionError):
            return None


def _listed(entries: Any) -> dict[str, str]:
    """Return names by id."""
    names: dict[str, str] = {}
    for each in entries[:_MOST_ENTRIES] if isinstance(entries, list) else ():
        if not isinstance(each, dict) or not isinstance(each.get("id"), str):
            continue
        own = each.get("names")
        if isinstance(own, list) and own and isinstance(own[0], str):
            # CRI-O: k8s_CONTAINER_POD_NAMESPACE_UID_ATTEMPT
            parts = own[0].split("_")
            is_crio = len(parts) == 6 and parts[0] == "k8s"
            names[each["id"]] = (parts[1] if is_crio else own[0])[: 2 * _MOST_NAME]
    return names


def _annotated(labels: object) -> tuple[str | None, str | None]:
    if not isinstance(labels, dict):
        return None, None
    pod, namespace = _first(labels, _POD), _first(labels, _NAMESPACE)
    name = f"{namespace}/{pod}" if pod and namespace else pod
    return _first(labels, _CONTAINER), name


def _first(labels: dict[str, Any], keys: tuple[str, ...]) -> str | None:
    for key in keys:
        value = labels.get(key)
        if isinstance(value, str) and value:
            return value
    return None


def _bounded(name: str | None) -> str | None:
    if not name:
        return None
    return name.encode("utf-8", "backslashreplace").decode()[: 2 * _MOST_NAME]
