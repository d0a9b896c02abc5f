"""starved.py CONDITION DIRECTORY: runs the tool where next to nothing can be had, and a victim beside it.

Everybody is made before the condition is; then the tool is exec'ed, as from somebody's last shell. One JSON
object tells what came of it: the tool's `code`, `stdout`, `stderr`, `pid` and descriptors, and what the
victim saw.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import mmap
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import own_cgroups

from fork_trace.probes import reserve

CONDITION, DIRECTORY = sys.argv[1], Path(sys.argv[2])
OPTIONS = sys.argv[3:]
COUNT = 23
USER = 60123
MIB = 1 << 20
LEFT = 64 * MIB
TOOL = [sys.executable, "-m", "fork_trace", "capture", "--comm", "ft-victim", *OPTIONS]
FILE = DIRECTORY / "forks.jsonl"
CAPABILITIES = "-all,+bpf,+perfmon"
AS_USER = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
AS_USER += [f"--inh-caps={CAPABILITIES}", f"--ambient-caps={CAPABILITIES}"]
# Before Linux 5.11 what BPF takes counts as locked memory: there a user is given it as a service is.
if tuple(map(int, os.uname().release.split(".")[:2])) < (5, 11):
    AS_USER = ["prlimit", "--memlock=unlimited:unlimited", *AS_USER]

sleepers: list[int] = []


def number(path: str) -> int:
    return int(Path(path).read_text().split()[0])


def meminfo(name: str) -> int:
    (line,) = (x for x in Path("/proc/meminfo").read_text().splitlines() if x.startswith(name))
    return int(line.split()[1]) << 10


@contextmanager
def setting(name: str, value: int) -> Iterator[None]:
    path = Path("/proc/sys", name)
    before = path.read_text()
    path.write_text(str(value))
    try:
        yield
    finally:
        path.write_text(before)


@contextmanager
def cgroup(**limits: int) -> Iterator[Path]:
    with own_cgroups.made(Path("/sys/fs/cgroup"), "ft-starved", "+pids +memory") as place:
        for name, value in limits.items():
            (place / name.replace("_", ".")).write_text(str(value))
        yield place


@contextmanager
def sleepers_until_refused() -> Iterator[None]:
    try:
        while True:
            try:
                pid = os.fork()
            except OSError:
                break
            if pid == 0:
                signal.pause()
            sleepers.append(pid)
        yield
    finally:
        for pid in sleepers:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


class Ballast:
    """A process that holds commit charge: all but so many bytes."""

    def __init__(self) -> None:
        self._go, self._told = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            libc = ctypes.CDLL(None)
            libc.mmap.restype = ctypes.c_void_p
            libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3]
            libc.mmap.argtypes.append(ctypes.c_long)
            while order := os.read(self._go[0], 16):
                size = int(order)
                if size:
                    libc.mmap(None, size, 3, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
                else:
                    # Until not one more page is given.
                    for shift in range(30, 11, -1):
                        while libc.mmap(
                            None, 1 << shift, 3, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0
                        ) not in (None, ctypes.c_void_p(-1).value):
                            pass
                os.write(self._told[1], b".")
            os._exit(0)

    def take(self, size: int) -> None:
        """Take so many bytes, or everything."""
        os.write(self._go[1], str(size).encode())
        os.read(self._told[0], 1)

    def end(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


class Waiting:
    """A process that waits for a byte before it goes on."""

    def __init__(self, then: Callable[[], None], *fds: int) -> None:
        read, self._write = os.pipe()
        self.out, out = os.pipe()
        self.err, err = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.read(read, 1)
                os.dup2(out, 1)
                os.dup2(err, 2)
                os.closerange(3, 200)
                then()
            except BaseException as error:  # its only way to tell
                os.write(2, repr(error).encode())
            os._exit(9)
        os.close(out)
        os.close(err)

    def go(self) -> None:
        os.write(self._write, b".")


def read_until(fd: int, mark: bytes, seconds: float = 200) -> bytes:
    text, deadline = b"", time.monotonic() + seconds
    while mark not in text and time.monotonic() < deadline:
        if select.select([fd], [], [], 1)[0]:
            piece = os.read(fd, 65536)
            if not piece:
                break
            text += piece
    return text


def become_victim() -> None:
    Path("/proc/self/comm").write_text("ft-victim")


def fork_in_vain() -> None:
    seen: dict[str, int] = {}
    for _ in range(COUNT):
        try:
            pid = os.fork()
        except OSError as error:
            assert error.errno is not None
            name = errno.errorcode[error.errno]
            seen[name] = seen.get(name, 0) + 1
            continue
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
    os.write(1, json.dumps(seen).encode() + b"\n")
    signal.pause()  # so that it can be looked at


def as_user_at_nproc(tasks: int) -> None:
    resource.setrlimit(resource.RLIMIT_NPROC, (tasks, tasks))
    os.setgroups([])
    os.setresgid(USER, USER, USER)
    os.setresuid(USER, USER, USER)


def exec_tool(*before: str, output: Path | None = FILE) -> None:
    files = ["--output", str(output)] if output else ["--json"]
    command = [*before, *TOOL, *files]
    os.execvp(command[0], command)


def main() -> None:
    with ExitStack() as stack:
        told = run(stack)
    print(json.dumps(told), flush=True)


def run(stack: ExitStack) -> dict[str, object]:
    tool_prepares: list[Callable[[], None]] = []
    victim_prepares: list[Callable[[], None]] = []
    before: list[str] = []
    output: Path | None = FILE

    def tool() -> None:
        for prepare in tool_prepares:
            prepare()
        exec_tool(*before, output=output)

    def victim() -> None:
        become_victim()
        for prepare in victim_prepares:
            prepare()
        os.write(1, b"ready\n")
        os.read(0, 1)
        fork_in_vain()

    ballast = None
    if CONDITION in ("commit-64", "commit-none", "commit-none-to-the-end"):
        ballast = Ballast()
        # Private: what is shared is not asked for again at a fork.
        victim_prepares.append(lambda: kept.append(mmap.mmap(-1, 256 * MIB, mmap.MAP_PRIVATE)))
    place = None
    if CONDITION == "own-pids":
        place = stack.enter_context(cgroup(pids_max=2))
    elif CONDITION == "memory-64":
        place = stack.enter_context(cgroup(memory_max=LEFT, memory_swap_max=0))
    if place is not None:
        tool_prepares.append(lambda: enter(place))
    if CONDITION == "own-pids":
        victim_prepares.append(lambda: enter(place))
    elif CONDITION == "descriptors":
        victim_prepares.append(lambda: kept.append(os.dup2(1, 300)))
        tool_prepares.append(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)))
    elif CONDITION == "descriptors-hard":
        tool_prepares.append(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)))
        before += AS_USER
        output = None
    if CONDITION == "rlimit-nproc":
        before += [*AS_USER, "prlimit", "--nproc=2:2"]
        output = None
        victim_prepares.append(lambda: as_user_at_nproc(2))
    elif CONDITION in ("memory-64", "full-disk", "descriptors-hard"):
        victim_prepares.append(lambda: as_user_at_nproc(1))
    if CONDITION in ("commit-none", "commit-none-to-the-end"):
        output = DIRECTORY / "on-tmpfs.jsonl"
    elif CONDITION == "full-disk":
        output = DIRECTORY / "full" / "forks.jsonl"

    # Standard input of the victim: what it waits for once it is ready.
    go_read, go_write = os.pipe()
    os.dup2(go_read, 0)
    the_victim, the_tool = Waiting(victim), Waiting(tool)
    stack.callback(end, the_victim.pid)
    for fd in (the_tool.out, the_tool.err):
        fcntl.fcntl(fd, 1031, MIB)  # F_SETPIPE_SZ, which Python 3.9 has no name for
    the_victim.go()
    assert b"ready" in read_until(the_victim.out, b"\n"), read_until(the_victim.err, b"\n", 1)

    if ballast:
        stack.enter_context(setting("vm/overcommit_memory", 2))
        # From here on nothing of this process may need more than it has.
        reserve.memory()
        ballast.take(max(meminfo("CommitLimit:") - meminfo("Committed_AS:") - LEFT, 4096))
        # Its fork asks for the 256 MiB again.
    elif CONDITION == "pid-max":
        stack.enter_context(setting("kernel/pid_max", 400))
        stack.enter_context(sleepers_until_refused())
    elif CONDITION == "descriptors":
        stack.enter_context(setting("fs/nr_open", 64))
    began_s = time.monotonic()
    the_tool.go()
    errors = read_until(the_tool.err, b"\n")
    armed_s = time.monotonic() - began_s
    if not errors.startswith(b"Watching"):
        errors += read_until(the_tool.err, b"\0", 2)
        if ballast:
            ballast.end()  # which holds our output open
        return {"armed": False, "stderr": errors.decode(), "condition": CONDITION}
    left = meminfo("CommitLimit:") - meminfo("Committed_AS:") if ballast else None
    if ballast and CONDITION != "commit-64":
        ballast.take(0)
    files = len(os.listdir(f"/proc/{the_tool.pid}/fd"))
    links = {os.readlink(f"/proc/{the_tool.pid}/fd/{fd}").split(":")[0]
             for fd in os.listdir(f"/proc/{the_tool.pid}/fd")}  # fmt: skip
    threads = len(os.listdir(f"/proc/{the_tool.pid}/task"))
    os.write(go_write, b".")
    seen = json.loads(read_until(the_victim.out, b"\n"))
    time.sleep(3)
    if CONDITION == "commit-none":
        errors += read_until(the_tool.err, b"tried again", 20)
        assert ballast
        ballast.end()
        ballast = None
        time.sleep(1)
    status = Path(f"/proc/{the_tool.pid}/status").read_text()
    os.kill(the_tool.pid, signal.SIGTERM)
    text = read_until(the_tool.out, b"\0")
    errors += read_until(the_tool.err, b"\0", 5)
    _, ended = os.waitpid(the_tool.pid, 0)
    if ballast:
        ballast.end()
    peak = int(status.partition("VmHWM:")[2].split()[0])
    told: dict[str, object] = {
        "armed": True,
        "condition": CONDITION,
        "code": os.waitstatus_to_exitcode(ended),
        "stdout": text.decode(),
        "stderr": errors.decode(),
        "seen": seen,
        "pid": the_tool.pid,
        "armed_s": round(armed_s, 2),
        "peak_kib": peak,
        "descriptors": files,
        "links": sorted(links),
        "threads": threads,
        "left": left,
    }
    if output is not None and output.exists():
        told["file"] = output.read_text()
        output.unlink()
    if CONDITION == "memory-64":
        assert place is not None
        told["memory_events"] = (place / "memory.events").read_text()
        told["memory_peak"] = number(str(place / "memory.current"))
    return told


kept: list[object] = []


def enter(place: Path | None) -> None:
    assert place is not None
    (place / "cgroup.procs").write_text("0")


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


main()
