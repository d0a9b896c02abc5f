"""What only the kprobe attach mode can get wrong: returns that the kernel has no room to follow, and leftovers."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fork_trace.collect.arm import read_facts
from fork_trace.probes.kprobe_events import KprobeEvents
from fork_trace.probes.libbpf.backend import LibbpfBackend
from fork_trace.probes.libbpf.loading import Programs
from fork_trace.probes.plan import Probe, make
from fork_trace.probes.request import Request

from .conftest import FORK_TRACE, IS_GUEST, TAKES, Captured, capture, doctor, host_by

THREADS = 64
EACH = 7
MIB = 4
TRACEFS = Path("/sys/kernel/tracing")
DEBUGFS = Path("/sys/kernel/debug")

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def kprobe_host() -> dict[str, Any]:
    """This kernel, where it has the attach mode."""
    return host_by("kprobe")


def crowded(cgroup: Path, build: Any, file: Path, *before: str) -> Captured:
    """Capture threads that are all in copy_process at once, most of them asleep."""
    argv = [*before, build("asleep"), str(cgroup), str(THREADS), str(EACH), str(MIB)]
    return capture(file, *argv, options=TAKES["kprobe"])


def test_of_forks_that_sleep_all_at_once_none_is_missed(
    kprobe_host: dict[str, Any], cgroup: Path, build: Any, tmp_path: Path
) -> None:
    captured = crowded(cgroup, build, tmp_path / "c.jsonl")

    assert captured.done.stdout.startswith(f"{THREADS * EACH}\n")
    assert captured.exact("asleep") == THREADS * EACH
    assert captured.by("asleep", "cause", "step", "certainty") == {
        ("pids-cgroup", "cgroup_can_fork", "observed"): THREADS * EACH
    }
    assert (captured.summary["missed"], captured.summary["lost"]) == (0, 0)


def test_without_room_for_all_of_them_what_was_missed_is_counted(
    kprobe_host: dict[str, Any], cgroup: Path, build: Any, tmp_path: Path
) -> None:
    if not IS_GUEST:
        pytest.skip("unmounts tracefs: run it by scripts/vm")
    # debugfs shows tracefs too.
    mounts = {"debugfs": DEBUGFS, "tracefs": TRACEFS}
    for place in mounts.values():
        subprocess.run(["umount", "--recursive", place], check=True)
    try:
        captured = crowded(cgroup, build, tmp_path / "c.jsonl")
    finally:
        for kind, place in mounts.items():
            subprocess.run(["mount", "-t", kind, kind, place], check=True)
    missed = captured.summary["missed"]

    assert captured.header["attach"] == "kprobe"
    assert captured.done.stdout.startswith(f"{THREADS * EACH}\n")
    assert missed > 0
    assert captured.exact("asleep") + missed == THREADS * EACH
    assert set(captured.by("asleep", "cause")) == {("pids-cgroup",)}


def test_a_program_given_up_at_the_start_does_not_end_the_count_of_what_is_missed(
    kprobe_host: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    attach = Programs.attach

    def refuse_one(programs: Programs, probe: Probe) -> str | None:
        return "refused" if probe.step == "dup_fd" else attach(programs, probe)

    monkeypatch.setattr(Programs, "attach", refuse_one)
    facts, library = read_facts(Request("kprobe"))
    assert library is not None
    backend = LibbpfBackend(library, make(facts, Request("kprobe")))
    try:
        before = backend.missed()
        # None of them where huge pages are: of those no failure is counted.
        by_function = {None: 1009}
        monkeypatch.setattr(
            KprobeEvents,
            "missed",
            lambda events_, function=None: by_function.get(function, 0),
        )
        after = backend.missed()
    finally:
        backend.close()

    assert "dup_fd" not in {probe.step for probe in backend.plan.probes}
    assert before is not None and after is not None
    assert before < 1009 <= after


def events_of(pid: int) -> list[str]:
    """The kprobe events of a process, with whether they are enabled."""
    text = (TRACEFS / "kprobe_events").read_text()
    return [line for line in text.splitlines() if f":fork_trace_{pid}/" in line]


def armed() -> int:
    """How many kprobes are armed, of anybody's."""
    text = (DEBUGFS / "kprobes/list").read_text()
    return sum("[DISABLED]" not in line for line in text.splitlines())


def test_killed_it_leaves_nothing_armed_and_the_next_one_clears_up(
    kprobe_host: dict[str, Any],
) -> None:
    before = armed()
    live = subprocess.Popen(
        [*FORK_TRACE, "live", "--json", *TAKES["kprobe"]],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert live.stdout
    live.stdout.readline()  # the header: all is attached
    during, defined = armed(), events_of(live.pid)
    live.send_signal(signal.SIGKILL)
    live.wait()
    after = armed()
    doctor(*TAKES["kprobe"])

    assert during > before + 20
    assert len(defined) > 10
    assert after == before
    assert events_of(live.pid) == []
