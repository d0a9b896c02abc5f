"""Causes: file descriptors and open files."""

from __future__ import annotations

import errno

from fork_trace.diagnosis.cause import ASKED, Cause, Fit, Gauge, Refusal, do
from fork_trace.diagnosis.readings import HostReadings, KernelReadings
from fork_trace.model.records import Evidence

_FIND_LEAK = "or find the descriptor leak"
_DESCRIPTORS = "ls -l /proc/{pid}/fd"


def _slots(seen: KernelReadings, _host: HostReadings) -> tuple[Evidence, ...]:
    slots, limit = seen.numbers.get("fd_slots"), seen.numbers.get("nr_open")
    where = "the forking process's table"
    return (Evidence("fs.nr_open", slots, limit, "descriptor slots", where, "kernel"),)


FD_TABLE_LIMIT = Cause(
    slug="fd-table-limit",
    errnos=("EMFILE",),
    means="the parent has a descriptor open above fs.nr_open, and the child's table would have to "
    "hold it; neither fs.file-max nor ulimit -n matters here",
    limit="`fs.nr_open`; neither `fs.file-max` nor `ulimit -n`",
    steps=("dup_fd",),
    refusals=(Refusal("dup_fd", errno.EMFILE),),
    fits=(Fit(errno.EMFILE, "fd-table", "dup_fd"),),
    evidence=_slots,
    structures=("fdtable",),
    check=Gauge(
        "fs.nr_open",
        "descriptors",
        "the highest open descriptor of the three largest tables with `fs.nr_open`",
    ),
    aliases=("fs.nr_open",),
    rehearsal="--host-wide fd-table-limit",
    careful=do(
        "Each fork copies the whole table, 8 bytes for each number up to the highest open one: keep the "
        "limit no higher than some program needs."
    ),
    verify=do(
        "Compare the highest open descriptor with the limit{seen}.",
        "ls /proc/{pid}/fd | sort -n | tail -1",
        "sysctl fs.nr_open",
    ),
    mitigate=do(
        "Restore the default limit{now}, or more if the table needs it.",
        "sysctl fs.nr_open=1048576",
    ),
    fix=do(
        "Do not lower fs.nr_open below descriptors that are already open (look in /etc/sysctl.d), "
        "or close the high descriptor, which was created by dup2 or F_DUPFD."
    ),
    myths=(
        "EMFILE from fork means fs.file-max or ulimit -n: fork checks neither. From popen, spawn or "
        "pipe it does mean `ulimit -n`, and fork was not called.",
        "Root is exempt: nobody is, whatever the privileges.",
    ),
)


def _open_descriptors(seen: KernelReadings, host: HostReadings) -> tuple[Evidence, ...]:
    limit = seen.numbers.get("nofile_limit", host.descriptors_max)
    unit = "open descriptors"
    return (Evidence("RLIMIT_NOFILE", host.descriptors, limit, unit, "the process", "proc"),)


RLIMIT_NOFILE = Cause(
    slug="rlimit-nofile",
    errnos=("EMFILE",),
    means="the caller asked for a pidfd (CLONE_PIDFD), and has no descriptor left below "
    "RLIMIT_NOFILE",
    limit="`RLIMIT_NOFILE` of the caller, for CLONE_PIDFD only",
    steps=("pidfd_prepare",),
    refusals=(Refusal("pidfd_prepare", errno.EMFILE),),
    fits=(Fit(errno.EMFILE, "asked-pidfd", "pidfd_prepare", ASKED),),
    evidence=_open_descriptors,
    reads="descriptors",
    check=Gauge(
        "RLIMIT_NOFILE",
        "descriptors",
        "the open descriptors of the processes nearest to their soft limit with that limit; fork "
        "takes none, but a pidfd and popen's pipe do",
    ),
    aliases=("rlimit_nofile", "ulimit -n", "limitnofile", "nofile"),
    rehearsal="pidfd-nofile",
    verify=do(
        "Compare the number of open descriptors with the limit{seen}.",
        "ls /proc/{pid}/fd | wc -l",
        "grep 'open files' /proc/{pid}/limits",
    ),
    mitigate=do("Raise the limit of the running process.", "prlimit --pid {pid} --nofile=N:N"),
    fix={
        "": do(
            f"Raise the limit where the process is started, {_FIND_LEAK}.",
            "ulimit -n N",
            _DESCRIPTORS,
        ),
        "systemd-service": do(
            f"Set LimitNOFILE=N under [Service] and restart the unit, {_FIND_LEAK}.",
            "systemctl edit {unit}",
            _DESCRIPTORS,
        ),
        "login-session": do(
            "Add a line `NAME - nofile N` to /etc/security/limits.d/90-nofile.conf and log in "
            f"again, {_FIND_LEAK}.",
            _DESCRIPTORS,
        ),
        "docker": do(
            f"Start the container with a higher limit, {_FIND_LEAK}.",
            "docker run --ulimit nofile=N:N IMAGE",
            _DESCRIPTORS,
        ),
        "podman": do(
            f"Start the container with a higher limit, {_FIND_LEAK}.",
            "podman run --ulimit nofile=N:N IMAGE",
            _DESCRIPTORS,
        ),
    },
    myths=(
        "A plain fork needs a free descriptor: only CLONE_PIDFD does. What popen and spawn lack first is "
        "one for their pipe.",
    ),
    careful=do(
        "Programs that use select() break with descriptors above 1023: raise it for one, not all."
    ),
)


def _open_files(_seen: KernelReadings, host: HostReadings) -> tuple[Evidence, ...]:
    value, limit = host.files, host.files_max
    # Read after it: if the limit is not reached by then, these are not the numbers that decided.
    if value is not None and limit is not None and value < limit:
        value = limit = None
    return (Evidence("fs.file-max", value, limit, "open files", "the whole host", "proc"),)


FILE_MAX = Cause(
    slug="file-max",
    errnos=("ENFILE",),
    means="the caller asked for a pidfd (CLONE_PIDFD), and the host has as many open files as "
    "fs.file-max allows",
    limit="`fs.file-max` of the host, for CLONE_PIDFD only",
    steps=("pidfd_prepare",),
    refusals=(Refusal("pidfd_prepare", errno.ENFILE),),
    fits=(Fit(errno.ENFILE, "asked-pidfd", "pidfd_prepare", ASKED),),
    evidence=_open_files,
    reads="files",
    check=Gauge(
        "fs.file-max",
        "open files",
        "open files with `fs.file-max`; only a fork with a pidfd needs one",
    ),
    aliases=("fs.file-max",),
    rehearsal="--host-wide pidfd-file-max",
    verify=do(
        "The first number is in use, the last is the limit{seen}.", "cat /proc/sys/fs/file-nr"
    ),
    mitigate=do("Raise the limit{now}; root is not bound by it.", "sysctl fs.file-max=N"),
    fix=do(
        "Persist fs.file-max=N in /etc/sysctl.d/90-files.conf, and find what holds so many files: lsof "
        "would take minutes.",
        "find /proc/[0-9]*/fd -maxdepth 1 -type l 2>/dev/null | cut -d/ -f3 | sort | uniq -c | sort -n",
    ),
    myths=(
        "Any fork can return ENFILE: only one with CLONE_PIDFD can. pipe() and open() fail first.",
    ),
    careful=do("Each open file takes some 256 bytes of kernel memory that cannot be swapped."),
)
