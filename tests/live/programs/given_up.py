"""Gives up what the tool gives up, and tries what root could do and what the tool must read still.

Arguments: a directory of root's with the file "precious" in it, and the number of a process of root's.
Prints a JSON object: for each try the name of its errno, or null: it worked.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any, Callable

from fork_trace.probes import privileges

PLACE, PID = sys.argv[1:]
PRECIOUS = f"{PLACE}/precious"
TRACEFS = "/sys/kernel/tracing/kprobe_events"


def opened(path: str, flags: int) -> Callable[[], Any]:
    """Open a file, and nothing more: what is in it is the host's."""
    return lambda: os.close(os.open(path, flags | os.O_CLOEXEC, 0o600))


def bound() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 1))


TRIES: dict[str, Callable[[], Any]] = {
    "write precious": opened(PRECIOUS, os.O_WRONLY),
    "write precious by /proc/self/root": opened(f"/proc/self/root{PRECIOUS}", os.O_WRONLY),
    "write precious by its owner's root": opened(f"/proc/{PID}/root{PRECIOUS}", os.O_WRONLY),
    "chmod precious": lambda: os.chmod(PRECIOUS, 0o666),
    "chown precious": lambda: os.chown(PRECIOUS, os.geteuid(), -1),
    "truncate precious": lambda: os.truncate(PRECIOUS, 0),
    "link precious": lambda: os.link(PRECIOUS, f"{PLACE}/second"),
    "rename precious": lambda: os.rename(PRECIOUS, f"{PLACE}/other"),
    "unlink precious": lambda: os.unlink(PRECIOUS),
    "make a file": opened(f"{PLACE}/new", os.O_WRONLY | os.O_CREAT),
    "make a directory": lambda: os.mkdir(f"{PLACE}/directory"),
    "make a device": lambda: os.mknod(f"{PLACE}/null", 0o20666, os.makedev(1, 3)),
    "write /etc/shadow": opened("/etc/shadow", os.O_WRONLY),
    "write /etc/passwd": opened("/etc/passwd", os.O_WRONLY),
    "make /etc/cron.d/ft-given-up": opened("/etc/cron.d/ft-given-up", os.O_WRONLY | os.O_CREAT),
    "make /root/ft-given-up": opened("/root/ft-given-up", os.O_WRONLY | os.O_CREAT),
    "write a sysctl": opened("/proc/sys/kernel/threads-max", os.O_WRONLY),
    "write kprobe_events": opened(TRACEFS, os.O_WRONLY | os.O_APPEND),
    "signal root's process": lambda: os.kill(int(PID), 0),
    "become root": lambda: os.setuid(0),
    "become root's group": lambda: os.setgid(0),
    "join root's group": lambda: os.setgroups([0]),
    "change the root": lambda: os.chroot("/"),
    "bind a low port": bound,
    "rename the host": lambda: socket.sethostname(socket.gethostname()),
    "read precious": opened(PRECIOUS, os.O_RDONLY),
    "read root's program": lambda: os.readlink(f"/proc/{PID}/exe"),
    "open root's program": opened(f"/proc/{PID}/exe", os.O_RDONLY),
    "open what root's program maps": lambda: opened(mapped(), os.O_RDONLY)(),
    "open below root's root": opened(f"/proc/{PID}/root/etc/passwd", os.O_RDONLY),
    "list root's descriptors": lambda: os.listdir(f"/proc/{PID}/fd"),
    "read root's mappings": lambda: Path(f"/proc/{PID}/maps").read_text().splitlines()[0],
    "read root's cgroups": lambda: Path(f"/proc/{PID}/cgroup").read_text().splitlines()[0],
    "read root's namespaces": lambda: os.stat(f"/proc/{PID}/ns/pid"),
    "read its own mappings": lambda: Path("/proc/self/maps").read_text().splitlines()[0],
    "list its own descriptors": lambda: os.listdir("/proc/self/fd"),
    "open its own descriptor again": opened("/proc/self/fd/0", os.O_RDONLY),
    "read a sysctl": lambda: int(Path("/proc/sys/kernel/threads-max").read_text()),
}


def mapped() -> str:
    """Name the first file that the process maps by its range."""
    place = f"/proc/{PID}/map_files"
    return f"{place}/{sorted(os.listdir(place))[0]}"


def tried(what: Callable[[], Any]) -> str | None:
    """Try it, and name what was said."""
    try:
        what()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return None


why = privileges.give_up()
assert why is None, why
print(json.dumps({name: tried(what) for name, what in TRIES.items()}))
