"""BPF programs, maps and links: what one process holds, and what the whole kernel has."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

KINDS = ("prog", "map", "link")
GRACE_S = 60  # the kernel frees programs after a grace period, under emulation a slow one


def library() -> Any:
    """libbpf, whose functions the others here take."""
    return ctypes.CDLL("libbpf.so.1", use_errno=True)


def held_by(pid: int) -> set[tuple[str, int]]:
    """The programs, maps and links that a process holds, as bpftool would list them."""
    held = set()
    for path in Path(f"/proc/{pid}/fdinfo").iterdir():
        try:
            text = path.read_text()
        except FileNotFoundError:
            continue  # closed meanwhile
        for kind, number in re.findall(r"^(prog|map|link)_id:\s+(\d+)$", text, re.MULTILINE):
            held.add((kind, int(number)))
    return held


def is_there(library: Any, kind: str, number: int) -> bool:
    """Say whether the kernel still has one of them."""
    fd = getattr(library, f"bpf_{kind}_get_fd_by_id")(number)
    if fd < 0:
        assert ctypes.get_errno() in (errno.ENOENT, errno.EAGAIN), ctypes.get_errno()
        return False
    os.close(fd)
    return True


def everything(library: Any) -> set[tuple[str, int]]:
    """All programs, maps and links of the kernel, and what is pinned."""
    found = set()
    for kind in KINDS:
        current = ctypes.c_uint32(0)
        while getattr(library, f"bpf_{kind}_get_next_id")(current, ctypes.byref(current)) == 0:
            found.add((kind, current.value))
    if Path("/sys/fs/bpf").is_dir():
        found |= {(str(path), 0) for path in Path("/sys/fs/bpf").rglob("*")}
    return found


def wait_until(is_so: Callable[[], bool]) -> bool:
    """Wait for it as long as the kernel may need."""
    deadline = time.monotonic() + GRACE_S
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.1)
    return is_so()
