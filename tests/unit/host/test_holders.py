"""Who holds a pool: from a tree of files, from this machine's own /proc, and how often it is read."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import own_cgroups
import pytest

from fork_trace.host import holders
from fork_trace.host.holders import HolderCache, Holders, Pool
from fork_trace.model.records import Holder

HOST = Pool("host")
INITIAL_USER, INITIAL_PID = 0xEFFFFFFD, 0xEFFFFFFC
V2 = Pool("cgroup", path="/app")
V1 = Pool("cgroup", hierarchy=8, path="/app")
COUNT = 23
# Ours alone, one for each test: those killed by one may not be reaped before the next.
UID = 100_000 + 3 * os.getpid()
OWNER = UID + 1


class Tree:
    """A /proc of files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "self").mkdir()
        (root / "meminfo").write_text("MemTotal: 1 kB\n")

    def add(
        self,
        pid: int,
        comm: str | bytes,
        threads: int = 1,
        state: str = "S",
        parent: int = 1,
        uid: int = 0,
        euid: int | None = None,
        cgroup: str = "0::/",
        namespaces: tuple[int, int] = (INITIAL_PID, INITIAL_USER),
    ) -> None:
        raw = comm.encode() if isinstance(comm, str) else comm
        place = self.root / str(pid)
        (place / "ns").mkdir(parents=True)
        escaped = raw.replace(b"\\", b"\\\\").replace(b"\n", b"\\n")
        uids = f"{uid}\t{uid if euid is None else euid}\t{uid}\t{uid}"
        tail = f"State:\t{state} (some)\nTgid:\t{pid}\nPPid:\t{parent}\nUid:\t{uids}\n"
        tail += f"Gid:\t0\t0\t0\t0\nVmRSS:\t    9 kB\nThreads:\t{threads}\nSigQ:\t0/9\n"
        (place / "status").write_bytes(b"Name:\t" + escaped + b"\n" + tail.encode())
        (place / "cgroup").write_text(cgroup + "\n")
        (place / "ns" / "pid").symlink_to(f"pid:[{namespaces[0]}]")
        (place / "ns" / "user").symlink_to(f"user:[{namespaces[1]}]")

    def read(self, pool: Pool, **more: Any) -> Holders:
        found = holders.read(pool, str(self.root), **more)
        assert found is not None
        return found


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_tasks_are_counted_by_command_and_the_biggest_process_is_named(tree: Tree) -> None:
    tree.add(1, "systemd")
    tree.add(90, "java", threads=40)
    tree.add(91, "java", threads=458)
    tree.add(300, "sh")

    found = tree.read(HOST)

    assert found.top == (
        Holder("java", 91, 498, 2, 0),
        Holder("sh", 300, 1, 1, 0),
        Holder("systemd", 1, 1, 1, 0),
    )
    assert found.total == 500


def test_only_the_biggest_commands_are_named_but_all_are_counted(tree: Tree) -> None:
    for number in range(1, 10):
        tree.add(number, f"c{number}", threads=number)

    found = tree.read(HOST)

    assert ["c9", "c8", "c7", "c6", "c5"] == [each.comm for each in found.top]
    assert found.total == 45


@pytest.mark.parametrize(
    ("comm", "shown"),
    [
        (") S 1 1 (", ") S 1 1 ("),
        ("\\nState:\tZ", "\\nState:\tZ"),
        ("\\\n\\\\n", "\\\n\\\\n"),
        ("two\nlines", "two\nlines"),
        ("x\nUid:\t61003\t", "x\nUid:\t61003\t"),
        ("", ""),
        ("()", "()"),
        (b"\xff\x1b[31m", "\\xff\x1b[31m"),
        ("kworker/u8:3-events_unbound", "kworker/u8:3-events_unbound"),
    ],
)
def test_a_command_may_have_any_name(tree: Tree, comm: str | bytes, shown: str) -> None:
    tree.add(42, comm, threads=7, uid=61001)

    for pool in (HOST, Pool("user", uid=61001)):
        assert tree.read(pool).top == (Holder(shown, 42, 7, 1, 0),)
    assert tree.read(Pool("user", uid=61003)).top == ()


def test_a_zombie_is_put_down_to_the_parent_that_has_to_reap_it(tree: Tree) -> None:
    tree.add(1, "init")
    tree.add(88, "cron")
    for pid in (90, 91, 92):
        tree.add(pid, "sh", state="Z", parent=88)

    found = tree.read(HOST)

    assert found.top == (Holder("cron", 88, 1, 1, 3), Holder("init", 1, 1, 1, 0))
    assert found.total == 5


