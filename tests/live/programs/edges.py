"""What a person calls a failed fork, and the kernel's fork never saw: each refused COUNT times, by name.

`edges.py COUNT [--musl MUSL_STACKS] [--old OLD_EXECVE]` prints JSON: name -> how often the call was refused
with its errno. A name is the command of the thread that calls.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import json
import os
import resource
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

UID = 60011
NEWNET, NEWUSER, NEWUTS = 0x40000000, 0x10000000, 0x04000000
NR_CLONE, NR_CLONE3 = {"x86_64": (56, 435), "aarch64": (220, 435)}[os.uname().machine]
PR_SET_NAME, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, FILTER = 15, 38, 22, 2
ANSWER, ALLOW = 0x50000, 0x7FFF0000  # SECCOMP_RET_ERRNO, SECCOMP_RET_ALLOW
SLEEPERS, ROOM = 5, 3
PATIENCE_S = 30
LIBC = ctypes.CDLL(None, use_errno=True)


def _named(name: str, told: Callable[[], int]) -> int:
    """Run it in a child with that name; return how often it says that the call was refused."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        LIBC.prctl(PR_SET_NAME, name.encode(), 0, 0, 0)
        number = -1
        try:
            number = told()
        finally:
            os.write(writer, str(number).encode())
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    said = os.read(reader, 16)
    os.close(reader)
    return int(said)


def _become(uid: int) -> None:
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)


def _execs(count: int, at: bool = False) -> Callable[[], int]:
    """Start a program as a user that is over its limit: the change of user passes, execve or execveat does not."""

    def told() -> int:
        refused = 0
        true = os.open("/bin/true", os.O_RDONLY)
        resource.setrlimit(resource.RLIMIT_NPROC, (ROOM, ROOM))
        _become(UID)
        for _ in range(count):
            try:
                # By a descriptor it is fexecve(3), which is execveat.
                os.execve(true if at else "/bin/true", ["true"], {})
            except BlockingIOError:
                refused += 1
        return refused

    return told


def _unshares(count: int, flag: int, setting: str) -> Callable[[], int]:
    """Ask for namespaces where none may be made: in a user namespace of one's own, so anybody can."""

    def told() -> int:
        uid, gid = os.getuid(), os.getgid()
        if LIBC.unshare(NEWUSER):
            return -1
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
        Path(f"/proc/sys/user/{setting}").write_text("0")
        refused = [LIBC.unshare(flag) and ctypes.get_errno() for _ in range(count)]
        return refused.count(errno.ENOSPC)

    return told


def _filter(answers: dict[int, int]) -> None:
    """Answer these system calls with these errnos from now on."""
    lines = [struct.pack("HBBI", 0x20, 0, 0, 0)]
    for number, error in answers.items():
        lines += [
            struct.pack("HBBI", 0x15, 0, 1, number),
            struct.pack("HBBI", 6, 0, 0, ANSWER | error),
        ]
    lines.append(struct.pack("HBBI", 6, 0, 0, ALLOW))
    text = ctypes.create_string_buffer(b"".join(lines))
    program = struct.pack("HxxxxxxQ", len(lines), ctypes.addressof(text))
    LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if LIBC.prctl(PR_SET_SECCOMP, FILTER, ctypes.create_string_buffer(program), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


def _threads(count: int, answers: dict[int, int]) -> Callable[[], int]:
    """Start threads behind a filter, and say how many of them could not be."""

    def told() -> int:
        _filter(answers)
        refused = 0
        for _ in range(count):
            thread = threading.Thread(target=time.time)
            try:
                thread.start()
            except RuntimeError:
                refused += 1
            else:
                thread.join()
        return refused

    return told


def _bare(count: int) -> Callable[[], int]:
    """Call clone3 and nothing instead."""

    def told() -> int:
        _filter({NR_CLONE3: errno.ENOSYS})
        args = ctypes.create_string_buffer(64)
        return sum(
            bool(LIBC.syscall(NR_CLONE3, args, 64) == -1 and ctypes.get_errno() == errno.ENOSYS)
            for _ in range(count)
        )

    return told


def main() -> None:
    """Make all of them happen, one after the other."""
    parser = argparse.ArgumentParser()
    parser.add_argument("count", type=int)
    parser.add_argument("--musl")
    parser.add_argument("--old")
    options = parser.parse_args()
    count = options.count
    sleepers = [
        subprocess.Popen(["sleep", "600"], user=UID, group=UID, extra_groups=[])
        for _ in range(SLEEPERS)
    ]
    told = {
        "e-exec": _named("e-exec", _execs(count)),
        "e-exec-at": _named("e-exec-at", _execs(count, at=True)),
        "e-net": _named("e-net", _unshares(count, NEWNET, "max_net_namespaces")),
        "e-user": _named("e-user", _unshares(count, NEWUSER, "max_user_namespaces")),
        "e-both": _named("e-both", _unshares(count, NEWUSER | NEWUTS, "max_uts_namespaces")),
        "e-fallback": _named("e-fallback", _threads(count, {NR_CLONE3: errno.ENOSYS})),
        "e-refused": _named(
            "e-refused", _threads(count, {NR_CLONE3: errno.ENOSYS, NR_CLONE: errno.EPERM})
        ),
        "e-bare": _named("e-bare", _bare(count)),
    }
    for kind in ("as", "data") if options.musl else ():
        done = subprocess.run([options.musl, kind, str(count)], capture_output=True, text=True)
        told[f"e-musl-{kind}"] = int(done.stdout)
    if options.old:
        argv = [options.old, str(UID), str(ROOM), str(count)]
        done = subprocess.run(argv, capture_output=True, text=True)
        # Of two calls, each that often.
        told["e-exec-32"] = int(done.stdout) // 2
    # Who holds the tasks is read from /proc after the refusal, by several watchers on a slow machine.
    time.sleep(PATIENCE_S)
    for sleeper in sleepers:
        sleeper.kill()
        sleeper.wait()
    print(json.dumps(told))


if __name__ == "__main__":
    main()
