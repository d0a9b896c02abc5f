"""fuse_server.py DIRECTORY FILE: shows FILE as DIRECTORY/f by the raw protocol of /dev/fuse.

Told SIGUSR1 it answers every read with EIO; stopped by SIGSTOP it answers nothing, as a dead one.
Source: include/uapi/linux/fuse.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
import sys

LOOKUP, FORGET, GETATTR, OPEN, READ, STATFS, RELEASE = 1, 2, 3, 14, 15, 17, 18
FLUSH, INIT, OPENDIR, READDIR, RELEASEDIR, INTERRUPT, BATCH_FORGET = 25, 26, 27, 28, 29, 36, 42
KEEP_CACHE = 2
ROOT, FILE = 1, 2


def attributes(node: int, size: int) -> bytes:
    mode = 0o40755 if node == ROOT else 0o100755
    return struct.pack("=6Q10I", node, size, 1, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


class Server:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.is_broken = False

    def answer(self, opcode: int, node: int, body: bytes) -> bytes:
        """Answer one request; OSError is an answer too."""
        # Nothing of it may be remembered but pages: each look at it shall ask, and who runs it live on.
        if opcode == INIT:
            return struct.pack("=4I2H2I2H8I", 7, 31, 0, 0, 16, 12, 1 << 16, 1, 0, 0, *[0] * 8)
        if opcode == LOOKUP:
            if node != ROOT or body.rstrip(b"\0") != b"f":
                raise OSError(errno.ENOENT, "")
            return struct.pack("=4Q2I", FILE, 0, 0, 0, 0, 0) + attributes(FILE, len(self.data))
        if opcode == GETATTR:
            return struct.pack("=Q2I", 0, 0, 0) + attributes(node, len(self.data))
        if opcode in (OPEN, OPENDIR):
            return struct.pack("=Q2I", 0, KEEP_CACHE if opcode == OPEN else 0, 0)
        if opcode == READ:
            if self.is_broken:
                raise OSError(errno.EIO, "")
            _, offset, size = struct.unpack_from("=2QI", body)
            return self.data[offset : offset + size]
        if opcode == STATFS:
            return bytes(80)
        if opcode in (RELEASE, RELEASEDIR, FLUSH, READDIR):
            return b""
        raise OSError(errno.ENOSYS, "")


def main(directory: str, path: str) -> None:
    fd = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"strange", os.fsencode(directory), b"fuse.strange", 0, options.encode()):
        raise SystemExit(f"cannot mount: {os.strerror(ctypes.get_errno())}")
    with open(path, "rb") as file:
        server = Server(file.read())
    signal.signal(signal.SIGUSR1, lambda *_: setattr(server, "is_broken", True))
    print("serving", flush=True)
    while True:
        request = os.read(fd, 1 << 18)
        _, opcode, unique, node = struct.unpack_from("=2I2Q", request)
        if opcode in (FORGET, BATCH_FORGET, INTERRUPT):
            continue
        error, body = 0, b""
        try:
            body = server.answer(opcode, node, request[40:])
        except OSError as refusal:
            error = -(refusal.errno or errno.EIO)
        os.write(fd, struct.pack("=IiQ", 16 + len(body), error, unique) + body)


if __name__ == "__main__":
    main(*sys.argv[1:])