def test_of_many_alike_the_one_with_the_zombies_is_named(tree: Tree) -> None:
    for pid in range(10, 20):
        tree.add(pid, "worker", threads=3)
    for pid in range(30, 34):
        tree.add(pid, "sh", state="Z", parent=17)

    assert tree.read(HOST).top == (Holder("worker", 17, 30, 10, 4),)


def test_a_parent_outside_the_pool_is_named_with_the_zombies_that_it_left_there(tree: Tree) -> None:
    tree.add(88, "runner", threads=9, cgroup="0::/elsewhere")
    tree.add(90, "job", state="Z", parent=88, cgroup="0::/app/1 (deleted)")

    assert tree.read(V2) == Holders((Holder("runner", 88, 0, 0, 1),), 1)


def test_a_zombie_whose_parent_is_not_seen_has_no_name(tree: Tree) -> None:
    tree.add(90, "job", state="Z", parent=0)

    assert tree.read(HOST) == Holders((Holder(None, None, 0, 0, 1),), 1)


def test_a_main_thread_that_ended_is_a_zombie_and_its_other_threads_count(tree: Tree) -> None:
    tree.add(50, "sh")
    tree.add(90, "daemon", state="Z", threads=5, parent=50)

    found = tree.read(HOST)

    assert found.top == (Holder("daemon", 90, 4, 1, 0), Holder("sh", 50, 1, 1, 1))
    assert found.total == 6


@pytest.mark.parametrize(
    "ruin",
    [
        lambda place: (place / "status").unlink(),
        lambda place: (place / "status").write_text(""),
        lambda place: (place / "status").write_text("Name:\tjava\nState:\tS\nPPid:\t1\n"),
        lambda place: (place / "status").write_text("Name:\tjava\nState:\tS\nPPid:\tx\nUid:\t"),
        lambda place: (place / "status").write_text("no process"),
    ],
)
def test_a_process_that_vanishes_while_it_is_read_is_left_out(tree: Tree, ruin: Any) -> None:
    tree.add(90, "java", threads=9)
    tree.add(91, "sh")
    ruin(tree.root / "90")

    assert tree.read(HOST) == Holders((Holder("sh", 91, 1, 1, 0),), 1)


@pytest.mark.parametrize(
    "pool", [V1, V2, Pool("user", uid=0), Pool("user", uid=0, namespace=INITIAL_USER)]
)
def test_a_process_without_files_is_in_no_pool(tree: Tree, pool: Pool) -> None:
    (tree.root / "90").mkdir()

    assert tree.read(pool) == Holders((), 0)


@pytest.mark.parametrize(
    ("cgroup", "is_in"),
    [
        ("0::/app", True),
        ("8:pids:/\n0::/app", True),
        ("0::/app/worker/1", True),
        ("0::/app (deleted)", True),
        ("0::/app2", False),
        ("0::/", False),
        ("0::/other/app", False),
        ("8:pids:/app\n0::/", False),
        ("", False),
    ],
)
def test_a_v2_cgroup_holds_its_own_and_all_below(tree: Tree, cgroup: str, is_in: bool) -> None:
    tree.add(90, "java", threads=9, cgroup=cgroup)

    assert (9 if is_in else 0) == tree.read(V2).total


def test_a_cgroup_of_any_bytes_is_found_by_its_shown_path(tree: Tree) -> None:
    tree.add(90, "java")
    (tree.root / "90" / "cgroup").write_bytes(b"0::/caf\xe9:1/x\n")

    assert 1 == tree.read(Pool("cgroup", path="/caf\\xe9:1")).total


def test_a_v1_zombie_which_no_cgroup_shows_is_where_its_parent_is(tree: Tree) -> None:
    tree.add(88, "cron", cgroup="8:pids:/app\n0::/")
    tree.add(70, "other", cgroup="8:pids:/x\n0::/")
    tree.add(2, "kthreadd", cgroup="8:pids:/\n0::/")
    for pid, parent in [(90, 88), (91, 88), (92, 70), (93, 2), (94, 999)]:
        tree.add(pid, "sh", state="Z", parent=parent, cgroup="8:pids:/\n0::/")

    assert tree.read(V1) == Holders((Holder("cron", 88, 1, 1, 2),), 3)


