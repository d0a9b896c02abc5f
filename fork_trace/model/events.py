"""Bytes from the kernel side, as values. Pure: nothing here touches libbpf or a file.

The layouts are those of bpf/wire.h; tests/unit/bpf/test_abi.py holds the two together.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import field
from functools import lru_cache

from fork_trace.model import steps
from fork_trace.model.dataclass import dataclass
from fork_trace.model.sizes import COMM_BYTES, STACK_BYTES_MAX, STACK_CHUNK

USER_FRAMES = 8
BUILD_ID_BYTES = 20
_PLACE_HAS_BUILD_ID = 1  # BPF_STACK_BUILD_ID_VALID, include/uapi/linux/bpf.h

# enum ft_number: what was read in the kernel at the instant of the refusal.
NUMBERS: tuple[str, ...] = (
    "nproc",
    "nproc_limit",
    "nproc_level",
    "nr_threads",
    "max_threads",
    "fd_slots",
    "nr_open",
    "overcommit_memory",
    "overcommit_ratio",
    "overcommit_kbytes",
    "pages_asked",
    "pages_committed",
    "pages_ram",
    "pages_swap",
    "admin_reserve_kbytes",
    "user_reserve_kbytes",
    "cap_sys_admin",
    "mm_total_pages",
    "pidns_level",
    "pidns_pids",
    "pidns_inum",
    "pid_max",
    "pids_current",
    "pids_limit",
    "pids_cgroup",
    "pids_levels_up",
    "pids_hierarchy",
    "nproc_uid",
    "memcg_pages",
    "memcg_max",
    "memcg_cgroup",
    "memcg_levels_up",
    "memcg_hierarchy",
    "ns_count",
    "ns_max",
    "ns_level",
    "ns_uid",
    "policy",
    "map_count",
    "max_map_count",
    "address_space_limit",
    "data_pages",
    "data_limit",
    "stack_bytes",
    "flag_rules",
    "nofile_limit",
    "moved",
    "memcg_counter",
    "own_threads",
)

# enum ft_moved: kernel structures that have other fields than expected, by bit of `moved`.
MOVED: tuple[str, ...] = (
    *("ucounts", "pids_cgroup", "mem_cgroup", "fdtable"),
    *("mm_struct", "pid_namespace", "fs_struct", "nsproxy"),
)

# enum ft_candidate: what would have refused, and what was asked for, at the return of a call.
FITS: tuple[str, ...] = (
    "nproc",
    "threads",
    "deadline",
    "in-exec",
    "pid-max",
    "pids-cgroup",
    "pidns-dead",
    "fd-table",
    "overcommit",
    "memcg",
    "flags",
    "unshared",
    "userns-sysctl",
    "ns-denied",
    "ns-limit",
    "ns-depth",
    "threads-unknown",
    "overcommit-unknown",
    "asked-newuser",
    "asked-namespace",
    "asked-pidfd",
    "asked-cgroup",
    "asked-tls",
    "asked-tid",
    "shares-fs",
    "copies-mm",
    "memcg-limited",
    "nproc-unknown",
    "pids-unknown",
    "pidns-unknown",
    "unjudged",
    "threads-near",
    "one-mapping",
    "small-mappings",
)

# enum ft_level_kind: a hierarchy whose levels were read one by one.
LEVELS: tuple[str, ...] = ("", "pids-cgroup", "pid-namespace", "memory-cgroup", "nproc")

# enum ft_maker_kind: who makes a task that no system call asked for.
MAKERS: tuple[str, ...] = (
    *("", "io-uring-worker", "user-worker", "kernel-thread", "user-mode-helper", "kernel"),
)

# enum ft_stat: counters of the whole run.
STATS: tuple[str, ...] = (
    "failures",
    "restarted",
    "killed",
    "sampled",
    "rate_limited",
    "lost",
    "overflowed",
    "untracked",
    "mismatch",
    "filtered",
    "before_fork",
    "unreturned",
    "without_stack",
    "deaths_lost",
    "early",
)

# enum ft_detail, as words that `diagnosis` decides by.
DETAILS: tuple[str, ...] = (
    "",
    "overcommit-guess",
    "overcommit-always",
    "overcommit-never",
    "pidns-alive",
    "pidns-dead",
    "ns-limit",
    "ns-depth",
    "mounts",
    "stack-address-space",
    "stack-data",
    "stack-mappings",
    "stack-commit",
    "stack-locked",
    "ns-room",
    "new-net",
    "pointer-bad",
    "pointer-mapped",
    "ns-near",
)

# enum ft_syscall.
SYSCALLS: tuple[str, ...] = (
    *("unknown", "fork", "vfork", "clone", "clone3", "kernel"),
    *("mmap", "mprotect", "execve", "unshare"),
)
MAKE_NO_TASK = ("execve", "unshare")

BIT_THREAD = 1
BIT_OBSERVED = 2
BIT_MEMCG = 4
BIT_DETAILED = 8
BIT_ALONE = 16
BIT_FLAGS_UNKNOWN = 32
BIT_LATE = 64
FLAGS_UNKNOWN = 0xFFFFFFFF << 32

# The last byte of comm in a key, and the values of its bits (bpf/wire.h).
_MARK_AT, _MARK_OTHERS, _MARK_FOLDED = COMM_BYTES - 1, 2, 4
_OWNER_AT = slice(16, 28)  # cgroup and uid

_KEY = struct.Struct("=16sQIiBBBBIQ")
_TALLY = struct.Struct("=QQQQ")
_EVENT_HEAD = struct.Struct("=Q")
_EVENT_WHO = struct.Struct("=QIIIIII16sQ")
_EVENT_TAIL = struct.Struct(f"={len(NUMBERS)}Q{USER_FRAMES}Q")
_ALL_NUMBERS, _ALL_FITS = (1 << len(NUMBERS)) - 1, (1 << len(FITS)) - 1
_PLACE = struct.Struct(f"=i{BUILD_ID_BYTES}sQ")
_LEVEL = struct.Struct("=QQQII")
LEVEL_COUNT, LEVEL_BYTES = 16, _LEVEL.size
CGROUP_PATH_BYTES = 768
MAKER_TEXT_BYTES = 48
_MAKER = struct.Struct(f"=II{COMM_BYTES}s{MAKER_TEXT_BYTES}s{MAKER_TEXT_BYTES}s")
REGISTERS = 34
_EXE_PARTS, _EXE_PART_BYTES = 12, 64
_ARGUMENT_BYTES = 256
_STACK_HEAD = struct.Struct("=QIIQQQQ16sII")
_STACK_REGISTERS = struct.Struct(f"={REGISTERS}Q")
_STACK_TAIL = struct.Struct(f"={_EXE_PARTS * _EXE_PART_BYTES}s{_ARGUMENT_BYTES}s")
STACK_HEAD_BYTES = _STACK_HEAD.size + _STACK_REGISTERS.size + _STACK_TAIL.size

KEY_BYTES = _KEY.size
TALLY_BYTES = _TALLY.size
EVENT_BYTES = _EVENT_HEAD.size + _KEY.size + _EVENT_WHO.size + _EVENT_TAIL.size
EVENT_BYTES += USER_FRAMES * _PLACE.size + LEVEL_COUNT * _LEVEL.size
EVENT_BYTES += CGROUP_PATH_BYTES + _MAKER.size

# CLONE_* of include/uapi/linux/sched.h. The low byte is the exit signal.
CLONE_FLAGS: tuple[tuple[int, str], ...] = (
    (0x00000100, "CLONE_VM"),
    (0x00000200, "CLONE_FS"),
    (0x00000400, "CLONE_FILES"),
    (0x00000800, "CLONE_SIGHAND"),
    (0x00001000, "CLONE_PIDFD"),
    (0x00002000, "CLONE_PTRACE"),
    (0x00004000, "CLONE_VFORK"),
    (0x00008000, "CLONE_PARENT"),
    (0x00010000, "CLONE_THREAD"),
    (0x00020000, "CLONE_NEWNS"),
    (0x00040000, "CLONE_SYSVSEM"),
    (0x00080000, "CLONE_SETTLS"),
    (0x00100000, "CLONE_PARENT_SETTID"),
    (0x00200000, "CLONE_CHILD_CLEARTID"),
    (0x00400000, "CLONE_DETACHED"),
    (0x00800000, "CLONE_UNTRACED"),
    (0x01000000, "CLONE_CHILD_SETTID"),
    (0x02000000, "CLONE_NEWCGROUP"),
    (0x04000000, "CLONE_NEWUTS"),
    (0x08000000, "CLONE_NEWIPC"),
    (0x10000000, "CLONE_NEWUSER"),
    (0x20000000, "CLONE_NEWPID"),
    (0x40000000, "CLONE_NEWNET"),
    (0x80000000, "CLONE_IO"),
    (0x100000000, "CLONE_CLEAR_SIGHAND"),
    (0x200000000, "CLONE_INTO_CGROUP"),
    (0x400000000, "CLONE_AUTOREAP"),
    (0x800000000, "CLONE_NNP"),
    (0x1000000000, "CLONE_PIDFD_AUTOKILL"),
    (0x2000000000, "CLONE_EMPTY_MNTNS"),
)


# Where struct pt_regs (arch/*/include/asm/ptrace.h) has what unwinding needs: each register by its
# number in DWARF, the program counter, and the word that tells a 32-bit task by one of its bits.
_DWARF_X86_64 = {
    **{0: 10, 1: 12, 2: 11, 3: 5, 4: 13, 5: 14, 6: 4, 7: 19, 8: 9, 9: 8, 10: 7, 11: 6},
    **{12: 3, 13: 2, 14: 1, 15: 0},
}
_DWARF_ARM64 = {number: number for number in range(32)}  # x0 to x30, then sp
_USER_32_CS = 0x23  # arch/x86/include/asm/segment.h
_CS_MASK = 0xFFFF  # the rest of that word is not the register's: FRED keeps its own bits there
_MODE_32_BIT = 0x10  # arch/arm64/include/uapi/asm/ptrace.h, PSR_MODE32_BIT


class BadEventError(ValueError):
    """The bytes are no event of this version."""


@dataclass(frozen=True)
class Key:
    """What the exact counters tell apart."""

    comm: str
    cgroup_id: int
    uid: int
    error: int  # positive errno
    step: int
    detail: str
    syscall: str
    is_thread: bool
    is_observed: bool
    # A memory cgroup had nothing left to kill, inside this very call.
    is_memcg: bool = False
    # Where no watched step refused: words of FITS.
    fits: frozenset[str] = frozenset()
    # Judged while the programs of every step were attached: their silence tells.
    is_detailed: bool = False
    # Judged before a fork had failed, with copy_process watched alone.
    is_alone: bool = False
    has_flags: bool = True
    # Of several commands of one user and cgroup, which had no room apart: comm and call are no one's.
    is_of_others: bool = False
    is_of_all: bool = False  # and of several users and cgroups too

    @property
    def command(self) -> str | None:
        """Name the command; None: there are several."""
        return None if self.is_of_others else self.comm

    @property
    def call(self) -> str | None:
        """Name the system call; None: there are several."""
        return None if self.is_of_others else self.syscall

    @property
    def user(self) -> int | None:
        """Return the uid; None: there are several."""
        return None if self.is_of_all else self.uid

    @property
    def creates(self) -> str | None:
        """Name what was to be made; None: no task, or the flags that tell were not to be had."""
        if not self.has_flags or self.syscall in MAKE_NO_TASK:
            return None
        return "thread" if self.is_thread else "process"


@dataclass(frozen=True)
class Level:
    """One level of a hierarchy of limits, as the kernel held it at that instant."""

    kind: str  # of LEVELS
    up: int  # levels above the task's own; of namespaces: levels below the initial one
    number: int  # the cgroup's id, the namespace's inode number, or the uid
    used: int
    limit: int


@dataclass(frozen=True)
class Place:
    """One user address, and the file and offset that it stands for where the kernel knew them."""

    address: int
    build_id: str | None = None  # hexadecimal
    offset: int | None = None  # in the file


@dataclass(frozen=True)
class Maker:
    """Who in the kernel makes a task that no system call asked for; None: not known."""

    kind: str  # of MAKERS
    name: str | None = None  # of the thread to be made; of a helper: its program
    function: str | None = None  # of the kernel, that it was to run
    # The process that waits for a kernel thread: its name, and its thread group id.
    asker: str | None = None
    asker_pid: int | None = None


@dataclass(frozen=True)
class Event:
    """One failure, as the kernel side sent it."""

    time_ns: int  # CLOCK_MONOTONIC
    key: Key
    flags: int
    pid: int
    tid: int
    ppid: int
    parent_comm: str
    numbers: dict[str, int] = field(default_factory=dict)  # what could not be read is absent
    user_frames: tuple[Place, ...] = ()  # innermost first
    levels: tuple[Level, ...] = ()
    # Of the cgroup in the key, from the hierarchy's root; None: not to be had, or the root itself.
    cgroup_path: str | None = None
    maker: Maker | None = None  # None: a system call, or not known


@dataclass(frozen=True)
class Stack:
    """What one user stack is unwound from, and what tells the program when /proc cannot."""

    time_ns: int  # with tid: of which event
    tid: int
    registers: tuple[int, ...]  # struct pt_regs, as the kernel keeps it
    start: int  # the address of the first byte of the slice
    slice: bytes = b""
    holes: frozenset[int] = frozenset()  # chunks of STACK_CHUNK bytes of it that were not read
    code_end: int | None = None  # the address where the program's code ends
    exe_inode: int | None = None
    exe_device: tuple[int, int] = (0, 0)  # of its filesystem: major, minor
    exe: str | None = None  # the program's path within its mount; None: too long to be sent
    arguments: tuple[
        str, ...
    ] = ()  # the first of the command line; a last one cut short is left out

    def dwarf_registers(self, machine: str) -> tuple[int, dict[int, int]] | None:
        """Return the program counter and the registers by DWARF's numbers; None: a 32-bit task."""
        if machine == "x86_64" and self.registers[17] & _CS_MASK != _USER_32_CS:
            places, pc = _DWARF_X86_64, self.registers[16]
        elif machine == "aarch64" and not self.registers[33] & _MODE_32_BIT:
            places, pc = _DWARF_ARM64, self.registers[32]
        else:
            return None
        return pc, {number: self.registers[place] for number, place in places.items()}


