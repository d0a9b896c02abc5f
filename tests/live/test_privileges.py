"""How little it takes to watch, what each capability adds, and what is given up once it watches."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from fork_trace.privileges import CAPABILITIES

from .conftest import FORK_TRACE, IS_GUEST, TAKES, TIMEOUT_S, host_by

pytestmark = pytest.mark.live

NOBODY = 60123
NEEDED = [each.name for each in CAPABILITIES if each.is_needed]
ALL = [each.name for each in CAPABILITIES]


def as_user(*capabilities: str) -> list[str]:
    """Become another user who has these and no others."""
    sets = ",".join(["-all", *(f"+{each.removeprefix('CAP_').lower()}" for each in capabilities)])
    return [
        *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
        *(f"--inh-caps={sets}", f"--ambient-caps={sets}", f"--bounding-set={sets}"),
    ]


def mask(*names: str) -> int:
    return sum(1 << each.bit for each in CAPABILITIES if each.name in names)


def start(*command: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/"
    )
    assert process.stderr is not None
    line = process.stderr.readline()
    assert line.startswith("Watching"), line + process.stderr.read()
    return process


@pytest.fixture(scope="module")
def paranoid() -> Iterator[Path]:
    """The switch of perf events, lowered to what kernels have that are not Debian's or Ubuntu's."""
    switch = Path("/proc/sys/kernel/perf_event_paranoid")
    before = switch.read_text()
    if IS_GUEST:
        switch.write_text("2")
    try:
        yield switch
    finally:
        if IS_GUEST:
            switch.write_text(before)


def rung_of(options: tuple[str, ...]) -> str:
    """The rung that they make this kernel take."""
    return next((rung for rung, takes in TAKES.items() if takes == options), "tracepoint")


def told(process: subprocess.Popen[str], rung: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """End a capture by that rung and return its failures and its summary."""
    process.send_signal(signal.SIGTERM)
    text, errors = process.communicate(timeout=TIMEOUT_S)
    assert "Traceback" not in errors, errors
    records = [json.loads(line) for line in text.splitlines()]
    assert rung == records[0]["rung"]
    return [each for each in records if each["type"] == "failure"], records[-1]


def held_by(pid: int) -> dict[str, int]:
    """The capability sets of a process, and whether it can get new ones."""
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.findall(r"^(Cap\w+|NoNewPrivs):\s*([0-9a-f]+)$", text, re.MULTILINE)
    return {name: int(value, 16) for name, value in found}


@contextmanager
def lasting(*command: str) -> Iterator[None]:
    """Run a program that cannot end before the block does: nobody takes what it says at its end."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    process = subprocess.Popen(command, stdout=writer)
    os.close(writer)
    time.sleep(3)
    try:
        yield
    finally:
        while os.read(reader, 65536):
            pass
        os.close(reader)
        assert process.wait(timeout=TIMEOUT_S) == 0


def test_two_capabilities_are_enough_to_watch(
    takes_each: tuple[str, ...], build: Any, paranoid: Path
) -> None:
    tracer = start(
        *(*as_user(*NEEDED), *FORK_TRACE, "capture", "--json", *takes_each, "--comm", "fork_kinds")
    )
    subprocess.run([build("fork_kinds"), "fork", "23"], check=True, capture_output=True)
    held = held_by(tracer.pid)
    failures, summary = told(tracer, rung_of(takes_each))

    assert held["CapEff"] == held["CapPrm"] == mask(*NEEDED)
    assert (held["CapInh"], held["CapAmb"], held["NoNewPrivs"]) == (0, 0, 1)
    assert summary["failures"] == sum(each["count"] for each in failures) == 23
    assert set(summary["causes"]) == {"rlimit-nproc"}
    assert {each["exe"] for each in failures} <= {None, build("fork_kinds")}
    assert (summary["lost"], summary["unmarked"]) == (0, 0)


def test_where_perf_events_take_root_a_stranger_gets_the_next_rung_and_its_reason(
    any_host: dict[str, Any], paranoid: Path
) -> None:
    host_by("kprobe")
    before = paranoid.read_text()
    paranoid.write_text("3")
    try:
        done = subprocess.run(
            [*as_user(*NEEDED), *FORK_TRACE, "doctor", "--json", *TAKES["kprobe"]],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            cwd="/",
        )
    finally:
        paranoid.write_text(before)
    found = json.loads(done.stdout)

    assert "tracepoint" == found["rung"]
    assert "kernel.perf_event_paranoid is 3" in found["passed_over"][1]["reason"]


def test_with_all_that_are_listed_a_stranger_is_told_as_root_tells_him(
    takes_each: tuple[str, ...], build: Any, paranoid: Path
) -> None:
    options = ("capture", "--json", *takes_each, "--comm", "fork_kinds")
    both = [start(*who, *FORK_TRACE, *options) for who in ([], as_user(*ALL))]
    with lasting(build("fork_kinds"), "fork", "23"):
        rung = rung_of(takes_each)
        (of_root, _), (of_user, _) = (told(each, rung) for each in both)
    same = ("exe", "cgroup", "caller", "stack", "stack_by", "cause", "certainty", "container")

    assert {each["exe"] for each in of_root} == {build("fork_kinds")}
    for name in same:
        assert of_root[0][name] == of_user[0][name], name
    assert [each["name"] for each in of_root[0]["evidence"]] == [
        each["name"] for each in of_user[0]["evidence"]
    ]


def test_doctor_names_what_is_missing(any_host: dict[str, Any]) -> None:
    def found(*names: str) -> dict[str, Any]:
        done = subprocess.run(
            [*as_user(*names), *FORK_TRACE, "doctor", "--json"],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            cwd="/",
        )
        told: dict[str, Any] = json.loads(done.stdout)
        return told

    few, all_ = found(*NEEDED), found(*ALL)

    assert few["usable"] and all_["usable"]
    assert few["features"]["privileges"]["value"] is False
    assert all(
        f"without {name}: " in few["features"]["privileges"]["why"]
        for name in set(ALL) - set(NEEDED)
    )
    assert all_["features"]["privileges"]["value"] is True
    assert all_["features"]["kallsyms"]["value"] is True
    assert any_host["features"]["privileges"]["value"] is True


def test_with_neither_of_the_two_one_sentence_names_them(any_host: dict[str, Any]) -> None:
    done = subprocess.run(
        [*as_user(), *FORK_TRACE, "live"], capture_output=True, text=True, timeout=60, cwd="/"
    )

    assert (done.returncode, done.stdout) == (2, "")
    assert "CAP_BPF and CAP_PERFMON" in done.stderr
    assert "Traceback" not in done.stderr


def test_once_it_watches_root_keeps_what_reading_needs_and_its_command_everything(
    any_host: dict[str, Any], tmp_path: Path
) -> None:
    tracer = start(*FORK_TRACE, "live")
    held = held_by(tracer.pid)
    tracer.send_signal(signal.SIGTERM)
    tracer.communicate(timeout=TIMEOUT_S)
    own = held_by(os.getpid())
    done = subprocess.run(
        [*FORK_TRACE, "capture", "--", "grep", "-E", "CapEff|NoNewPrivs", "/proc/self/status"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )

    kept = mask(*(each.name for each in CAPABILITIES if each.is_kept))
    assert held["CapPrm"] == kept & own["CapPrm"]
    assert held["CapPrm"] == held["CapEff"] != own["CapEff"]
    assert (held["CapInh"], held["CapAmb"], held["NoNewPrivs"]) == (0, 0, 1)
    assert f"CapEff:\t{own['CapEff']:016x}" in done.stdout
    assert "NoNewPrivs:\t0" in done.stdout
