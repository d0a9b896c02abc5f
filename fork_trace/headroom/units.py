"""Which limits of systemd's units are its default: by its files, as asking it would take a fork or a bus.

systemd computed the default when it was started or reloaded; if its files or the sysctls have changed
since, this is another number, and nothing is said.
"""

from __future__ import annotations

import os
import re

from fork_trace import files

# systemd-system.conf(5): the main file, of the first directory that has it, and drop-ins of all.
_DIRECTORIES = ("etc/systemd", "run/systemd", "usr/local/lib/systemd", "usr/lib/systemd")
_MAIN, _DROP_INS = "system.conf", "system.conf.d"
_DEFAULT = "15%"
# Slices have no default, and a scope has it as a service has.
UNITS = (".service", ".scope", ".socket", ".mount", ".swap")


def default_tasks_max(threads_max: int | None, pid_max: int | None, root: str = "/") -> int | None:
    """Return what DefaultTasksMax= gives a unit that sets no TasksMax=; None: unlimited, or not known."""
    if not os.path.isdir(os.path.join(root, "run/systemd/system")):  # sd_booted(3)
        return None
    word = _DEFAULT
    for path in _paths(root):
        word = _assigned(path, root) or word
    number = re.fullmatch(r"([0-9]+)(%?)", word)
    if number is None:
        return None
    if not number[2]:
        return int(number[1])
    if threads_max is None or pid_max is None:
        return None
    # src/basic/limits-util.c, system_tasks_max(): pid 0 is no task. A pids.max of the root, which only a
    # container has, is left out here.
    return min(threads_max, pid_max - 1) * int(number[1]) // 100


def _paths(root: str) -> list[str]:
    found: dict[str, str] = {}
    main = None
    for directory in _DIRECTORIES:
        if main is None and os.path.isfile(os.path.join(root, directory, _MAIN)):
            main = f"{directory}/{_MAIN}"
        try:
            names = os.listdir(os.path.join(root, directory, _DROP_INS))
        except OSError:
            continue
        for name in names:
            if name.endswith(".conf"):
                found.setdefault(name, f"{directory}/{_DROP_INS}/{name}")
    return [*([main] if main else []), *(found[name] for name in sorted(found))]


def _assigned(path: str, root: str) -> str | None:
    try:
        text = files.text(root, path)
    except (OSError, ValueError):
        return None
    section, word = "", None
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("["):
            section = line
        elif section == "[Manager]" and line.replace(" ", "").startswith("DefaultTasksMax="):
            # Assigned nothing, it is the default again.
            word = line.partition("=")[2].strip() or _DEFAULT
    return word
