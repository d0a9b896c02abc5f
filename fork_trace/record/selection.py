"""Which of the recorded failures are asked for. Pure: records in, yes or no out."""

from __future__ import annotations

import re
from collections.abc import Iterable

from fork_trace.errors import ForkTraceError
from fork_trace.model.dataclass import dataclass
from fork_trace.model.records import Failure, Forks, Header, Incident, Mark, Slow
from fork_trace.record.times import iso_ns

_CGROUPS = "/sys/fs/cgroup"
_ID = re.compile(r"[0-9a-f]{4,32}")


@dataclass(frozen=True)
class Selection:
    """What a failure must be; None and empty: anything."""

    since_ns: int | None = None
    until_ns: int | None = None
    boot: str | None = None  # its id, whole
    comm: str | None = None
    cgroup: str | None = None
    uid: int | None = None
    causes: frozenset[str] = frozenset()

    @property
    def is_all(self) -> bool:
        """Say whether nothing is left out."""
        return self == Selection()

    @property
    def has_times(self) -> bool:
        """Say whether only a part of a run may be asked for."""
        return self.since_ns is not None or self.until_ns is not None

    def takes_capture(self, header: Header) -> bool:
        """Say whether a capture can have what is asked for."""
        return self.boot is None or _plain(header.boot_id) == self.boot

    def takes(self, failure: Failure) -> bool:
        """Say whether a failure is asked for."""
        return (
            (self.since_ns is None or failure.time_ns >= self.since_ns)
            and (self.until_ns is None or failure.time_ns <= self.until_ns)
            and (not self.causes or failure.cause in self.causes)
            and (self.comm is None or failure.comm == self.comm)
            and (self.uid is None or failure.uid == self.uid)
            and (self.cgroup is None or _is_within(failure.cgroup, self.cgroup))
        )

    def takes_timed(self, record: Slow | Forks) -> bool:
        """Say whether slow forks, or the totals of all, are asked for: no cause of failures is theirs."""
        if isinstance(record, Forks):
            return self._takes_time(record.time) and not self.causes
        return self.takes_incident(record)

    def _takes_time(self, time: str) -> bool:
        time_ns = iso_ns(time)
        return (self.since_ns is None or time_ns is None or time_ns >= self.since_ns) and (
            self.until_ns is None or time_ns is None or time_ns <= self.until_ns
        )

    def takes_incident(self, incident: Incident | Slow) -> bool:
        """Say whether what was seen beside refused forks is asked for; of a time that cannot be read it is."""
        return (
            self._takes_time(incident.time)
            and (not self.causes or getattr(incident, "cause", None) in self.causes)
            and (self.comm is None or incident.comm == self.comm)
            and (self.uid is None or getattr(incident, "uid", None) == self.uid)
            and (self.cgroup is None or _is_within(getattr(incident, "cgroup", None), self.cgroup))
        )

    def takes_mark(self, mark: Mark) -> bool:
        """Say whether what happened to the watching reaches into the time that is asked for."""
        begin = iso_ns(mark.from_ or mark.time)
        end = iso_ns(mark.to or mark.time)
        return not (
            (self.since_ns is not None and end is not None and end < self.since_ns)
            or (self.until_ns is not None and begin is not None and begin > self.until_ns)
        )


def _is_within(cgroup: str | None, asked: str) -> bool:
    if cgroup is None:
        return False
    if "/" not in asked:
        return asked in cgroup.split("/")  # the name of a unit
    path = asked[len(_CGROUPS) :] if asked.startswith(_CGROUPS + "/") else asked
    path = path.rstrip("/")
    return cgroup == path or cgroup.startswith(path + "/") or not path


def _plain(boot_id: str | None) -> str | None:
    return None if boot_id is None else boot_id.replace("-", "")


def chosen_boot(text: str, headers: Iterable[Header], running: str | None) -> str:
    """Find the boot that --boot names among those recorded: its id, 0, -1, ...; ForkTraceError."""
    text = text.strip()
    first: dict[str, str] = {}
    hosts = set()
    for header in headers:
        boot = _plain(header.boot_id)
        if boot is not None:
            hosts.add(header.host)
            first[boot] = min(first.get(boot, header.time), header.time)
    boots = sorted(first, key=first.__getitem__)
    word = text.strip().lower().replace("-", "") if len(text) > 8 else text.strip().lower()
    if re.fullmatch(r"[-+]?[0-9]{1,3}", word):
        if len(hosts) > 1:
            raise ForkTraceError(
                f"--boot {text} says nothing of which host", "Give the id of a boot."
            )
        return _by_offset(text, int(word), boots, _plain(running))
    found = [boot for boot in boots if boot.startswith(word)] if _ID.fullmatch(word) else []
    if len(found) != 1:
        raise ForkTraceError(
            f"--boot {text}: {'several boots' if found else 'no boot'} of that id",
            "Give 0 for the current boot, -1 for the one before, or an id as in a header's boot_id.",
        )
    return found[0]


def _by_offset(text: str, offset: int, boots: list[str], running: str | None) -> str:
    # As journalctl counts: 0 is the current one, 1 the first, -1 the one before the current.
    if offset <= 0 and running is not None and running not in boots:
        boots = [*boots, running]
    place = offset - 1 if offset > 0 else len(boots) - 1 + offset
    if not 0 <= place < len(boots):
        raise ForkTraceError(
            f"--boot {text}: boots that were recorded: {len(boots)}",
            "Give 0 for the current boot, -1 for the one before.",
        )
    return boots[place]