def test_threads_in_a_v1_cgroup_whose_main_one_ended_are_found(tree: Tree) -> None:
    tree.add(88, "sh", cgroup="8:pids:/x")
    tree.add(90, "java", state="Z", threads=5, parent=88, cgroup="8:pids:/")
    tree.add(95, "java", cgroup="8:pids:/app")
    for tid in (90, 95):
        (tree.root / "90" / "task" / str(tid)).mkdir(parents=True)
    os.rename(tree.root / "95" / "status", tree.root / "95" / "gone")  # a thread is not listed

    found = tree.read(V1)

    assert found == Holders((Holder("java", 90, 4, 1, 0), Holder("sh", 88, 0, 0, 1)), 5)


def test_a_user_holds_what_runs_by_its_real_uid(tree: Tree) -> None:
    tree.add(90, "java", threads=9, uid=1000)
    tree.add(91, "sudo", uid=1000, euid=0)
    tree.add(92, "sh", uid=0, euid=1000)
    tree.add(93, "sh", uid=10000)

    for namespace in (None, INITIAL_USER):
        assert 10 == tree.read(Pool("user", uid=1000, namespace=namespace)).total


def test_a_user_of_another_namespace_is_another_user(tree: Tree) -> None:
    tree.add(90, "java", threads=9, uid=1000)
    tree.add(91, "sh", uid=1000, namespaces=(INITIAL_PID, 4026532001))

    assert 1 == tree.read(Pool("user", uid=1000, namespace=4026532001)).total
    assert 10 == tree.read(Pool("user", uid=1000)).total


def test_a_pid_namespace_holds_its_own(tree: Tree) -> None:
    tree.add(90, "java", threads=9, namespaces=(4026532002, INITIAL_USER))
    tree.add(91, "sh")

    assert 9 == tree.read(Pool("pid-namespace", namespace=4026532002)).total


def test_a_proc_that_takes_too_long_is_left_with_numbers_that_are_no_total(tree: Tree) -> None:
    for pid in range(10, 30):
        tree.add(pid, "sh")
    ticks = iter(range(100))

    found = tree.read(HOST, clock=lambda: float(next(ticks)), budget_s=5.0)

    assert found == Holders((Holder("sh", found.top[0].pid, 5, 5, 0),), None)


def test_a_host_of_countless_names_still_shows_its_biggest(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holders, "_COMMANDS", 8)
    for pid in range(1, 60):
        tree.add(pid, f"odd{pid}")
        tree.add(pid + 100, "java")

    found = tree.read(HOST)

    assert (found.top[0].comm, found.total) == ("java", 118)
    assert found.top[0].tasks > 50


def test_a_proc_that_cannot_be_read_is_unknown(tmp_path: Path) -> None:
    assert holders.read(HOST, str(tmp_path / "gone")) is None


@pytest.mark.parametrize(
    ("kind", "numbers", "pool"),
    [
        ("host", {}, HOST),
        ("cgroup", {"pids_hierarchy": 8}, V1),
        ("cgroup", {}, V2),
        ("cgroup", {"pids_cgroup": 77}, replace(V2, cgroup_id=77)),
        ("pid-namespace", {"pidns_level": 0, "pidns_inum": INITIAL_PID}, HOST),
        ("pid-namespace", {"pidns_level": 2, "pidns_inum": 7}, Pool("pid-namespace", namespace=7)),
        ("pid-namespace", {"pidns_level": 2}, None),
        ("pid-namespace", {}, None),
        ("user", {"nproc_level": 0}, Pool("user", uid=5)),
        (
            "user",
            {"nproc_level": 0, "nproc_uid": 6},
            Pool("user", uid=6, namespace=INITIAL_USER),
        ),
        ("user", {"nproc_uid": 6}, None),
        ("", {}, None),
    ],
)
def test_a_kind_of_pool_is_found_by_the_numbers_or_not_at_all(
    kind: str, numbers: dict[str, int], pool: Any
) -> None:
    assert pool == holders.pool_of(kind, numbers, 5, "/app", 42)


def test_a_cgroup_that_is_not_known_is_no_pool() -> None:
    assert holders.pool_of("cgroup", {}, 5, None, 42) is None


class Clock:
    """A clock that only moves when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Reader:
    """Counts what it is asked; each answer takes `took` seconds."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.asked: list[Pool] = []
        self.took = 0.0
        self.answer: Holders | None = Holders((Holder("sh", 1, 1, 1, 0),), 1)

    def __call__(self, pool: Pool) -> Holders | None:
        self.asked.append(pool)
        self.clock.now += self.took
        return self.answer


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def reader(clock: Clock) -> Reader:
    return Reader(clock)


def test_a_pool_is_read_once_in_ten_seconds(clock: Clock, reader: Reader) -> None:
    cache = HolderCache(reader, clock)

    for second in range(21):
        clock.now = 100.0 + second
        assert cache.look(V2) == reader.answer

    assert len(reader.asked) == 3