def text(raw: bytes) -> str:
    """Decode a name that ends at its first NUL."""
    # comm is any bytes that its owner wrote; surrogateescape would leak invalid UTF-8 into JSON.
    return raw.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


def _word(words: tuple[str, ...], number: int) -> str:
    return words[number] if number < len(words) else f"unknown:{number}"


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _bits(mask: int) -> Iterator[int]:
    """Name the bits that are set, the lowest first: few are."""
    while mask:
        yield (mask & -mask).bit_length() - 1
        mask &= mask - 1


def decode_key(raw: bytes) -> Key:
    """Decode a struct ft_key."""
    if len(raw) < KEY_BYTES:
        raise BadEventError(f"a key has {KEY_BYTES} bytes, got {len(raw)}")
    comm, cgroup, uid, error, step, detail, syscall, bits, _, fits = _KEY.unpack_from(raw)
    return Key(
        comm=text(comm[:_MARK_AT]),
        cgroup_id=cgroup,
        uid=uid,
        error=-error,
        step=step,
        detail=_word(DETAILS, detail),
        syscall=_word(SYSCALLS, syscall),
        is_thread=bool(bits & BIT_THREAD),
        is_observed=bool(bits & BIT_OBSERVED),
        is_memcg=bool(bits & BIT_MEMCG),
        is_detailed=bool(bits & BIT_DETAILED),
        has_flags=not bits & BIT_FLAGS_UNKNOWN,
        is_alone=bool(bits & BIT_ALONE),
        fits=frozenset(FITS[bit] for bit in _bits(fits & _ALL_FITS)),
        is_of_others=comm[_MARK_AT] & ~1 != 0 and not comm[0],
        is_of_all=comm[_MARK_AT] & _MARK_FOLDED != 0,
    )


