"""Kprobe events by tracefs: what is written for each, what is cleared away, what was missed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fork_trace.probes.kprobe_events import KprobeEvents

OURS = f"fork_trace_{os.getpid()}"


@pytest.fixture
def tracefs(tmp_path: Path) -> Path:
    """A root with tracefs, whose numbers of events are there already."""
    place = tmp_path / "sys/kernel/tracing"
    for number, function in enumerate(("copy_process", "alloc_pid", "vm_mmap_pgoff"), 7):
        (place / "events" / OURS / function).mkdir(parents=True)
        (place / "events" / OURS / function / "id").write_text(f"{number}\n")
    (place / "kprobe_events").write_text("")
    (tmp_path / "proc" / "7").mkdir(parents=True)
    return place


def lines(tracefs: Path) -> list[str]:
    return (tracefs / "kprobe_events").read_text().splitlines()


def test_a_function_that_many_sleep_in_has_all_the_room_there_is(
    tracefs: Path, tmp_path: Path
) -> None:
    events = KprobeEvents(str(tmp_path))

    assert [7, 8] == [events.add_return("copy_process"), events.add_return("alloc_pid")]
    assert [f"r4096:{OURS}/copy_process copy_process", f"r512:{OURS}/alloc_pid alloc_pid"] == (
        lines(tracefs)
    )


def test_each_is_removed_by_its_name(tracefs: Path, tmp_path: Path) -> None:
    events = KprobeEvents(str(tmp_path))
    events.add_return("copy_process")

    events.remove()
    events.remove()

    assert [f"-:{OURS}/copy_process"] == lines(tracefs)[1:]


def test_what_a_dead_process_left_is_removed_and_what_a_living_one_uses_is_not(
    tracefs: Path, tmp_path: Path
) -> None:
    left = (
        "r4096:fork_trace_9/dup_fd dup_fd\np:other/dup_fd dup_fd\nr512:fork_trace_7/dup_fd dup_fd\n"
    )
    (tracefs / "kprobe_events").write_text(left)

    KprobeEvents(str(tmp_path))

    assert ["-:fork_trace_9/dup_fd"] == lines(tracefs)[3:]


def test_what_was_missed_is_of_our_functions_and_of_those_that_the_kernel_counts_rightly(
    tracefs: Path, tmp_path: Path
) -> None:
    events = KprobeEvents(str(tmp_path))
    for function in ("copy_process", "alloc_pid", "vm_mmap_pgoff"):
        events.add_return(function)
    (tracefs / "kprobe_profile").write_text(
        "  copy_process      900   40\n  alloc_pid   900  5\n  vm_mmap_pgoff  9  3\n  other  9  2\n"
    )

    assert 5 == events.missed()


def test_without_the_kernel_s_count_nothing_is_claimed(tracefs: Path, tmp_path: Path) -> None:
    assert KprobeEvents(str(tmp_path)).missed() is None


def test_without_tracefs_there_are_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        KprobeEvents(str(tmp_path))
