"""What this process may do: the capabilities that watching needs, and giving up all else once it watches.

Each thread has its own; there is only one here. What the kernel offers besides is `kernel`'s to ask.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from fork_trace import files
from fork_trace.model.dataclass import dataclass

# include/uapi/linux/capability.h, include/uapi/linux/prctl.h
_VERSION_3 = 0x20080522
_CAP_SYS_ADMIN, _CAP_KILL, _CAP_SETGID, _CAP_SETUID = 21, 5, 6, 7
_PR_SET_KEEPCAPS, _PR_SET_NO_NEW_PRIVS = 8, 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4

# The user and group that root becomes. Of what systemd's UIDS-GIDS.md leaves unused, this is above the
# users of containers (/etc/subuid, systemd-nspawn, the kubelet) and of directories (SSSD: up to
# 2,000,200,000), and below the ids of foreign images (2,147,352,576) and what is negative as an int. Not
# "nobody": that is whoever has no number here, with files and processes of its own.
UNUSED_ID = 0x7F00F04B  # 2,130,767,947


@dataclass(frozen=True)
class Capability:
    """One capability, and what is not to be had without it."""

    name: str
    bit: int
    is_needed: bool  # nothing can be watched without it
    is_kept: bool  # also while watching, not only to arm
    for_what: str


CAPABILITIES = (
    Capability("CAP_BPF", 39, True, True, "loads the programs and reads their counters"),
    Capability(
        "CAP_PERFMON", 38, True, True, "lets the programs read kernel memory, attaches them"
    ),
    Capability(
        *("CAP_SYS_PTRACE", 19, False, True),
        "other users' processes: program, cgroup path, mappings, Python functions, namespaces, holders",
    ),
    Capability(
        *("CAP_DAC_READ_SEARCH", 2, False, True),
        "cgroups by their id, tracefs, files that only their owner may read",
    ),
    Capability(
        *("CAP_CHECKPOINT_RESTORE", 40, False, True),
        "the very files that a process maps; else those of the same name and inode",
    ),
    Capability(
        *("CAP_SYSLOG", 34, False, False),
        "addresses of kernel variables: thread counts, the commit limit's numbers",
    ),
)

# Parts of CAP_SYS_ADMIN until each had a name of its own; whoever has that one has them still.
_WITHIN_ADMIN = (39, 38, 40, 34)


def missing(root: str = "/") -> tuple[Capability, ...] | None:
    """Return the capabilities that this process lacks; None: it cannot be read which it has."""
    try:
        status = files.text(root, "proc/self/status")
    except OSError:
        return None
    match = re.search(r"^CapEff:\s*([0-9a-f]+)", status, re.MULTILINE)
    if not match:
        return None
    effective = int(match[1], 16)
    is_admin = bool(effective >> _CAP_SYS_ADMIN & 1)
    return tuple(
        each
        for each in CAPABILITIES
        if not effective >> each.bit & 1 and not (is_admin and each.bit in _WITHIN_ADMIN)
    )


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Set(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]


def _held() -> tuple[ctypes.CDLL, _Header, ctypes.Array[_Set]]:
    """Read this thread's sets; OSError where they cannot be had."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = _Header(_VERSION_3, 0), (_Set * 2)()
    _check(libc.capget(ctypes.byref(header), sets))
    return libc, header, sets


def why_root_must_stay() -> str | None:
    """Say why root cannot become another user, as far as can be known before it tries; None: it can."""
    try:
        _, _, sets = _held()
    except OSError as error:
        return error.strerror
    needed = _mask((_CAP_SETGID, _CAP_SETUID))
    if 0 in os.getresuid() and sets[0].effective & needed != needed:
        return "root needs CAP_SETUID and CAP_SETGID for it"
    return None


def give_up(may_signal: bool = False, lends: bool = False) -> str | None:
    """Give up whatever watching does not need, for good; return why it did not work, or None.

    Root becomes a user that owns nothing; any other user stays who he is. With `may_signal` a process of
    another user can still be told to end. With `lends` CAP_SYS_ADMIN is held back: out of effect but
    within `lent`, until `give_back`. A program that is started afterwards gets none of it.
    After a failure it is half done: then the process must end.
    """
    kept = {each.bit for each in CAPABILITIES if each.is_kept}
    if may_signal:
        kept.add(_CAP_KILL)
    try:
        libc, header, sets = _held()
        held = {bit for bit in range(64) if sets[bit // 32].permitted >> bit % 32 & 1}
        if not {each.bit for each in CAPABILITIES if each.is_needed} <= held:
            kept.add(_CAP_SYS_ADMIN)  # which stands for them
        for word in range(2):
            mask = _mask(bit - 32 * word for bit in kept if bit // 32 == word)
            held_back = _mask(bit - 32 * word for bit in {_CAP_SYS_ADMIN} if bit // 32 == word)
            sets[word].permitted &= mask | (held_back if lends else 0)
            sets[word].effective &= mask
            sets[word].inheritable = 0
        if 0 in os.getresuid():
            _become(libc, UNUSED_ID)
        _prctl(libc, _PR_SET_NO_NEW_PRIVS, 1)
        _prctl(libc, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
        _check(libc.capset(ctypes.byref(header), sets))
    except OSError as error:
        return error.strerror
    return None


def _become(libc: ctypes.CDLL, number: int) -> None:
    """Become another user and group, in no other group; what was permitted still is, but out of effect."""
    # The process is not dumpable from then on: no other one of that user can trace it, and root
    # owns its files in /proc (fs/proc/base.c, task_dump_owner()), which it reads all the same.
    _prctl(libc, _PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(number, number, number)
    os.setresuid(number, number, number)
    _prctl(libc, _PR_SET_KEEPCAPS, 0)


def _prctl(libc: ctypes.CDLL, option: int, value: int) -> None:
    zero = ctypes.c_ulong(0)
    _check(libc.prctl(option, ctypes.c_ulong(value), zero, zero, zero))


def _check(failed: int) -> None:
    if failed:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@contextmanager
def lent() -> Iterator[None]:
    """Have what was held back in effect; without effect where nothing was."""
    libc, header, sets = _held()
    before = [each.effective for each in sets]
    for each in sets:
        each.effective = each.permitted
    libc.capset(ctypes.byref(header), sets)
    try:
        yield
    finally:
        for each, effective in zip(sets, before):
            each.effective = effective
        libc.capset(ctypes.byref(header), sets)


def give_back() -> None:
    """Give up what was held back, for good."""
    libc, header, sets = _held()
    for each in sets:
        each.permitted = each.effective
    libc.capset(ctypes.byref(header), sets)


def _mask(bits: Iterable[int]) -> int:
    return sum(1 << bit for bit in bits)
