"""`check` while a shortage is set up and no fork has failed: the same slug, and exit code 2.

It runs inside this process, as nothing can be started where the host is full. The rehearsals set the
shortage up and wait at its brink instead of forking.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import schema

from fork_trace.commands import cli
from fork_trace.errors import NotHereError

# All that check needs is imported before there is a shortage.
from fork_trace.rehearse.child import Stage
from fork_trace.rehearse.restore import Borrowed
from fork_trace.rehearse.scenarios import find

from .conftest import FORK_TRACE, IS_GUEST

pytestmark = pytest.mark.live

SCENARIOS = (
    *("pids-cgroup", "pids-cgroup-ancestor", "rlimit-nproc", "overcommit-never"),
    *("fd-table-limit", "pid-max", "threads-max", "overcommit-heuristic", "pids-cgroup-three-up"),
)


class Brink(Stage):
    """A stage that goes up to the brink: where it would fork, it says so and waits."""

    def __init__(self, comm: str, borrowed: Borrowed, ready: int, go: int) -> None:
        super().__init__(comm, 1, borrowed)
        self._ready = ready
        self._go = go

    def ask_until_refused(
        self,
        ask: Callable[[], int],
        keep: Callable[[int], None] | None = None,
        patience: int = 0,
    ) -> None:
        """Take the last free numbers, if the rehearsal would, and wait to be let go."""
        if keep:
            for number in range(300, int(Path("/proc/sys/kernel/pid_max").read_text())):
                if not is_taken(number):
                    keep(sleeper())
        os.write(self._ready, b"ready")
        os.read(self._go, 1)


def is_taken(number: int) -> bool:
    """A thread shows in /proc though it is not listed; a group may outlive its leader."""
    if os.path.exists(f"/proc/{number}"):
        return True
    try:
        os.killpg(number, 0)
    except ProcessLookupError:
        return False
    return True


def sleeper() -> int:
    pid = os.fork()
    if pid == 0:
        while True:
            os.read(os.pipe()[0], 1)
    return pid


@contextmanager
def brink(name: str) -> Iterator[int]:
    """Set a shortage up for as long as the block runs; yield the pid of who would be refused."""
    scenario = find(name)
    borrowed = Borrowed(host_wide=True)
    ready_from, ready = os.pipe()
    go, go_to = os.pipe()
    pid = 0
    try:
        act = scenario.prepare(borrowed)
        stage = Brink(scenario.comm, borrowed, ready, go)
        pid = os.fork()
        if pid == 0:
            try:
                os.close(go_to)
                stage.enter()
                act(stage)
            except BaseException as error:
                os.write(ready, repr(error).encode())
            finally:
                os._exit(0)
        assert os.read(ready_from, 1000) == b"ready"
        yield pid
    except NotHereError as error:
        pytest.skip(error.message)
    finally:
        os.close(go_to)
        if pid:
            os.waitpid(pid, 0)
        borrowed.give_back()
        for fd in (ready_from, ready, go):
            os.close(fd)


def run_check(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    with pytest.raises(SystemExit) as end:
        cli.main(["check", "--json"])
    found: dict[str, Any] = schema.validate(json.loads(capsys.readouterr().out))
    assert isinstance(end.value.code, int)
    return end.value.code, found


def full(found: dict[str, Any], cause: str) -> list[dict[str, Any]]:
    return [each for each in found["limits"] if each["level"] == "full" and each["cause"] == cause]


@pytest.fixture(autouse=True)
def _root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: run it by scripts/test, or with sudo")


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_shortage_is_named_before_any_fork_fails(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    scenario = find(name)
    if scenario.host_wide and not IS_GUEST:
        pytest.skip("lowers a limit of the whole host: only in a virtual machine (scripts/vm)")

    with brink(name) as pid:
        code, found = run_check(capsys)

    (pool,) = full(found, scenario.cause)
    assert (2, "full") == (code, found["level"])
    assert pool["used"] >= pool["limit"] > 0
    assert found["limits"][0]["level"] == "full"
    if name.startswith("pids-cgroup"):
        assert pool["where"].endswith(f"/fork-trace-rehearse-{os.getpid()}")
        assert (1, 1) == (pool["used"], pool["limit"])
    elif name == "rlimit-nproc":
        assert (1, 1) == (pool["used"], pool["limit"])
    else:
        assert pool["advice"]
    if name in ("rlimit-nproc", "overcommit-never", "overcommit-heuristic", "fd-table-limit"):
        assert {"pid": pid, "comm": scenario.comm} == pool["process"]
    else:
        assert pool["holders_total"] >= 1

    _, after = run_check(capsys)
    assert [] == [each for each in full(after, scenario.cause) if each["where"] == pool["where"]]


DEAD = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.unshare(0x20000000) == 0 or sys.exit("unshare")  # CLONE_NEWPID
pid = os.fork()
if pid == 0:
    os._exit(0)
os.waitpid(pid, 0)
try:
    os.fork()
except OSError as error:
    print(error.errno, flush=True)
sys.stdin.read()
"""