def key_of(raw: bytes) -> bytes:
    """Return the struct ft_key of a struct ft_event."""
    return raw[_EVENT_HEAD.size : _EVENT_HEAD.size + KEY_BYTES]


def counted_under(raw: bytes) -> bytes:
    """Return the key that a failure was counted under, given its sample's or the table's, of any generation."""
    mark = raw[_MARK_AT] & ~1
    if mark:
        return others_of(raw, is_folded=bool(mark & _MARK_FOLDED))
    return raw[:_MARK_AT] + b"\0" + raw[_MARK_AT + 1 : KEY_BYTES]


def generation_of(raw: bytes) -> int:
    """Return the generation of a key, 0 or 1: given a sample's or the table's."""
    return raw[_MARK_AT] & 1


def owner_of(raw: bytes) -> bytes:
    """Return whose a key is: the user and the cgroup."""
    return raw[_OWNER_AT]


def others_of(raw: bytes, is_folded: bool = False) -> bytes:
    """Return the key of all others of its user and cgroup, or of all users and cgroups: without command and call."""
    mark = _MARK_OTHERS | _MARK_FOLDED if is_folded else _MARK_OTHERS
    owner = bytes(12) if is_folded else owner_of(raw)
    # struct ft_key: the call lies behind the step and the detail
    return bytes(_MARK_AT) + bytes([mark]) + owner + raw[28:34] + b"\0" + raw[35:KEY_BYTES]


