"""No stale blame, and each kind of call told apart."""

from __future__ import annotations

import errno
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from .conftest import FORK_TRACE, capture

COUNT = 23

pytestmark = pytest.mark.live


def test_a_refused_mmap_just_before_is_not_blamed_for_the_fork(
    takes: tuple[str, ...], build: Any, tmp_path: Path
) -> None:
    program = build("refused_mmap_then_fork")
    captured = capture(tmp_path / "c.jsonl", program, str(COUNT), "fork", options=takes)

    assert captured.done.stdout.startswith(f"{COUNT} {COUNT}\n")
    assert captured.by("refused_mmap_th", "cause", "step", "errno") == {
        ("rlimit-nproc", "rlimit_nproc", "EAGAIN"): COUNT
    }


def test_a_refused_mmap_alone_is_no_failed_fork(
    takes: tuple[str, ...], build: Any, tmp_path: Path
) -> None:
    captured = capture(
        tmp_path / "c.jsonl", build("refused_mmap_then_fork"), str(COUNT), options=takes
    )

    assert captured.done.stdout.startswith(f"{COUNT} 0\n")
    assert captured.of("refused_mmap_th") == []
    assert captured.exact("refused_mmap_th") == 0


def test_without_kernel_symbols_the_blame_is_the_same(
    takes: tuple[str, ...], build: Any, tmp_path: Path
) -> None:
    program = build("refused_mmap_then_fork")
    captured = capture(
        tmp_path / "c.jsonl", program, str(COUNT), "fork", options=(*takes, "--without", "kallsyms")
    )

    assert captured.by("refused_mmap_th", "cause", "errno") == {("rlimit-nproc", "EAGAIN"): COUNT}


def test_each_kind_of_call_is_told_apart(
    takes: tuple[str, ...], build: Any, tmp_path: Path
) -> None:
    program = build("fork_kinds")
    kinds = "fork vfork clone clone3 thread"
    captured = capture(
        tmp_path / "c.jsonl",
        "sh",
        "-c",
        f"for kind in {kinds}; do {program} $kind {COUNT}; done",
        options=takes,
    )

    assert captured.done.stdout.startswith(f"{COUNT}\n" * 5)
    assert captured.by("fork_kinds", "syscall", "creates", "cause") == {
        ("fork", "process", "rlimit-nproc"): COUNT,
        ("vfork", "process", "rlimit-nproc"): COUNT,
        ("clone", "process", "rlimit-nproc"): COUNT,
        ("clone3", "process", "rlimit-nproc"): COUNT,
        ("clone3", "thread", "rlimit-nproc"): COUNT,
    }


def test_a_fork_restarted_by_a_signal_is_no_failure(
    takes: tuple[str, ...], build: Any, tmp_path: Path
) -> None:
    captured = capture(tmp_path / "c.jsonl", build("signalled_fork"), str(COUNT), options=takes)

    assert captured.done.stdout.startswith(f"0 {COUNT}\n")
    assert captured.of("signalled_fork") == []
    assert captured.summary["retries"] >= COUNT


def test_arming_in_the_midst_of_a_storm_blames_every_fork_rightly(
    takes: tuple[str, ...], build: Any, tmp_path: Path
) -> None:
    storm = subprocess.Popen([build("fork_kinds"), "fork", "100000000"])
    try:
        for _ in range(2):
            captured = capture(
                tmp_path / "c.jsonl", "sleep", "0.1", options=(*takes, "--comm", "fork_kinds")
            )

            assert captured.count("fork_kinds") == captured.exact("fork_kinds") > 0
            assert set(captured.by("fork_kinds", "cause")) == {("rlimit-nproc",)}
    finally:
        storm.kill()
        storm.wait()


def write_when_free(sysctl: Path, text: str) -> None:
    """Write it once the programs that walk stacks are freed, a grace period after their end."""
    deadline = time.monotonic() + 60
    while True:
        try:
            sysctl.write_text(text)
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.2)


@pytest.mark.parametrize("frames", ["2", "127"])
def test_a_kernel_that_cuts_stacks_short_changes_no_blame(
    frames: str, takes: tuple[str, ...], tmp_path: Path
) -> None:
    sysctl = Path("/proc/sys/kernel/perf_event_max_stack")
    before = sysctl.read_text()
    write_when_free(sysctl, frames)
    try:
        captured = capture(
            tmp_path / "c.jsonl",
            *FORK_TRACE,
            "rehearse",
            "--count",
            "7",
            "overcommit-heuristic",
            options=takes,
        )
    finally:
        write_when_free(sysctl, before)

    assert captured.by("ft-oc-heuristic", "cause", "certainty") == {
        ("overcommit-heuristic", "observed"): 7
    }


def test_a_storm_is_counted_exactly_though_it_is_sampled(
    takes: tuple[str, ...], build: Any, tmp_path: Path
) -> None:
    captured = capture(tmp_path / "c.jsonl", build("fork_kinds"), "fork", "20011", options=takes)

    assert captured.done.stdout.startswith("20011\n")
    assert captured.exact("fork_kinds") == 20011
    assert captured.count("fork_kinds") == 20011
    assert captured.summary["lost"] == 0
    assert captured.summary["skipped"] > 0
    assert len(captured.of("fork_kinds")) < 20011


@pytest.mark.parametrize(
    ("options", "counted"),
    [
        (("--comm", "nobody"), 0),
        (("--uid", "61999", "--comm", "fork_kinds"), 0),
        (("--pid", "1"), 0),
        (("--uid", "61003", "--comm", "fork_kinds", "--cgroup", "/"), 7),
    ],
)
def test_a_filter_keeps_the_others_out(
    options: tuple[str, ...], counted: int, takes: tuple[str, ...], build: Any, tmp_path: Path
) -> None:
    captured = capture(
        tmp_path / "c.jsonl", build("fork_kinds"), "fork", "7", options=(*takes, *options)
    )

    assert captured.summary["failures"] == counted
    assert captured.count("fork_kinds") == counted
    assert captured.summary["filtered"] == 7 - counted
