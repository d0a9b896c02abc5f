"""Makes the kernel want tasks of its own while kernel.threads-max is reached, and tells how that ended.

A thread by kthreadd (module pktgen has one for each CPU), a user-mode helper (modprobe, for an address
family that nobody has), and vhost's worker. Nothing here forks. Prints JSON: what each attempt ended with.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import lzma
import os
import socket
import subprocess
import sys
from pathlib import Path

THREADS_MAX = Path("/proc/sys/kernel/threads-max")
LEAST = "20"  # kernel/fork.c, MIN_THREADS
NR_INIT_MODULE = {"x86_64": 175, "aarch64": 105}[os.uname().machine]
AF_X25 = 9
PR_SET_NAME = 15
VHOST_SET_OWNER = 0xAF01  # include/uapi/linux/vhost.h


def _module(name: str) -> bytes | None:
    told = subprocess.run(["modinfo", "-n", name], capture_output=True, text=True)
    path = Path(told.stdout.strip())
    if told.returncode:
        return None
    return lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()


def _name(number: int) -> str:
    return errno.errorcode.get(number, str(number)) if number else "done"


def _kthread(module: bytes) -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    size = ctypes.c_ulong(len(module))
    failed = libc.syscall(ctypes.c_long(NR_INIT_MODULE), module, size, b"")
    return _name(ctypes.get_errno() if failed else 0)


def _helper() -> str:
    try:
        socket.socket(AF_X25, socket.SOCK_SEQPACKET, 0).close()
    except OSError as error:
        return _name(error.errno or 0)
    return "done"


def _vhost(file: int) -> str:
    try:
        fcntl.ioctl(file, VHOST_SET_OWNER)
    except OSError as error:
        return _name(error.errno or 0)
    return "done"


def main() -> int:
    """Prepare all that forks, then take the room away, then try."""
    ctypes.CDLL(None).prctl(PR_SET_NAME, b"asks", 0, 0, 0)
    pktgen = _module("pktgen")
    subprocess.run(["modprobe", "-a", "vhost_net"], stderr=subprocess.DEVNULL)
    vhost = os.open("/dev/vhost-net", os.O_RDWR) if os.path.exists("/dev/vhost-net") else None
    before = THREADS_MAX.read_text()
    ended: dict[str, str | None] = {"kthread": None, "vhost": None}
    THREADS_MAX.write_text(LEAST)
    try:
        if pktgen is not None:
            ended["kthread"] = _kthread(pktgen)
        ended["helper"] = _helper()
        if vhost is not None:
            ended["vhost"] = _vhost(vhost)
    finally:
        THREADS_MAX.write_text(before)
    json.dump(ended, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