def is_of_others(raw: bytes) -> bool:
    """Say whether a key stands for several commands."""
    return raw[_MARK_AT] & ~1 != 0


@dataclass(frozen=True)
class Tally:
    """The exact counter of one key."""

    count: int
    unsampled: int  # of these, the ones that no event was or will be sent for


def decode_tally(raw: bytes) -> Tally:
    """Decode a struct ft_tally."""
    if len(raw) < TALLY_BYTES:
        raise BadEventError(f"a tally has {TALLY_BYTES} bytes, got {len(raw)}")
    count, unsampled, _, _ = _TALLY.unpack_from(raw)
    return Tally(count, unsampled)


def decode(raw: bytes) -> Event:
    """Decode a struct ft_event; a perf buffer may pad it, so only shorter ones are refused."""
    if len(raw) < EVENT_BYTES:
        raise BadEventError(f"an event has {EVENT_BYTES} bytes, got {len(raw)}")
    (time_ns,) = _EVENT_HEAD.unpack_from(raw)
    key = decode_key(key_of(raw))
    offset = _EVENT_HEAD.size + KEY_BYTES
    flags, pid, tid, ppid, frame_count, level_count, path_bytes, parent_comm, have = (
        _EVENT_WHO.unpack_from(raw, offset)
    )
    tail = _EVENT_TAIL.unpack_from(raw, offset + _EVENT_WHO.size)
    numbers = {NUMBERS[index]: _signed(tail[index]) for index in _bits(have & _ALL_NUMBERS)}
    offset += _EVENT_WHO.size + _EVENT_TAIL.size
    frames = _frames(raw, offset, tail, frame_count)
    offset += USER_FRAMES * _PLACE.size
    found = levels(raw, offset, level_count)
    offset += LEVEL_COUNT * _LEVEL.size
    path = cgroup_path(raw[offset : offset + path_bytes])
    offset += CGROUP_PATH_BYTES
    return Event(
        time_ns=time_ns,
        key=key,
        flags=flags,
        pid=pid,
        tid=tid,
        ppid=ppid,
        parent_comm=text(parent_comm),
        numbers=numbers,
        user_frames=frames,
        levels=found,
        cgroup_path=path,
        maker=_maker(raw, offset),
    )


