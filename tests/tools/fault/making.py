"""Makes forks lose one allocation each, on the running kernel, and reads what it was: the truth.

The module is fail_alloc.c, built by `scripts/vm --module`; the program is forks.c. Root, in a guest.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
MODULE = "FORK_TRACE_VM_MODULE"
# kernel/rseq.c: who cannot be told its CPU, for want of a page to write it to, is killed.
_WITHOUT_RSEQ = {"GLIBC_TUNABLES": "glibc.pthread.rseq=0"}
_BTF_KIND_STRUCT = 4  # include/uapi/linux/btf.h
_TYPE_BYTES, _MEMBER_BYTES = 12, 12  # struct btf_type, struct btf_member


class Attempt(NamedTuple):
    """One fork that was to lose one allocation."""

    variant: str
    number: int
    comm: str
    errno: int  # 0: it went through
    is_hit: bool  # an allocation was refused; the fork may have gone through all the same
    allocator: str = ""
    cache: str = ""  # of slab; "": not known
    stack: tuple[str, ...] = ()  # functions, innermost first


def load() -> None:
    """Load the module, unless it is."""
    if not Path("/proc/fail_alloc").exists():
        offset = _offset_of_name()
        subprocess.run(["insmod", os.environ[MODULE], f"name_offset={offset}"], check=True)


def build(directory: Path) -> Path:
    """Compile forks.c, unless it is there."""
    target = directory / "forks"
    if not target.exists():
        compiler = ("cc", "-O2", "-Wall", "-Werror", "-o", str(target), str(HERE / "forks.c"))
        subprocess.run(compiler, check=True)
    return target


def variants(program: Path) -> list[str]:
    """Name all of them, in the order of forks.c."""
    return subprocess.run(
        [str(program)], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.split()


def make(program: Path, variants: Sequence[str], pause_us: int, timeout_s: float) -> list[Attempt]:
    """Make each allocation of each variant fail once, in the kernel's order."""
    done = subprocess.run(
        [str(program), str(pause_us), *variants],
        stdout=subprocess.PIPE,
        text=True,
        timeout=timeout_s,
        check=True,
        env={**os.environ, **_WITHOUT_RSEQ},
    )
    return read(done.stdout.splitlines())


def keep(place: Path, captures: Path, attempts: Iterable[Attempt]) -> None:
    """Copy captures, and write beside them what was done."""
    place.mkdir(parents=True, exist_ok=True)
    for file in captures.glob("*.jsonl"):
        shutil.copy(file, place)
    lines = [json.dumps(attempt._asdict()) + "\n" for attempt in attempts]
    (place / "attempts.jsonl").write_text("".join(lines))


def read(lines: Iterable[str]) -> list[Attempt]:
    """Read what forks.c printed."""
    return [_attempt(**json.loads(line)) for line in lines]


def _attempt(variant: str, number: int, comm: str, errno: int, told: list[str]) -> Attempt:
    left, allocator, cache = (told[0] if told else "? - -").split()
    # symbol+0x1/0x2, without what the compiler adds to it
    stack = tuple(line.partition("+")[0].partition(".")[0] for line in told[1:])
    known = "" if cache == "-" else cache
    return Attempt(variant, number, comm, errno, left == "0", allocator, known, stack)


def _offset_of_name() -> int:
    """Say where struct kmem_cache has its name, by the running kernel's BTF; -1: not to be had."""
    lib = ctypes.CDLL("libbpf.so.1")
    lib.btf__load_vmlinux_btf.restype = ctypes.c_void_p
    lib.btf__type_by_id.restype = ctypes.c_void_p
    lib.btf__name_by_offset.restype = ctypes.c_char_p
    btf = ctypes.c_void_p(lib.btf__load_vmlinux_btf())
    number = lib.btf__find_by_name_kind(btf, b"kmem_cache", _BTF_KIND_STRUCT)
    if number < 0:
        return -1
    at = lib.btf__type_by_id(btf, number)
    count = ctypes.c_uint32.from_address(at + 4).value & 0xFFFF
    for place in range(at + _TYPE_BYTES, at + _TYPE_BYTES + count * _MEMBER_BYTES, _MEMBER_BYTES):
        name, _, bits = (ctypes.c_uint32 * 3).from_address(place)
        if lib.btf__name_by_offset(btf, ctypes.c_uint32(name)) == b"name":
            return int(bits & 0xFFFFFF) // 8  # the upper byte is a bitfield's size
    return -1
