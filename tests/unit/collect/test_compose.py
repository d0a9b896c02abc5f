"""Records: of one failure with all that was found out, of many that were counted, and of totals."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from samples import PLAN, a_host_with_v2, failed, loaded, observer, raw_key, sample

from fork_trace.collect import clock, compose
from fork_trace.collect.compose import Composer, Sample
from fork_trace.collect.judge import Judge
from fork_trace.collect.ledger import Ledger
from fork_trace.collect.observe import Cgroups, ProcessSnapshot
from fork_trace.diagnosis.readings import HostReadings, ProcReadings
from fork_trace.diagnosis.verdict import INFERRED, OBSERVED, Verdict
from fork_trace.host.cgroup import CgroupPaths
from fork_trace.host.holders import Holders
from fork_trace.model import events, steps
from fork_trace.model.records import Advice, Holder
from fork_trace.probes.backend import Filter
from fork_trace.probes.plan import Fallback
from fork_trace.stacks.layouts import Caller
from fork_trace.stacks.symbols import Symbols

NOW = clock.Clock(start_ns=0, epoch_offset_ns=1772600767000008000)
HOST = HostReadings(page_bytes=4096, hugetlb_pages=0)


def composer(paths: CgroupPaths, symbols: Any = None) -> Composer:
    return Composer(loaded(), NOW, Cgroups(paths), symbols or Symbols())


@pytest.fixture
def paths(tmp_path: Path) -> CgroupPaths:
    return a_host_with_v2(tmp_path)


def a_sample(**changes: Any) -> Sample:
    """One refusal by RLIMIT_NPROC of a process that is gone, as it was observed."""
    step = steps.BY_NAME["rlimit_nproc"].number
    key = replace(failed(errno.EAGAIN), step=step, is_observed=True, uid=1000, cgroup_id=2**62)
    numbers = {"nproc": 7, "nproc_limit": 7, "nproc_uid": 1000, "nproc_level": 0}
    values: dict[str, Any] = {
        "key": b"key",
        "event": replace(sample(key, pid=42), flags=0x00000100, numbers=numbers),
        "caller": Caller(None, 1000),
        "snapshot": ProcessSnapshot("/usr/bin/dash"),
        "verdict": Verdict("rlimit-nproc", OBSERVED, "rlimit_nproc"),
        "held": None,
    }
    return Sample(**{**values, **changes})


@pytest.mark.parametrize(
    ("maker", "caller"),
    [
        (events.Maker("io-uring-worker"), "(io_uring worker)"),
        (events.Maker("user-worker", "vhost-42"), "(vhost worker vhost-42)"),
        (events.Maker("user-worker", "kvm-nx"), "(kernel worker kvm-nx)"),
        (
            events.Maker("kernel-thread", "jbd2/sda1-8", "kjournald2", "mount", 9),
            "(kernel thread jbd2/sda1-8) <- mount",
        ),
        (events.Maker("kernel-thread", None, "kjournald2"), "(kernel thread kjournald2)"),
        (events.Maker("kernel-thread"), "(kernel thread)"),
        (events.Maker("user-mode-helper", "/sbin/modprobe"), "(user-mode helper /sbin/modprobe)"),
        (events.Maker("kernel", None, "cpuhp"), "(kernel cpuhp)"),
        (events.Maker("unknown:9"), "(kernel)"),
        (None, "(kernel)"),
    ],
)
def test_no_function_of_a_program_asked_for_what_the_kernel_makes(
    paths: CgroupPaths, maker: events.Maker | None, caller: str
) -> None:
    event = a_sample().event
    key = replace(event.key, syscall="kernel")
    told = a_sample(event=replace(event, key=key, maker=maker))
    record = composer(paths).failure(told, HOST)

    assert (record.caller, record.syscall) == (caller, "kernel")
    assert record.maker == (None if maker is None else vars(maker))
    is_io = maker is not None and maker.kind == "io-uring-worker"
    texts = [each.text for each in record.advice]
    assert any("IORING_REGISTER_IOWQ_MAX_WORKERS" in text for text in texts) is is_io


def test_what_is_known_of_a_failure_is_in_its_record(paths: CgroupPaths) -> None:
    paths.note(2**62, True, "/app.service")
    held = Holders((Holder("java", 4121, 498, 1, 0),), 500)
    failure = composer(paths).failure(a_sample(held=held), HOST)

    assert ("2026-03-04T05:06:07.000008Z", 1) == (failure.time, failure.count)
    assert ("sh", 42, 1000, "/usr/bin/dash") == (
        *(failure.comm, failure.pid, failure.uid, failure.exe),
    )
    assert failure.container is not None
    assert ("/app.service", "systemd") == (failure.cgroup, failure.container["runtime"])
    assert ("EAGAIN", ("CLONE_VM",), "process") == (
        *(failure.errno, failure.flags, failure.creates),
    )
    assert ("rlimit_nproc", "capable", "rlimit-nproc", "observed", None) == (
        *(failure.step, failure.function, failure.cause, failure.certainty, failure.watched),
    )
    assert (7, 7) == (failure.evidence[0].value, failure.evidence[0].limit)
    assert failure.advice
    assert (held.top, 500) == (failure.holders, failure.holders_total)


def test_without_a_census_of_the_pool_nothing_is_said_of_its_holders(paths: CgroupPaths) -> None:
    failure = composer(paths).failure(a_sample(), HOST)

    assert (None, None) == (failure.holders, failure.holders_total)


def test_a_function_is_named_only_if_it_was_observed_refusing(paths: CgroupPaths) -> None:
    event = a_sample().event
    event = replace(event, key=replace(event.key, is_observed=False, step=0))
    failure = composer(paths).failure(
        a_sample(event=event, verdict=Verdict("rlimit-nproc", INFERRED, "rlimit_nproc")), HOST
    )

    assert (None, "default") == (failure.function, failure.watched)


def test_the_steps_that_it_can_have_been_are_in_the_record_of_samples_and_of_counts(
    paths: CgroupPaths,
) -> None:
    verdict = Verdict("kernel-memory", INFERRED, possible_steps=("copy_signal", "dup_mm"))
    sample = a_sample(verdict=verdict)

    for failure in (
        composer(paths).failure(sample, HOST),
        composer(paths).of_key(sample.event.key, verdict, 3),
    ):
        assert ("copy_process", ("copy_signal", "dup_mm")) == (failure.step, failure.possible_steps)


class Starving:
    """Names no frame, as the host has no memory left."""

    def program(self, stack: events.Stack) -> str | None:
        return os.fsdecode(b"/opt/caf\xe9/python3")

    def frames(self, *args: object) -> None:
        raise MemoryError


def test_without_memory_for_its_frames_a_failure_is_told_all_the_same(paths: CgroupPaths) -> None:
    stack = events.Stack(0, 42, (), 0, arguments=("python3", "/srv/job.py"))
    snapshot = ProcessSnapshot(None, stack=stack)
    failure = composer(paths, Starving()).failure(a_sample(snapshot=snapshot), HOST, 1.0)

    assert ((), None, "rlimit-nproc") == (failure.stack, failure.stack_by, failure.cause)
    assert ("/opt/caf\\xe9/python3", "/srv/job.py") == (failure.exe, failure.script)


def test_a_program_that_has_exited_is_not_looked_for_once_it_is_late(paths: CgroupPaths) -> None:
    stack = events.Stack(0, 42, (), 0, arguments=("python3", "/srv/job.py"))
    taken = a_sample(snapshot=ProcessSnapshot(None, stack=stack))
    failure = composer(paths, Starving()).failure(taken, HOST, 1.0, lambda: True)

    assert (None, None) == (failure.exe, failure.script)


def test_a_stack_that_gets_no_time_is_not_unwound(paths: CgroupPaths) -> None:
    asked: list[object] = []

    def frames(*args: object) -> tuple[tuple[()], None]:
        asked.append(args[2])
        return (), None

    stack = events.Stack(0, 42, (), 0)
    made = composer(paths, SimpleNamespace(frames=frames))
    for most_s in (0.0, 0.5):
        made.failure(a_sample(snapshot=ProcessSnapshot("/bin/sh", (), stack)), HOST, most_s)

    assert [None, stack] == asked


def test_what_was_counted_without_a_sample_tells_what_its_key_does(paths: CgroupPaths) -> None:
    paths.note(2**62, True, "/storm")
    key = events.decode_key(raw_key("quiet", 0, 8, errno.EAGAIN))
    verdict = Verdict("rlimit-nproc", OBSERVED, "rlimit_nproc", ("threads-max",))
    failure = composer(paths).of_key(key, verdict, 5)

    assert (5, "quiet", 8, "/storm", "clone", "process", "EAGAIN") == (
        *(failure.count, failure.comm, failure.uid, failure.cgroup, failure.syscall),
        *(failure.creates, failure.errno),
    )
    assert ("rlimit_nproc", "capable", ("threads-max",)) == (
        *(failure.step, failure.function, failure.alternatives),
    )
    assert (None, None, None, ()) == (failure.pid, failure.exe, failure.holders, failure.evidence)
    assert failure.advice


def test_of_what_had_no_room_only_the_step_is_known(paths: CgroupPaths) -> None:
    failure = composer(paths).of_step("alloc_pid", 3)
    known = {name: value for name, value in vars(failure).items() if value not in (None, (), 0)}
    known.pop("time"), known.pop("time_ns")

    assert {
        **{"count": 3, "step": "alloc_pid", "cause": "unknown", "certainty": "inferred"},
    } == known


def test_totals_of_commands_that_had_no_room_tell_user_cgroup_and_cause(
    paths: CgroupPaths,
) -> None:
    paths.note(2**62, True, "/storm")
    book: Ledger[Verdict] = Ledger()
    pair = struct.pack("=QQQQ", 5, 5, 0, 0)
    marks = (("quiet", 0, 8), ("quiet", 1, 8), ("", 2, 7), ("", 3, 7))
    keys = [raw_key(comm, mark, uid, errno.EAGAIN) for comm, mark, uid in marks]
    book.take((key, pair) for key in keys[:3])
    book.take([(raw_key("", 6, 7, errno.EAGAIN), pair)])
    counted = book.totals([(key, pair) for key in keys[3:]])

    totals, by_cause = composer(paths).totals(
        counted,
        {steps.BY_NAME["alloc_pid"].number: 3},
        lambda key: Judge(loaded()).judge(key, ProcReadings()),
    )

    why = {"errno": "EAGAIN", "step": "rlimit_nproc", "cause": "rlimit-nproc"}
    where = {"cgroup": "/storm", "creates": "process", "certainty": "observed"}
    no_one = {"comm": None, "uid": None, "syscall": None}
    assert [
        {"comm": "quiet", "uid": 8, "syscall": "clone", **where, **why, "count": 10},
        {"comm": None, "uid": 7, "syscall": None, **where, **why, "count": 10},
        {**no_one, **{**where, "cgroup": None}, **why, "count": 5},
        {
            **dict.fromkeys(("comm", "uid", "cgroup", "syscall", "creates", "errno")),
            **{"step": "alloc_pid", "cause": "unknown", "certainty": "inferred", "count": 3},
        },
    ] == totals
    assert {"rlimit-nproc": 25, "unknown": 3} == by_cause


def test_a_header_says_what_is_watched_when_and_what_is_not() -> None:
    plan = replace(PLAN, fallbacks=(Fallback("fexit", "libbpf", "no"),)).without_probe(
        "fexit_dup_fd", "refused"
    )
    header = compose.header(plan, "6.1.0", NOW.time_ns(0), {"kernel.pid_max": 7}, Filter(uid=7))

    assert ("2026-03-04T05:06:07.000008Z", "6.1.0", "fexit", "libbpf") == (
        *(header.time, header.kernel, header.attach, header.backend),
    )
    assert {"copy_process": "start", "sched_fork": "unexplained"}.items() <= {
        each["step"]: each["when"] for each in header.attached
    }.items()
    assert {each["step"] for each in header.attached if each["later"]} == {"sched_fork"}
    assert ({"step": "dup_fd", "function": "dup_fd", "reason": "refused"},) == header.missing
    assert ({"kernel.pid_max": 7}, {"uid": 7}) == (header.limits, header.filter)
    assert ({"attach": "fexit", "backend": "libbpf", "reason": "no"},) == header.fallbacks


def test_a_sample_flows_through_each_room_once(tmp_path: Path) -> None:
    looking = observer(tmp_path)
    event = sample(replace(failed(errno.EAGAIN, "nproc"), is_detailed=True))
    snapshot = looking.look(event)
    verdict = Judge(loaded()).judge(event.key, looking.readings(event))
    held = looking.held(event, snapshot, verdict)
    taken = Sample(b"key", event, looking.caller(event), snapshot, verdict, held)
    made = Composer(loaded(), NOW, Cgroups(CgroupPaths(str(tmp_path))), Symbols())
    failure = made.failure(taken, looking.host(event, verdict))

    assert (os.getpid(), snapshot.exe, verdict.cause, "all") == (
        *(failure.pid, failure.exe, failure.cause, failure.watched),
    )


def test_advice_names_no_process_that_has_ended_and_a_zombie_has(paths: CgroupPaths) -> None:
    process = subprocess.Popen(["sleep", "60"])
    event = replace(a_sample().event, pid=process.pid)
    seen = ProcessSnapshot("/usr/bin/sleep", is_in_proc=True)

    def mitigated() -> Advice:
        made = composer(paths).failure(a_sample(event=event, snapshot=seen), HOST)
        return next(each for each in made.advice if each.kind == "mitigate")

    assert f"prlimit --pid {process.pid} --nproc=32:32" == mitigated().commands[0]
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    of_zombie = mitigated()
    process.wait()
    for told in (of_zombie, mitigated()):
        assert "prlimit --pid PID --nproc=32:32" == told.commands[0]
        assert f"Process {process.pid} has ended: for PID, put" in told.text