def decode_stack(raw: bytes) -> Stack:
    """Decode a struct ft_stack with its slice."""
    if len(raw) < STACK_HEAD_BYTES:
        raise BadEventError(f"a stack has {STACK_HEAD_BYTES} bytes, got {len(raw)}")
    time_ns, tid, bytes_, start, code_end, *exe, arguments = _STACK_HEAD.unpack_from(raw)
    inode, device, have, part_count = exe
    parts, argument = _STACK_TAIL.unpack_from(raw, _STACK_HEAD.size + _STACK_REGISTERS.size)
    return Stack(
        time_ns=time_ns,
        tid=tid,
        registers=_STACK_REGISTERS.unpack_from(raw, _STACK_HEAD.size),
        start=start,
        slice=raw[STACK_HEAD_BYTES : STACK_HEAD_BYTES + bytes_],
        holes=_holes(int.from_bytes(have, "little"), bytes_),
        code_end=code_end or None,
        exe_inode=inode or None,
        exe_device=(device >> 20, device & 0xFFFFF),
        exe=_path(parts, part_count),
        arguments=tuple(
            each.decode("utf-8", "surrogateescape")
            for each in argument[:arguments].split(b"\0")[:-1]
        ),
    )


def _holes(have: int, bytes_: int) -> frozenset[int]:
    chunks = min(bytes_, STACK_BYTES_MAX) // STACK_CHUNK
    return frozenset(chunk for chunk in range(chunks) if not have >> chunk & 1)


