"""The bcc backend: taken by itself, without headers, and killed. What it shows is test_rehearsals.py's.

Compiling takes a minute and more under emulation: each start counts.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from accuracy.judging import COUNT
from accuracy.watching import rehearse, watching

from fork_trace.rehearse.scenarios import Scenario, find

from .conftest import FORK_TRACE, IS_GUEST, TIMEOUT_S, Captured, doctor

pytestmark = pytest.mark.live

FIRST = tuple(
    find(name) for name in ("pids-cgroup", "rlimit-nproc", "overcommit-never", "fd-table-limit")
)


@pytest.fixture(scope="module")
def guest() -> None:
    """Only where nobody else's forks are at stake."""
    if not IS_GUEST:
        pytest.skip("would take limits of the whole host away: run it by scripts/vm")


def test_without_btf_and_ring_buffer_it_is_taken_by_itself_and_counts_the_same(
    guest: None, tmp_path: Path
) -> None:
    options = ("--without", "btf", "--without", "ringbuf", "--stack-bytes", "0")
    with watching(tmp_path, {"bcc": options}) as seen:
        told, trouble = rehearse(tmp_path / "told", [each.name for each in FIRST], host_wide=True)
    watched = seen["bcc"]
    assert watched is not None and watched.refused is None, watched
    captured = Captured(watched.records, watched.done)
    header, summary = captured.header, captured.summary

    assert "" == trouble
    assert ("kprobe", "bcc") == (header["attach"], header["backend"])
    assert [("fexit", "libbpf"), ("kprobe", "libbpf")] == [
        (each["attach"], each["backend"]) for each in header["fallbacks"]
    ]
    for scenario in FIRST:
        assert {scenario.errno: COUNT} == told[scenario.name]["failures"]
        assert captured.by(scenario.comm, "cause", "errno", "certainty") == {
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


def armed() -> list[str]:
    """The kprobes that are on, as the kernel lists them."""
    listed = Path("/sys/kernel/debug/kprobes/list").read_text()
    return [line for line in listed.splitlines() if "[DISABLED]" not in line]


def test_killed_outright_it_leaves_no_probe_that_is_on(guest: None) -> None:
    before = armed()
    tracer = subprocess.Popen(
        [*FORK_TRACE, "live", "--backend", "bcc"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert tracer.stderr
    assert b"Watching for fork failures" in tracer.stderr.readline()
    during = armed()
    tracer.kill()
    tracer.wait()
    probes = Path("/sys/kernel/tracing/kprobe_events")

    assert "/copy_process " in probes.read_text()  # its name stays, and is off
    assert len(during) > len(before) + 10
    assert len(before) == len(armed())
    assert "bcc" == doctor("--backend", "bcc")["backend"]
    assert "copy_process" not in probes.read_text()
