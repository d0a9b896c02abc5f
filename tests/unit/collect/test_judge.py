"""A cause by what was watched, and by what /proc adds where the kernel side cannot tell."""

from __future__ import annotations

import errno
import mmap
import os
from dataclasses import replace
from pathlib import Path

import pytest
from samples import PLAN, failed, loaded, observer, sample

from fork_trace.collect.judge import Judge, calls_for_more, watched
from fork_trace.collect.observe import Observer
from fork_trace.diagnosis.readings import ProcReadings
from fork_trace.diagnosis.verdict import INFERRED, Verdict
from fork_trace.host import procfs
from fork_trace.model import events, steps


@pytest.mark.parametrize(
    ("step_misses", "can_leave_out", "expected"),
    [
        ({}, True, "threads-max"),
        ({"sched_fork": 1}, True, "threads-max"),
        ({"rlimit_nproc": 1}, True, "rlimit-nproc"),
        ({"rlimit_nproc": 1}, False, "threads-max"),
    ],
)
def test_a_step_is_blamed_by_the_state_only_if_its_program_was_left_out(
    step_misses: dict[str, int], can_leave_out: bool, expected: str
) -> None:
    backend = loaded(replace(PLAN, can_leave_out=can_leave_out), **step_misses)
    key = failed(errno.EAGAIN, "nproc", "threads", "copies-mm")
    verdict = Judge(backend).judge(key, ProcReadings())

    assert (expected, "inferred") == (verdict.cause, verdict.certainty)


def test_what_programs_were_left_out_of_is_asked_once_for_all_that_was_read_together() -> None:
    backend = loaded(replace(PLAN, can_leave_out=True))
    left_out: dict[str, int] = {}
    asked: list[dict[str, int]] = []

    def step_misses() -> dict[str, int]:
        asked.append(left_out)
        return left_out

    backend.step_misses = step_misses
    key = failed(errno.EAGAIN, "nproc", "threads", "copies-mm")
    judge = Judge(backend).judge

    assert 3 * ["threads-max"] == [judge(key, ProcReadings()).cause for _ in range(3)]
    assert 1 == len(asked)
    left_out["rlimit_nproc"] = 1
    assert "rlimit-nproc" == Judge(backend).judge(key, ProcReadings()).cause
    assert 2 == len(asked)


def test_a_step_is_blamed_by_the_state_if_its_program_may_not_know_whose_call_it_is() -> None:
    key = failed(errno.EAGAIN, "nproc", "threads", "copies-mm")

    assert "threads-max" == Judge(loaded(PLAN)).judge(key, ProcReadings()).cause
    blind = Judge(loaded(replace(PLAN, blind=1))).judge(key, ProcReadings())
    assert ("rlimit-nproc", "inferred") == (blind.cause, blind.certainty)


@pytest.mark.parametrize(
    ("changes", "attach", "expected"),
    [
        ({}, "fexit", "default"),
        ({"is_detailed": True}, "fexit", "all"),
        ({"is_alone": True}, "fexit", "fork"),
        ({"is_detailed": True}, "tracepoint", "fork"),
        ({"is_observed": True}, "fexit", None),
        ({"step": steps.BY_NAME["dup_fd"].number}, "fexit", None),
    ],
)
def test_what_was_watched_is_told_of_a_call_that_was_judged_by_state(
    changes: dict[str, object], attach: str, expected: str | None
) -> None:
    key = replace(failed(errno.EAGAIN), **changes)  # type: ignore[arg-type]

    assert expected == watched(key, replace(PLAN, attach=attach))


@pytest.mark.parametrize(
    ("changes", "step", "alternatives", "expected"),
    [
        ({}, "copy_process", (), True),
        ({}, "rlimit_nproc", (), False),
        ({}, "rlimit_nproc", ("threads-max",), True),
        ({}, "sched_fork", (), True),  # watched only once something is unexplained
        ({"is_observed": True}, "copy_process", (), False),
    ],
)
def test_more_is_attached_for_a_failure_that_what_is_attached_does_not_explain(
    changes: dict[str, bool], step: str, alternatives: tuple[str, ...], expected: bool
) -> None:
    key = replace(failed(errno.EAGAIN), **changes)  # type: ignore[arg-type]

    assert expected is calls_for_more(key, Verdict("unknown", INFERRED, step, alternatives), True)


@pytest.mark.parametrize("waits", [True, False])
def test_before_a_fork_had_failed_nothing_could_be_explained(waits: bool) -> None:
    key = replace(failed(errno.EAGAIN), is_alone=True)

    assert waits is not calls_for_more(key, Verdict("unknown", INFERRED), waits)


