"""The bcc backend: compiled on the host, it must show what the others show. One capture for all rehearsals.

Compiling takes half a minute and more under emulation, so each test that needs another start counts.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from accuracy.judging import COUNT

from fork_trace.rehearse import SCENARIOS, Scenario, find
from fork_trace.steps import BY_NAME

from .conftest import (
    FORK_TRACE,
    IS_GUEST,
    TIMEOUT_S,
    Rehearsed,
    assert_counted,
    doctor,
    first_evidence,
    rehearse,
)

pytestmark = pytest.mark.live
every_scenario = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)

FIRST = tuple(
    find(name) for name in ("pids-cgroup", "rlimit-nproc", "overcommit-never", "fd-table-limit")
)


@pytest.fixture(scope="module")
def guest() -> None:
    """Only where nobody else's forks are at stake."""
    if not IS_GUEST:
        pytest.skip("would take limits of the whole host away: run it by scripts/vm")


@pytest.fixture(scope="module")
def rehearsed(guest: None, tmp_path_factory: pytest.TempPathFactory) -> Rehearsed:
    """One capture around all of them, with what never reaches copy_process."""
    return rehearse(
        tmp_path_factory.mktemp("rehearsed"), SCENARIOS, "--backend", "bcc", "--refused"
    )


@every_scenario
def test_a_rehearsed_failure_has_its_cause_errno_call_and_exact_count(
    scenario: Scenario, rehearsed: Rehearsed
) -> None:
    assert_counted(rehearsed, scenario)


@pytest.mark.parametrize(
    "scenario",
    [
        each
        for each in SCENARIOS
        # copy_process itself writes the number of the pidfd, after pidfd_prepare; and most of what
        # clone3 checks comes after its arguments have been copied.
        if not BY_NAME[each.step].in_detail
        and each.name != "pidfd-pointer"
        and each.step != "clone_args"
    ],
    ids=lambda scenario: scenario.name,
)
def test_a_failure_has_its_step_and_is_observed_where_that_is_watched(
    scenario: Scenario, rehearsed: Rehearsed
) -> None:
    header = rehearsed.captured.header
    watched = {item["step"] for item in header["attached"] if not item["later"]}
    expected = (scenario.step, "observed" if scenario.step in watched else "inferred")
    failures = rehearsed.of(scenario)

    assert {(each["step"], each["certainty"]) for each in failures} <= {expected}


def test_it_is_bcc_that_watches(rehearsed: Rehearsed) -> None:
    header = rehearsed.captured.header

    assert ("kprobe", "bcc") == (header["rung"], header["backend"])
    assert {
        "copy_process",
        "alloc_pid",
        "__vm_enough_memory",
        "dup_fd",
        "cgroup_can_fork",
    } <= {item["function"] for item in header["attached"]}


def test_nothing_is_lost_missed_or_folded(rehearsed: Rehearsed) -> None:
    summary = rehearsed.captured.summary

    assert (summary["lost"], summary["missed"]) == (0, 0)
    assert (summary["skipped"], summary["folded"]) == (0, 0)
    assert (summary["unmarked"], summary["mismatched"]) == (0, 0)


def test_the_numbers_are_read_in_the_kernel_by_the_installed_headers(rehearsed: Rehearsed) -> None:
    evidence = first_evidence(rehearsed.captured.of("ft-pids-cg-anc"))

    assert (evidence["name"], evidence["value"], evidence["limit"]) == ("pids.max", 1, 1)
    for failure in rehearsed.captured.of("ft-oc-never"):
        assert failure["evidence"][0]["value"] >= failure["evidence"][0]["limit"] > 0
        assert failure["evidence"][0]["read"] == "kernel"
    for failure in rehearsed.captured.of("ft-pidns-dead"):
        assert "level 1" in failure["evidence"][0]["where"]


def test_without_btf_and_ring_buffer_it_is_taken_by_itself_and_counts_the_same(
    guest: None, tmp_path: Path
) -> None:
    found = rehearse(tmp_path, FIRST, "--without", "btf", "--without", "ringbuf")
    header, summary = found.captured.header, found.captured.summary

    assert ("kprobe", "bcc") == (header["rung"], header["backend"])
    assert [("fexit", "libbpf"), ("kprobe", "libbpf")] == [
        (each["rung"], each["backend"]) for each in header["passed_over"]
    ]
    for scenario in FIRST:
        found.of(scenario)
        assert found.captured.by(scenario.comm, "cause", "errno", "certainty") == {
            (
                scenario.cause,
                scenario.errno,
                "observed" if _is_watched(scenario, header) else "inferred",
            ): COUNT
        }
    assert (summary["lost"], summary["missed"]) == (0, 0)


def _is_watched(scenario: Scenario, header: dict[str, Any]) -> bool:
    return scenario.step in {item["step"] for item in header["attached"]}


def live_behind(*mount: str) -> subprocess.CompletedProcess[str]:
    """Try it where something is mounted over headers, which nobody else sees."""
    hide = f'mount {shlex.join(mount)} && exec "$@"'
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", hide, "sh", *FORK_TRACE, "live", "--backend", "bcc"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


def test_without_headers_one_sentence_names_the_package(guest: None) -> None:
    release = os.uname().release
    done = live_behind("-t", "tmpfs", "none", f"/lib/modules/{release}")

    assert 2 == done.returncode
    assert "the headers of the running kernel are not installed" in done.stderr
    assert f"linux-headers-{release}" in done.stderr
    assert "Traceback" not in done.stderr


def test_headers_that_its_clang_cannot_read_end_in_one_sentence(
    guest: None, tmp_path: Path
) -> None:
    release = os.uname().release
    (tmp_path / "h").write_text("#error made for a newer compiler\n")
    header = next(
        path
        for place in ("source", "build")
        if (path := Path(f"/lib/modules/{release}/{place}/include/linux/kernfs.h")).exists()
    ).resolve()
    done = live_behind("--bind", f"{tmp_path}/h", str(header))

    assert 2 == done.returncode
    assert f"cannot compile for Linux {release}" in done.stderr
    assert "made for a newer compiler" in done.stderr
    assert 1 == done.stderr.count("\n")


def test_killed_outright_it_leaves_no_probe_that_is_on(guest: None) -> None:
    tracer = subprocess.Popen(
        [*FORK_TRACE, "live", "--backend", "bcc"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert tracer.stderr
    assert b"Watching for fork failures" in tracer.stderr.readline()
    tracer.kill()
    tracer.wait()
    listed = Path("/sys/kernel/debug/kprobes/list").read_text()
    probes = Path("/sys/kernel/tracing/kprobe_events")

    assert "/copy_process " in probes.read_text()  # its name stays, and is off
    assert [] == [
        line for line in listed.splitlines() if "[DISABLED]" not in line and "OPTIMIZED" not in line
    ]
    assert "bcc" == doctor("--backend", "bcc")["backend"]
    assert "copy_process" not in probes.read_text()
