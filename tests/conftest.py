"""What several tests begin from: one capable case of each record, from which a test takes one thing away."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from ttys import Tty

from fork_trace.diagnosis.cause import Cause
from fork_trace.model import steps
from fork_trace.model.records import (
    VERSION,
    Advice,
    Allocator,
    Death,
    Evidence,
    Failure,
    Fork,
    Frame,
    Header,
    Holder,
    Level,
    Record,
    Relative,
    Summary,
    to_json,
)
from fork_trace.output import aggregate, columns, paragraph, telling


def _has_libbpf() -> bool:
    try:
        ctypes.CDLL("libbpf.so.1")
    except OSError:
        return False
    return True


# Debian 11, where Python 3.9 is tried, has an older one.
needs_libbpf = pytest.mark.skipif(
    not _has_libbpf(), reason="needs libbpf 1.0 or newer; scripts/setup installs it"
)

# A slow machine is no failure, and a checkout is no place for what hypothesis remembers.
settings.register_profile("fork-trace", deadline=None, database=None)
settings.load_profile("fork-trace")

TIME = "2026-03-04T05:06:07.000008Z"
TIME_NS = 1772600767000008000


def make_evidence(**changes: Any) -> Evidence:
    values: dict[str, Any] = {
        "name": "pids.max",
        "value": 7,
        "limit": 7,
        "unit": "tasks",
        "where": "/sys/fs/cgroup/app.service",
        "read": "kernel",
    }
    return Evidence(**{**values, **changes})


def make_holder(**changes: Any) -> Holder:
    values: dict[str, Any] = {
        "comm": "java",
        "pid": 4121,
        "tasks": 498,
        "processes": 1,
        "zombies": 0,
    }
    return Holder(**{**values, **changes})


def make_advice(**changes: Any) -> Advice:
    values: dict[str, Any] = {"kind": "mitigate", "text": "Raise the limit.", "commands": ()}
    return Advice(**{**values, **changes})


def make_failure(**changes: Any) -> Failure:
    """One fork refused by pids.max, with everything known."""
    values: dict[str, Any] = {
        "time": TIME,
        "time_ns": TIME_NS,
        "count": 1,
        "comm": "sh",
        "exe": "/usr/bin/dash",
        "pid": 42,
        "tid": 42,
        "uid": 1000,
        "ppid": 41,
        "parent_comm": "cron",
        "cgroup": "/app.service",
        "container": None,
        "syscall": "clone",
        "flags": ("CLONE_CHILD_SETTID",),
        "creates": "process",
        "errno": "EAGAIN",
        "step": "cgroup_can_fork",
        "function": "cgroup_can_fork",
        "cause": "pids-cgroup",
        "certainty": "observed",
        "evidence": (make_evidence(),),
        "caller": "_Fork",
        "stack": (),
        "advice": (make_advice(),),
    }
    return Failure(**{**values, **changes})


def make_header(**changes: Any) -> Header:
    values: dict[str, Any] = {
        "version": VERSION,
        "time": TIME,
        "host": "alpha",
        "kernel": "6.1.0-test",
        "machine": "x86_64",
        "tool": "fork-trace 0.1.0",
        "attach": "fexit",
        "backend": "libbpf",
        "attached": ({"step": "copy_process", "function": "copy_process"},),
        "missing": (),
        "limits": {"kernel.pid_max": 32768, "vm.overcommit_kbytes": None},
    }
    return Header(**{**values, **changes})


def make_summary(**changes: Any) -> Summary:
    values: dict[str, Any] = {
        "time": TIME,
        "duration_s": 2.5,
        "failures": 1,
        "causes": {"pids-cgroup": 1},
        "totals": (),
        "lost": 0,
        "missed": 0,
        "rate_limited": 0,
        "overflowed": 0,
        "restarted": 0,
        "killed": 0,
        "filtered": 0,
        "ended": "duration",
    }
    return Summary(**{**values, **changes})


def make_death(**changes: Any) -> Death:
    values: dict[str, Any] = {
        "time": TIME,
        "host": "web-1",
        "cause": "copy-on-write",
        "certainty": "observed",
        "comm": "redis-server",
        "pid": 120,
        "uid": 999,
        "cgroup": "/redis",
        "allocator": Allocator("redis-server", 100, 100),
        "fork": Fork("redis-server", 100, 120, 4.2, None, 66 << 20, 65 << 20, 44 << 20),
        "levels": (Level("/sys/fs/cgroup/redis", 110 << 20, 110 << 20),),
        "thp": "madvise",
        "relatives": (Relative("redis-server", 100, "parent", 66 << 20, None),),
    }
    return Death(**{**values, **changes})


def capture_text(*records: Record) -> str:
    """The text of a capture file; without arguments, of a whole one with one failure."""
    whole = records or (make_header(), make_failure(), make_summary())
    return "".join(to_json(record) + "\n" for record in whole)


def threads_max() -> Failure:
    evidence = make_evidence(
        name="kernel.threads-max", value=101, limit=100, where="the whole host"
    )
    return make_failure(
        comm="java",
        pid=43,
        cgroup=None,
        syscall="clone3",
        step="threads_max",
        function=None,
        cause="threads-max",
        certainty="inferred",
        evidence=(evidence,),
        caller=None,
        advice=(make_advice(text="Raise it."),),
    )


def widest(step: steps.Step, cause: Cause) -> Failure:
    return make_failure(
        count=1_428_571,
        comm="c" * 15,
        caller="std::__1::basic_" * 4,
        step=step.name,
        cause=cause.slug,
        certainty="inferred",
        evidence=(make_evidence(value=4_194_304, limit=4_194_304),),
    )


STACK = (
    Frame(0x10, "fork\x1b[31m", "/usr/lib/libc.so.6", 0x1234, "ab" * 20),
    Frame(0x20, None, "/opt/app", 0x5678, "cd" * 20),
    Frame(0x30, None, None),
)


HOSTILE = [
    "\x1b[2J\x1b]0;title\x07",
    "a\nb",
    "a\rb",
    "\x9b31m",  # CSI as a C1 control
    "\x7f\x08",
    "\u202egnp.exe",
    "\u200f\u061c\u2066",
    "\u2028\u2029",
    "\u00ad\ufeff",
    "\ud800",
    "\U000e0041",
    "tab\there",
]


def table_of(*failures: Failure, by: Any = columns.DEFAULT_BY) -> aggregate.Table:
    counted = aggregate.Table(by)
    for failure in failures:
        counted.add(failure)
    return counted


def told_of(*failures: Failure) -> paragraph.Told:
    """What a report tells of the cause of these failures."""
    (places,) = table_of(*failures).by_cause().values()
    return telling.tell(places)


def is_harmless(text: str) -> bool:
    return all(char == "\n" or char.isprintable() for char in text)


def widths(text: str) -> list[int]:
    return [len(line) for line in text.splitlines()]


INITIAL_USER, INITIAL_PID = 0xEFFFFFFD, 0xEFFFFFFC


class MadeHost:
    """A host of files, /proc and a v2 cgroup tree, far from every limit: take one thing away."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.proc = root / "proc"
        self.cgroups = root / "cgroup"
        sysctls = {
            "kernel/threads-max": "1000",
            "kernel/pid_max": "4194304",
            "fs/nr_open": "1048576",
            "fs/file-max": "1000000",
            "fs/file-nr": "1000\t0\t1000000",
            "vm/overcommit_memory": "0",
            "vm/overcommit_ratio": "50",
            "vm/overcommit_kbytes": "0",
            "vm/max_map_count": "65530",
            "vm/admin_reserve_kbytes": "8192",
            "vm/user_reserve_kbytes": "131072",
        }
        for name, text in sysctls.items():
            self.write(f"sys/{name}", text + "\n")
        self.write("loadavg", "0.1 0.2 0.3 1/7 5000\n")
        self.meminfo(MemTotal=1_000_000, SwapTotal=0, CommitLimit=500_000, Committed_AS=100_000)
        self.mount(f"25 24 0:23 / {self.cgroups} rw - cgroup2 cgroup2 rw\n")
        (self.proc / "self" / "ns").mkdir()
        (self.proc / "self" / "ns" / "user").symlink_to(f"user:[{INITIAL_USER}]")
        (self.proc / "self" / "ns" / "pid").symlink_to(f"pid:[{INITIAL_PID}]")
        self.cgroups.mkdir()
        (self.cgroups / "cgroup.controllers").write_text("cpu pids\n")
        self.cgroup("app", 7, "70")
        self.add(1, "systemd")
        self.add(1000, "java", uid=1000, threads=6)

    def write(self, name: str, text: str) -> None:
        path = self.proc / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def meminfo(self, **kib: int) -> None:
        self.write("meminfo", "".join(f"{name}:  {value} kB\n" for name, value in kib.items()))

    def mount(self, mountinfo: str) -> None:
        self.write("self/mountinfo", mountinfo)

    def cgroup(self, path: str, current: int, limit: str, hits: int | None = 0) -> Path:
        place = self.cgroups / path
        place.mkdir(parents=True, exist_ok=True)
        (place / "pids.current").write_text(f"{current}\n")
        (place / "pids.max").write_text(f"{limit}\n")
        if hits is not None:
            (place / "pids.events").write_text(f"max {hits}\n")
        return place

    def add(
        self,
        pid: int,
        comm: str,
        uid: int = 0,
        threads: int = 1,
        state: str = "S",
        parent: int = 1,
        nproc: str = "100",
        capabilities: int = 0,
        kib: tuple[int, int] = (9000, 1000),  # VmSize, VmData
        slots: int = 64,
        descriptors: tuple[int, ...] = (0, 1, 2),
        maps: str = "400000-401000 r-xp 00000000 00:00 0\n",
        group: int | None = None,
        pids: str = "",
        namespaces: tuple[int, int] = (INITIAL_PID, INITIAL_USER),
        children: int | None = None,  # the pid namespace that its children would join
        limits: dict[str, str] | None = None,  # "open files" -> the soft limit
        anonymous: int = 0,  # RssAnon, KiB
        is_forked: bool = False,  # and has not executed a program since
        start: int = 0,  # ticks after the boot
    ) -> Path:
        place = self.proc / str(pid)
        (place / "ns").mkdir(parents=True)
        (place / "fd").mkdir()
        for number in descriptors:
            (place / "fd" / str(number)).write_text("")
        lines = [f"Name:\t{comm}", f"State:\t{state} (some)", f"Tgid:\t{pid}", f"PPid:\t{parent}"]
        lines += [f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}", f"FDSize:\t{slots}", f"NSpid:\t{pid}{pids}"]
        lines += [f"NSpgid:\t{group or pid}", f"NSsid:\t{group or pid}"]
        if state != "Z":
            lines += [f"VmSize:\t{kib[0]} kB", f"VmData:\t{kib[1]} kB", "VmStk:\t132 kB"]
            lines += [f"RssAnon:\t{anonymous} kB"]
        lines += [f"Threads:\t{threads}", f"CapEff:\t{capabilities:016x}", ""]
        (place / "status").write_text("\n".join(lines))
        (place / "limits").write_text(
            "Limit  Soft Limit  Hard Limit  Units\n"
            f"Max processes             {nproc:20} {nproc:20} processes\n"
            + "".join(
                f"Max {name:21} {text:20} unlimited\n" for name, text in (limits or {}).items()
            )
        )
        flags = 0x40 if is_forked else 0
        (place / "stat").write_text(
            f"{pid} ({comm}) {state} {parent} 1 1 0 -1 {flags} {'0 ' * 12}{start} 0 0\n"
        )
        (place / "maps").write_text(maps)
        (place / "cgroup").write_text("0::/app\n")
        (place / "ns" / "pid").symlink_to(f"pid:[{namespaces[0]}]")
        (place / "ns" / "user").symlink_to(f"user:[{namespaces[1]}]")
        (place / "ns" / "pid_for_children").symlink_to(f"pid:[{children or namespaces[0]}]")
        return place


@pytest.fixture
def made_host(tmp_path: Path) -> MadeHost:
    return MadeHost(tmp_path)


def decoded(raw: bytes) -> str:
    """Turn raw bytes into an argument that reaches a program as just these bytes."""
    return raw.decode("utf-8", "surrogateescape")


@pytest.fixture
def on_a_tty() -> Iterator[Callable[..., Tty]]:
    ttys: list[Tty] = []

    def start(argv: list[str], **how: Any) -> Tty:
        ttys.append(Tty(argv, **how))
        return ttys[-1]

    yield start
    for tty in ttys:
        tty.close()


@pytest.fixture(autouse=True, scope="session")
def _no_terminal_size() -> Any:
    """Help is wrapped to the terminal: a wide one must not decide a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COLUMNS", raising=False)
        yield