def test_a_process_in_a_dead_pid_namespace_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", DEAD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as shell:
        assert shell.stdout is not None
        assert f"{errno.ENOMEM}\n" == shell.stdout.readline()
        code, found = run_check(capsys)
        shell.communicate()
    _, after = run_check(capsys)

    assert 2 == code
    assert [shell.pid] == [each["process"]["pid"] for each in full(found, "pid-namespace-dead")]
    assert [] == full(after, "pid-namespace-dead")


def test_who_waits_for_a_namespace_that_lives_is_fine(capsys: pytest.CaptureFixture[str]) -> None:
    with subprocess.Popen(
        ["unshare", "--pid", "--fork", "--kill-child", "cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdin is not None and parent.stdout is not None
        parent.stdin.write("x\n")
        parent.stdin.flush()
        assert "x\n" == parent.stdout.readline()
        _, found = run_check(capsys)
        parent.communicate()

    assert [] == full(found, "pid-namespace-dead")


def test_what_a_cgroup_refused_is_told_when_there_is_room_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with brink("pids-cgroup"):
        _, found = run_check(capsys)
        (pool,) = full(found, "pids-cgroup")
        directory = Path(pool["where"])
        for _ in range(23):
            with pytest.raises(OSError, match="Resource temporarily"):
                fork_in(directory)
        (directory / "pids.max").write_text("1000")
        _, found = run_check(capsys)

    assert [] == full(found, "pids-cgroup")
    assert [("pids.events max", 23)] == [
        (each["name"], each["count"])
        for each in found["refusals"]
        if each["where"] == str(directory)
    ]


def fork_in(directory: Path) -> None:
    """Try a fork from within a cgroup; OSError as it was refused there."""
    came_from, goes_to = os.pipe()
    pid = os.fork()
    if pid == 0:
        (directory / "cgroup.procs").write_text(str(os.getpid()))
        error = 0
        try:
            if os.fork() == 0:
                os._exit(0)
        except OSError as refused:
            error = refused.errno or -1
        os.write(goes_to, b"%d" % error)
        os._exit(0)
    error = int(os.read(came_from, 20))
    os.waitpid(pid, 0)
    for fd in (came_from, goes_to):
        os.close(fd)
    if error:
        raise OSError(error, os.strerror(error))


@pytest.mark.parametrize(("option", "code"), [("--all", 3), ("--nagios", 3), ("--npd", 2)])
def test_without_proc_the_check_is_unknown(option: str, code: int) -> None:
    words = " ".join([*FORK_TRACE, "check", option])
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", f"mount -t tmpfs none /proc && exec {words}"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert code == done.returncode
    assert "is not mounted" in done.stderr
    assert 1 == done.stderr.count("\n")


def test_without_root_what_cannot_be_read_is_not_fine() -> None:
    done = subprocess.run(
        [*FORK_TRACE, "check", "--json"],
        stdout=subprocess.PIPE,
        text=True,
        user=65534,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    found = schema.validate(json.loads(done.stdout))

    hidden = [each for each in found["limits"] if each["cause"] == "thread-stack"]
    assert done.returncode in (0, 1)
    assert [None] == sorted({each["used"] for each in hidden if each["level"] == "unknown"})
    assert all(each["why"] for each in found["limits"] if each["level"] == "unknown")
    assert found["counts"]["unknown"] >= 1


def test_a_big_crowd_of_zombies_is_put_down_to_its_parent(
    capsys: pytest.CaptureFixture[str],
) -> None:
    children = []
    for _ in range(23):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        children.append(pid)
    try:
        for pid in children:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        _, found = run_check(capsys)
    finally:
        for pid in children:
            os.waitpid(pid, 0)

    assert 23 in [each["zombies"] for each in found["zombies"] if each["pid"] == os.getpid()]
    assert found["zombies_total"] >= 23


FORKED = """
import mmap, os, signal, sys
# Only now, so that none of the files that were read are charged to it.
open(sys.argv[1] + "/cgroup.procs", "w").write(str(os.getpid()))
memory = mmap.mmap(-1, 100 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for at in range(0, len(memory), mmap.PAGESIZE):
    memory[at] = 1
child = os.fork()
if child == 0:
    print(os.getpid(), flush=True)
    sys.stdin.readline()
    for at in range(0, len(memory), mmap.PAGESIZE):
        memory[at] = 2
    os._exit(0)
os.waitpid(child, 0)
print("over", flush=True)
sys.stdin.read()
"""


@contextmanager
def memory_cgroup(limit: int) -> Iterator[tuple[Path, str]]:
    """A memory cgroup with that limit and no swap; its directory, and the name of its limit."""
    v1 = Path("/sys/fs/cgroup/memory")
    is_v1 = (v1 / "memory.limit_in_bytes").exists()
    top = v1 if is_v1 else Path("/sys/fs/cgroup")
    if not is_v1 and "memory" not in (top / "cgroup.controllers").read_text():
        pytest.skip("there is no memory controller here")
    if not is_v1:
        (top / "cgroup.subtree_control").write_text("+memory")
    place = top / f"fork-trace-check-{os.getpid()}"
    place.mkdir()
    try:
        name = "memory.limit_in_bytes" if is_v1 else "memory.max"
        (place / name).write_text(str(limit))
        if not is_v1 and (place / "memory.swap.max").exists():
            (place / "memory.swap.max").write_text("0")
        yield place, name
    finally:
        end_s = time.monotonic() + 10
        # Whoever was killed in it may not have been reaped yet.
        while (place / "cgroup.procs").read_text() and time.monotonic() < end_s:
            time.sleep(0.05)
        place.rmdir()


@contextmanager
def forked_in(place: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process of 100 MB in that cgroup, and its child, which writes all of it when it reads a line."""
    with subprocess.Popen(
        [sys.executable, "-c", FORKED, str(place)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            yield parent, child
        finally:
            parent.kill()
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


def test_a_copy_that_will_not_fit_is_told_before_the_oom_killer_comes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with memory_cgroup(160 << 20) as (place, _), forked_in(place) as (parent, child):
        code, found = run_check(capsys)
        (pool,) = full(found, "copy-on-write")
        assert parent.stdin is not None and parent.stdout is not None
        parent.stdin.write("write\n")
        parent.stdin.flush()
        assert parent.stdout.readline() in ("over\n", "")
        _, after = run_check(capsys)

    assert 2 == code
    assert (str(place), 160 << 10, parent.pid) == (
        pool["where"],
        pool["limit"],
        pool["process"]["pid"],
    )
    # Once its own, and once more for the child.
    assert 200 << 10 <= pool["used"] <= 240 << 10
    assert f"[{child}] was forked" in pool["note"]
    # And so it went: for one of the two, or for both.
    (kills,) = (
        each["count"]
        for each in after["refusals"]
        if each["where"] == str(place) and each["name"].endswith("oom_kill")
    )
    assert kills in (1, 2)
    assert after["oom_kills"] == found["oom_kills"] + kills


def test_a_copy_for_which_there_is_room_is_fine(capsys: pytest.CaptureFixture[str]) -> None:
    with memory_cgroup(400 << 20) as (place, _), forked_in(place) as (parent, _child):
        _, found = run_check(capsys)

    assert [("fine", str(place))] == [
        (each["level"], each["where"])
        for each in found["limits"]
        if each["cause"] == "copy-on-write" and each["process"]["pid"] == parent.pid
    ]


def test_a_memory_cgroup_that_is_at_its_limit_is_full(capsys: pytest.CaptureFixture[str]) -> None:
    with memory_cgroup(400 << 20) as (place, limit), forked_in(place):
        now = place / limit.replace("limit", "usage").replace("max", "current")
        (place / limit).write_text(now.read_text())
        _, found = run_check(capsys)

    assert [str(place)] == [each["where"] for each in full(found, "memory-cgroup")]
