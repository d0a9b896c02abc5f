"""What several tests begin from: one capable case of each record, from which a test takes one thing away."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings

from fork_trace.records import VERSION, Evidence, Failure, Header, Holder, Record, Summary, to_json

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
        "advice": ("Raise the limit.",),
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
        "rung": "fexit",
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
        "skipped": 0,
        "folded": 0,
        "retries": 0,
        "dying": 0,
        "filtered": 0,
        "ended": "duration",
    }
    return Summary(**{**values, **changes})


def capture_text(*records: Record) -> str:
    """The text of a capture file; without arguments, of a whole one with one failure."""
    whole = records or (make_header(), make_failure(), make_summary())
    return "".join(to_json(record) + "\n" for record in whole)


def decoded(raw: bytes) -> str:
    """Turn raw bytes into an argument that reaches a program as just these bytes."""
    return raw.decode("utf-8", "surrogateescape")


@pytest.fixture(autouse=True, scope="session")
def _no_terminal_size() -> Any:
    """Help is wrapped to the terminal: a wide one must not decide a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COLUMNS", raising=False)
        yield
