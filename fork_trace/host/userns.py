"""Why the kernel let a process create no user namespace: what /proc tells right after.

Source: kernel/user_namespace.c, create_user_ns: not in a chroot (current_chrooted), only with an euid and
egid that are mapped, then what security modules say.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress

from fork_trace import files

_APPARMOR = "kernel.apparmor_restrict_unprivileged_userns"


def why_denied(pid: int, root: str = "/") -> tuple[str, str] | None:
    """Return the reason and its details, of a process in whatever user namespace; None: it is gone."""
    try:
        its_root = os.readlink(os.path.join(root, f"proc/{pid}/root"))
    except OSError:
        return None
    if its_root != "/":
        return "a chroot", f"the caller is in a chroot, its root is {its_root}"
    try:
        unmapped = _unmapped(pid, root)
    except OSError:
        return None
    if unmapped is None:
        return None
    if unmapped:
        return (
            "unmapped ids",
            f"the caller's {unmapped} is not in {unmapped}_map of its user namespace",
        )
    with suppress(OSError):  # without AppArmor there is none
        if files.text(root, "proc/sys/" + _APPARMOR.replace(".", "/")).strip() == "1":
            return _APPARMOR, "AppArmor restricts unprivileged user namespaces"
    return "a security module", "no chroot, and uid and gid are mapped: a security module refused"


def _unmapped(pid: int, root: str) -> str | None:
    """Name the effective id that is not mapped, "" if both are; None: not to be read."""
    status = files.text(root, f"proc/{pid}/status")
    for kind in ("uid", "gid"):
        found = re.search(rf"^{kind.capitalize()}:\t\d+\t(\d+)", status, re.MULTILINE)
        if found is None:
            return None
        lines = files.text(root, f"proc/{pid}/{kind}_map").split("\n")
        if not _is_mapped(int(found[1]), lines):
            return kind
    return ""


def _is_mapped(number: int, lines: Sequence[str]) -> bool:
    """Say whether an id of the host is mapped: each line is an id inside, one outside, and how many."""
    fields = (line.split() for line in lines)
    ranges = [(int(each[1]), int(each[2])) for each in fields if len(each) == 3]
    return any(first <= number < first + count for first, count in ranges)