def test_pools_are_read_apart(clock: Clock, reader: Reader) -> None:
    cache = HolderCache(reader, clock)
    for _ in range(3):
        cache.look(V1)
        cache.look(V2)

    assert reader.asked == [V1, V2]


def test_after_a_slow_reading_there_is_none_for_twenty_times_as_long(
    clock: Clock, reader: Reader
) -> None:
    cache = HolderCache(reader, clock)
    reader.took = 2.0
    cache.look(V1)
    ended = clock.now

    assert cache.look(V2) is None
    clock.now = ended + 39.9
    assert cache.look(V2) is None
    assert cache.look(V1) is None, "what is older than ten seconds is not passed off as new"
    clock.now = ended + 40.0
    assert cache.look(V2) == reader.answer
    assert reader.asked == [V1, V2]


def test_who_held_a_cgroup_holds_none_that_was_made_anew_at_its_path(
    clock: Clock, reader: Reader
) -> None:
    cache = HolderCache(reader, clock)
    old, new = replace(V2, cgroup_id=77), replace(V2, cgroup_id=78)
    cache.look(old)
    clock.now += 1
    cache.look(new)
    cache.look(old)

    assert reader.asked == [old, new]


def test_readings_take_less_than_a_twentieth_of_the_time(clock: Clock, reader: Reader) -> None:
    cache = HolderCache(reader, clock)
    reader.took = 0.3
    begin = clock.now
    number = 0
    while clock.now < begin + 1000:
        number += 1
        cache.look(Pool("user", uid=number))
        clock.now += 0.01

    assert len(reader.asked) * reader.took < 1000 / 20


def test_a_failed_reading_is_not_repeated_at_once(clock: Clock, reader: Reader) -> None:
    cache = HolderCache(reader, clock)
    reader.answer = None

    assert cache.look(V1) is None
    assert cache.look(V1) is None
    assert len(reader.asked) == 1


def test_an_empty_pool_is_looked_at_again(clock: Clock, reader: Reader) -> None:
    cache = HolderCache(reader, clock)
    reader.answer = Holders((), 0)

    assert cache.look(V1) == Holders((), 0)
    clock.now += 0.1
    cache.look(V1)
    assert len(reader.asked) == 2


def test_no_pool_is_no_question(clock: Clock, reader: Reader) -> None:
    assert HolderCache(reader, clock).look(None) is None
    assert reader.asked == []


def test_what_is_remembered_has_a_bound(clock: Clock, reader: Reader) -> None:
    cache = HolderCache(reader, clock)
    for number in range(1000):
        clock.now += 0.001
        cache.look(Pool("user", uid=number))

    assert len(cache._kept) <= 256


_libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: Any) -> None:
    if getattr(_libc, name)(*arguments):
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


@contextmanager
def sleepers(count: int, comm: bytes, prepare: Any = None, dead: int = 0) -> Iterator[list[int]]:
    """Children by that name that sleep, and some that end and are not reaped, all by one process."""
    ready_from, ready_to = os.pipe()
    master = os.fork()
    if master == 0:
        try:
            os.setpgid(0, 0)
            call("prctl", 1, signal.SIGKILL)
            call("prctl", 15, comm)
            if prepare:
                prepare()
            for _ in range(dead):
                pid = os.fork()
                if pid == 0:
                    os._exit(0)
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # seen, not reaped
            for _ in range(count - 1):
                if os.fork() == 0:
                    call("prctl", 1, signal.SIGKILL)
                    os.write(ready_to, b".")
                    while True:
                        signal.pause()
            os.write(ready_to, b".")
            while True:
                signal.pause()
        finally:
            os._exit(1)
    os.close(ready_to)
    try:
        told = b""
        while len(told) < count:
            piece = os.read(ready_from, 4096)
            if not piece:
                pytest.skip("this machine does not let the test make its processes")
            told += piece
        yield [master]
    finally:
        os.close(ready_from)
        os.killpg(master, signal.SIGKILL)
        os.waitpid(master, 0)


