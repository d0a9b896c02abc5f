"""What a person calls a failed fork, and the kernel's fork never saw: execve, unshare, musl's stacks, fallbacks.

One run of programs/edges.py under every attach mode; what it counted itself is the truth.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from accuracy.watching import Watched, refusal, watching
from building import PROGRAMS

from .conftest import IS_GUEST, Captured

pytestmark = [pytest.mark.live, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

COUNT = 23
WATCHERS = {
    "fexit": ("--attach", "fexit"),
    "fexit-refused": ("--attach", "fexit", "--refused"),
    "kprobe": ("--without", "trampolines", "--refused"),
    "tracepoint": ("--attach", "tracepoint"),
}
# A machine without virtualisation of its own may lack all but the last.
SEEN = tuple(WATCHERS) if IS_GUEST else ("tracepoint",)
OVER = ("rlimit-nproc", "EAGAIN", "execve", "RLIMIT_NPROC", 6, 3)
# Command -> cause, errno, syscall, the deciding number, used, limit.
EXPECTED: dict[str, tuple[str, str, str, str, int, int]] = {
    "e-exec": OVER,
    "e-exec-at": OVER,
    "e-exec-32": OVER,
    "e-exec-32-at": OVER,
    "e-net": ("namespace-limit", "ENOSPC", "unshare", "user.max_net_namespaces", 0, 0),
    "e-user": ("namespace-limit", "ENOSPC", "unshare", "user.max_user_namespaces", 0, 0),
    "e-both": ("namespace-limit", "ENOSPC", "unshare", "user.max_uts_namespaces", 0, 0),
}


class Edges(NamedTuple):
    """What every watcher saw, and what the program counted."""

    seen: dict[str, Watched | None]
    told: dict[str, int]


def has_old_calls() -> bool:
    """Does this kernel take 32-bit calls that a 64-bit program can make?"""
    return "__ia32_compat_sys_execve\n" in Path("/proc/kallsyms").read_text()


@pytest.fixture(scope="module")
def edges(tmp_path_factory: pytest.TempPathFactory, build: Callable[[str], str]) -> Edges:
    """All of it, once."""
    place = tmp_path_factory.mktemp("edges")
    argv = [sys.executable, str(PROGRAMS / "edges.py"), str(COUNT)]
    if shutil.which("musl-gcc"):
        stacks = place / "musl_stacks"
        source = PROGRAMS / "musl_stacks.c"
        subprocess.run(["musl-gcc", "-static", "-O1", "-o", stacks, source], check=True)
        argv += ["--musl", str(stacks)]
    if has_old_calls():
        argv += ["--old", build("old_execve")]
    with watching(place, {name: WATCHERS[name] for name in SEEN}) as seen:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=200)
    print(done)
    assert done.returncode == 0, done.stderr
    return Edges(seen, json.loads(done.stdout))


@pytest.fixture(scope="module", params=SEEN)
def name(request: pytest.FixtureRequest) -> str:
    """Each watcher."""
    return str(request.param)


@pytest.fixture(scope="module")
def seen(name: str, edges: Edges) -> Captured:
    """What it recorded; skips where this kernel lacks its attach mode."""
    watched = edges.seen[name]
    assert watched is not None
    why = refusal(name, watched)
    if why is not None:
        pytest.skip(why)
    return Captured(watched.records, watched.done)


def test_the_program_was_refused(edges: Edges) -> None:
    assert edges.told.pop("e-fallback") == 0
    assert set(edges.told.values()) == {COUNT}


@pytest.mark.parametrize("comm", EXPECTED)
def test_it_is_told_exactly_with_its_numbers(seen: Captured, name: str, comm: str) -> None:
    cause, error, syscall, number, used, limit = EXPECTED[comm]
    if "-32" in comm and not has_old_calls():
        pytest.skip("this kernel takes no 32-bit calls of a 64-bit program")
    assert seen.count(comm) == seen.exact(comm) == COUNT
    assert seen.by(comm, "cause", "errno", "syscall", "creates") == {
        (cause, error, syscall, None): COUNT
    }
    for failure in seen.of(comm):
        first = failure["evidence"][0]
        # Of several kinds that were asked for at once, the exit of the call does not tell which.
        if comm == "e-both" and name == "tracepoint":
            number = "user.max_*_namespaces"
        assert (first["name"], first["value"], first["limit"]) == (number, used, limit)
        assert failure["certainty"] == ("inferred" if name == "tracepoint" else "observed")


def test_who_holds_the_user_s_tasks_is_told_of_execve_too(seen: Captured, name: str) -> None:
    held = [each["holders"] for each in seen.of("e-exec") if each["holders"]]

    assert held and held[0][0]["comm"] == "sleep" and held[0][0]["tasks"] == 5
    assert {"uid 60011, the whole host"} == {
        each["evidence"][0]["where"] for each in seen.of("e-exec")
    }


def test_a_fallback_that_went_through_is_no_failure(seen: Captured) -> None:
    assert seen.count("e-fallback") == seen.exact("e-fallback") == 0


@pytest.mark.parametrize(
    ("comm", "error", "call"), [("e-refused", "EPERM", "clone"), ("e-bare", "ENOSYS", "clone3")]
)
def test_one_that_did_not_is_told_once(
    seen: Captured, name: str, comm: str, error: str, call: str
) -> None:
    if name == "fexit":
        assert seen.exact(comm) == 0  # needs --refused
        return
    assert seen.count(comm) == seen.exact(comm) == COUNT
    assert seen.by(comm, "cause", "errno", "syscall") == {("seccomp", error, call): COUNT}


@pytest.mark.parametrize(
    ("comm", "limit"), [("e-musl-as", "RLIMIT_AS"), ("e-musl-data", "RLIMIT_DATA")]
)
def test_the_stacks_of_musl_are_told(seen: Captured, edges: Edges, comm: str, limit: str) -> None:
    if comm not in edges.told:
        pytest.skip("needs musl-gcc (Debian: musl-tools)")
    if os.uname().machine != "x86_64":
        assert seen.exact(comm) == 0
        return
    assert seen.count(comm) == seen.exact(comm) == COUNT
    assert set(seen.by(comm, "cause", "errno")) == {("thread-stack", "ENOMEM")}
    assert {each["evidence"][0]["name"] for each in seen.of(comm)} == {limit}


def test_nothing_was_lost(seen: Captured) -> None:
    summary: dict[str, Any] = seen.summary
    assert (summary["lost"], summary.get("untracked", 0)) == (0, 0)