def _path(parts: bytes, count: int) -> str | None:
    """Join the parts of a path, of which the last comes first; one that fills its place is cut."""
    if not 0 < count < _EXE_PARTS:
        return None
    names = []
    for index in range(count):
        part = parts[index * _EXE_PART_BYTES : (index + 1) * _EXE_PART_BYTES].split(b"\0", 1)[0]
        if not 0 < len(part) < _EXE_PART_BYTES - 1:
            return None
        names.append(part.decode("utf-8", "surrogateescape"))
    return "/" + "/".join(reversed(names))


def _frames(raw: bytes, offset: int, tail: tuple[int, ...], count: int) -> tuple[Place, ...]:
    frames = []
    for index in range(min(count, USER_FRAMES)):
        address = tail[len(NUMBERS) + index]
        status, build_id, place = _PLACE.unpack_from(raw, offset + index * _PLACE.size)
        # For an address in no mapping the kernel takes the next one above, so that it lies before
        # the file's begin (kernel/bpf/stackmap.c, find_vma()): frame pointers led astray, and
        # what comes after has no meaning either.
        if status == _PLACE_HAS_BUILD_ID and place >> 63:
            break
        if status == _PLACE_HAS_BUILD_ID:
            frames.append(Place(address, build_id.hex(), place))
        else:
            frames.append(Place(address))
    return tuple(frames)


def levels(raw: bytes, offset: int, count: int) -> tuple[Level, ...]:
    """Decode so many of the levels that begin at an offset."""
    levels = []
    for index in range(min(count, LEVEL_COUNT)):
        number, used, limit, kind, up = _LEVEL.unpack_from(raw, offset + index * _LEVEL.size)
        levels.append(Level(_word(LEVELS, kind), up, number, _signed(used), _signed(limit)))
    return tuple(levels)


def _maker(raw: bytes, offset: int) -> Maker | None:
    kind, asker_pid, asker, name, function = _MAKER.unpack_from(raw, offset)
    if not kind:
        return None
    return Maker(
        _word(MAKERS, kind),
        text(name) or None,
        text(function) or None,
        text(asker) or None,
        asker_pid or None,
    )


def cgroup_path(raw: bytes) -> str | None:
    """Decode the path of a cgroup; None: it was not to be had."""
    # Innermost first, each name with its NUL; a cgroup without a name there is none.
    names = raw.split(b"\0")
    if len(raw) > CGROUP_PATH_BYTES or names.pop() or not all(names) or not names:
        return None
    return "/" + b"/".join(reversed(names)).decode("utf-8", "backslashreplace")


@lru_cache(64)
def flag_names(flags: int) -> tuple[str, ...]:
    """Name the CLONE_* flags; bits that have no name here stay visible as unknown:0x..."""
    if flags & FLAGS_UNKNOWN == FLAGS_UNKNOWN:
        return ("unknown",)
    names = [name for bit, name in CLONE_FLAGS if flags & bit]
    rest = flags & ~0xFF & ~sum(bit for bit, _ in CLONE_FLAGS)
    if rest:
        names.append(f"unknown:{rest:#x}")
    return tuple(names)


def step_name(key: Key) -> str:
    """Name the step that a key was counted under; a verdict may know a better one."""
    return steps.name_of(key.step)