def all_of(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> dict[str | None, Holder]:
    monkeypatch.setattr(holders, "TOP", 1 << 20)
    # However slow a busy machine is: the end of the time is tried elsewhere, by a clock of its own.
    found = holders.read(pool, budget_s=600.0)
    assert found is not None
    assert found.total == sum(each.tasks + each.zombies for each in found.top)
    return {each.comm: each for each in found.top}


def test_our_own_children_are_counted_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    with sleepers(COUNT, b"ft \\n) \n\\ b", dead=3) as (master,):
        found = all_of(HOST, monkeypatch)

    assert found["ft \\n) \n\\ b"] == Holder("ft \\n) \n\\ b", master, COUNT, COUNT, 3)


def test_our_own_children_are_counted_for_their_user(monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can be another user")
    with sleepers(COUNT, b"ft-hold", lambda: os.setresuid(UID, UID, UID), 3) as (master,):
        pools = [Pool("user", uid=UID), Pool("user", uid=UID, namespace=INITIAL_USER)]
        found = [all_of(pool, monkeypatch) for pool in pools]

    assert found == [{"ft-hold": Holder("ft-hold", master, COUNT, COUNT, 3)}] * 2


def test_a_user_is_charged_for_the_namespaces_that_it_made(monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can be another user")

    def become_root_of_a_namespace() -> None:
        os.setresuid(OWNER, OWNER, OWNER)
        call("unshare", 0x10000000)  # CLONE_NEWUSER
        call("prctl", 4, 1)  # PR_SET_DUMPABLE: else another user owns our map
        Path("/proc/self/uid_map").write_text(f"0 {OWNER} 1")

    with sleepers(COUNT, b"ft-hold", become_root_of_a_namespace, 3) as (master,):
        inside = holders.namespace_of(f"/proc/{master}/ns/user")
        expected = {"ft-hold": Holder("ft-hold", master, COUNT, COUNT, 3)}

        assert inside not in (None, INITIAL_USER)
        assert expected == all_of(Pool("user", OWNER, INITIAL_USER), monkeypatch)
        assert expected == all_of(Pool("user", OWNER, inside), monkeypatch)
        assert {} == all_of(Pool("user", UID + 2, INITIAL_USER), monkeypatch)
        numbers = {"nproc_uid": OWNER, "nproc_level": 1}
        pool = holders.pool_of("user", numbers, OWNER, None, master)
        assert pool == Pool("user", OWNER, inside)


def test_a_pid_namespace_holds_those_in_the_ones_below(monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make pid namespaces")

    def enter(levels: int) -> None:
        for _ in range(levels):
            call("unshare", 0x20000000)  # CLONE_NEWPID
            if os.fork():
                signal.pause()
                os._exit(0)
            call("prctl", 1, signal.SIGKILL)

    with sleepers(COUNT, b"ft-hold", lambda: enter(2), 3) as (master,):
        (init,) = children(master)
        (inner,) = children(init)
        outer_pool, inner_pool = (
            Pool("pid-namespace", namespace=holders.namespace_of(f"/proc/{pid}/ns/pid"))
            for pid in (init, inner)
        )
        outer = all_of(outer_pool, monkeypatch)
        inner_found = all_of(inner_pool, monkeypatch)

    assert outer == {"ft-hold": Holder("ft-hold", inner, COUNT + 1, COUNT + 1, 3)}
    assert inner_found == {"ft-hold": Holder("ft-hold", inner, COUNT, COUNT, 3)}


def children(pid: int) -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        status = holders._status("/proc", int(entry)) if entry.isdigit() else None
        if status and status.parent == pid:
            found.append(int(entry))
    return found


def test_a_cgroup_of_this_machine_holds_what_its_counter_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make cgroups")
    with own_cgroup() as (directory, pool):
        below = directory / "below"
        with sleepers(COUNT, b"ft-hold", lambda: (below / "cgroup.procs").write_text("0"), 3) as (
            master,
        ):
            counted = int((directory / "pids.current").read_text())
            found = all_of(pool, monkeypatch)

    assert counted == COUNT + 3
    assert found == {"ft-hold": Holder("ft-hold", master, COUNT, COUNT, 3)}


@contextmanager
def own_cgroup() -> Iterator[tuple[Path, Pool]]:
    """A cgroup with one below it, where the pids controller of this machine is."""
    for version, base in own_cgroups.pids_hierarchies():
        directory = Path(base) / f"ft-holders-{os.getpid()}"
        try:
            (directory / "below").mkdir(parents=True)
        except OSError:
            continue
        try:
            if not (directory / "pids.current").exists():
                continue
            yield directory, Pool("cgroup", hierarchy=hierarchy(version), path=f"/{directory.name}")
            return
        finally:
            for place in (directory / "below", directory):
                own_cgroups.remove(place)
    pytest.skip("no pids controller that the test may use")


def hierarchy(version: int) -> int:
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    if version == 2:
        return 0
    return next(int(line.split(":")[0]) for line in lines if "pids" in line.split(":")[1])