@pytest.mark.parametrize(
    ("attach", "can_leave_out", "is_alone"),
    [("fexit", False, True), ("kprobe", True, False)],
)
def test_where_nobody_knows_whether_a_program_ran_the_state_alone_decides(
    attach: str, can_leave_out: bool, is_alone: bool
) -> None:
    backend = loaded(replace(PLAN, attach=attach, can_leave_out=can_leave_out))
    key = replace(failed(errno.EAGAIN, "nproc", "threads"), is_alone=is_alone)
    verdict = Judge(backend).judge(key, ProcReadings())

    assert ("rlimit-nproc", ("threads-max",)) == (verdict.cause, verdict.alternatives)


def judged(looking: Observer, event: events.Event) -> Verdict:
    return Judge(loaded()).judge(event.key, looking.readings(event))


@pytest.mark.parametrize(
    ("threads", "limit", "alternatives"),
    [
        (79, 100, ()),
        (80, 100, ("threads-max",)),
        (100, 100, ("threads-max",)),
        (None, 100, ("threads-max",)),
        (1, None, ("threads-max",)),
    ],
)
def test_few_threads_in_proc_rule_threads_max_out_and_unread_ones_do_not(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    threads: int | None,
    limit: int | None,
    alternatives: tuple[str, ...],
) -> None:
    monkeypatch.setattr(procfs, "threads", lambda: threads)
    monkeypatch.setattr(procfs, "number", lambda path: limit)
    key = failed(errno.EAGAIN, "pids-cgroup", "threads-unknown")
    looking = observer(tmp_path)

    sampled = judged(looking, sample(key))
    counted = Judge(loaded()).judge(key, looking.at_start)

    assert ("pids-cgroup", alternatives) == (sampled.cause, sampled.alternatives)
    assert ("threads-max",) == counted.alternatives, "without a sample nobody was looked at"


GUESSED = failed(errno.ENOMEM, "overcommit", "memcg-limited", detail="overcommit-guess")


# Larger than anything that other tests, or the arenas of their threads, map in this process.
LARGE = 1 << 30


def test_a_huge_mapping_of_the_caller_is_looked_for_while_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(procfs, "ram_and_swap", lambda: LARGE)

    with mmap.mmap(-1, LARGE + 4096, flags=mmap.MAP_PRIVATE):
        verdict = judged(observer(tmp_path), sample(GUESSED))

    assert ("overcommit-heuristic", ()) == (verdict.cause, verdict.alternatives)


@pytest.mark.parametrize(
    ("word", "cause"),
    [("one-mapping", "overcommit-heuristic"), ("small-mappings", "kernel-memory")],
)
def test_where_the_kernel_side_looked_at_the_mappings_proc_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, cause: str
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(procfs, "has_accountable_mapping", lambda pid, above: asked.append(pid))
    key = failed(errno.ENOMEM, "overcommit", word, detail="overcommit-guess")

    verdict = judged(observer(tmp_path), sample(key))

    assert (cause, ()) == (verdict.cause, verdict.alternatives)
    assert not asked


def test_a_caller_without_a_huge_mapping_was_not_refused_for_one(tmp_path: Path) -> None:
    verdict = judged(observer(tmp_path), sample(GUESSED))

    assert ("kernel-memory", ("memory-cgroup",)) == (verdict.cause, verdict.alternatives)


@pytest.mark.parametrize(
    ("sees_all_pids", "pid"),
    [
        (False, os.getpid()),  # the kernel's pids are strangers in our /proc
        (True, None),  # no sample
        (True, 1 << 30),  # gone; no pid is so large
    ],
    ids=["strangers", "no sample", "gone"],
)
def test_where_nobody_could_look_a_huge_mapping_stays_possible(
    tmp_path: Path, sees_all_pids: bool, pid: int | None
) -> None:
    looking = observer(tmp_path, sees_all_pids)
    readings = looking.at_start if pid is None else looking.readings(sample(GUESSED, pid))
    verdict = Judge(loaded()).judge(GUESSED, readings)

    assert "overcommit-heuristic" == verdict.cause
    assert ("kernel-memory", "memory-cgroup") == verdict.alternatives


@pytest.mark.parametrize(("at_start", "now"), [(0, 2), (2, 0), (None, 2), (1, 0)])
def test_the_overcommit_mode_of_a_sample_is_the_one_of_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_start: int | None, now: int
) -> None:
    monkeypatch.setattr(procfs, "number", {"sys/vm/overcommit_memory": now}.get)
    monkeypatch.setattr(procfs, "ram_and_swap", lambda: None)
    key = failed(errno.ENOMEM, "overcommit-unknown", "copies-mm")

    verdict = judged(observer(tmp_path, mode=at_start), sample(key))

    assert {0: "overcommit-heuristic", 2: "overcommit-never"}[now] == verdict.cause
