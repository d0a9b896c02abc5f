"""How little it takes to watch, what each capability adds, and what is given up once it watches."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from building import PROGRAMS

from fork_trace.probes import headers
from fork_trace.probes.privileges import CAPABILITIES, UNUSED_ID

from .conftest import FORK_TRACE, IS_GUEST, TAKES, TIMEOUT_S, host_by

pytestmark = pytest.mark.live

NOBODY = 60123
NEEDED = [each.name for each in CAPABILITIES if each.is_needed]
ALL = [each.name for each in CAPABILITIES]
KEPT = [each.name for each in CAPABILITIES if each.is_kept]
SYS_ADMIN = 1 << 21
BCC = ("--backend", "bcc")
MOST_TRIES = 30  # one fails about twice a second under emulation, and a dozen probes are attached


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


def attach_of(options: tuple[str, ...]) -> str:
    """The attach mode that they make this kernel take."""
    if options == BCC:
        return "kprobe"
    return next((attach for attach, takes in TAKES.items() if takes == options), "tracepoint")


def told(
    process: subprocess.Popen[str], attach: str
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """End a capture by that attach mode and return its failures and its summary."""
    process.send_signal(signal.SIGTERM)
    text, errors = process.communicate(timeout=TIMEOUT_S)
    assert "Traceback" not in errors, errors
    records = [json.loads(line) for line in text.splitlines()]
    assert attach == records[0]["attach"]
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
    failures, summary = told(tracer, attach_of(takes_each))

    assert held["CapEff"] == held["CapPrm"] == mask(*NEEDED)
    assert (held["CapInh"], held["CapAmb"], held["NoNewPrivs"]) == (0, 0, 1)
    assert summary["failures"] == sum(each["count"] for each in failures) == 23
    assert set(summary["causes"]) == {"rlimit-nproc"}
    assert {each["exe"] for each in failures} <= {None, build("fork_kinds")}
    assert (summary["lost"], summary["untracked"]) == (0, 0)


def test_where_perf_events_take_root_a_stranger_gets_the_next_attach_and_its_reason(
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

    assert "tracepoint" == found["attach"]
    assert "kernel.perf_event_paranoid is 3" in found["fallbacks"][1]["reason"]


def test_with_all_that_are_listed_a_stranger_is_told_as_root_tells_him(
    takes_each: tuple[str, ...], build: Any, paranoid: Path
) -> None:
    options = ("capture", "--json", *takes_each, "--comm", "fork_kinds")
    both = [start(*who, *FORK_TRACE, *options) for who in ([], as_user(*ALL))]
    with lasting(build("fork_kinds"), "fork", "23"):
        attach = attach_of(takes_each)
        (of_root, _), (of_user, _) = (told(each, attach) for each in both)
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


def identity_of(pid: int) -> dict[str, list[int]]:
    """The ids of a process: real, effective, saved and for files; its groups; how many threads it has."""
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.findall(r"^(Uid|Gid|Groups|Threads):\s*([0-9\s]*?)\s*$", text, re.MULTILINE)
    return {name: [int(each) for each in value.split()] for name, value in found}


def wait_until_given_up(pid: int) -> dict[str, int]:
    """Wait until it is somebody else, which it is a moment after it says that it watches."""
    deadline = time.monotonic() + TIMEOUT_S
    while held_by(pid)["NoNewPrivs"] == 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)  # the last of the calls that it takes
    return held_by(pid)


def loaded_programs() -> set[int]:
    """The kernel's ids of all BPF programs."""
    libbpf, found, number = ctypes.CDLL("libbpf.so.1"), set(), ctypes.c_uint32(0)
    while libbpf.bpf_prog_get_next_id(number, ctypes.byref(number)) == 0:
        found.add(number.value)
    return found


def left_behind(before: set[int]) -> set[int]:
    """The programs that are there besides; the kernel may take a moment to free one."""
    deadline = time.monotonic() + 20
    while loaded_programs() - before and time.monotonic() < deadline:
        time.sleep(0.2)
    return loaded_programs() - before


@pytest.fixture(params=[*sorted(TAKES), "tracepoint", "bcc"])
def takes_any(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The options of each way to attach, that of bcc included where it is installed."""
    if request.param == "bcc":
        if not (IS_GUEST and headers.bcc_module().value):
            pytest.skip("bcc and this kernel's headers are in the guests")
        return BCC
    if request.param == "tracepoint":
        return ("--attach", "tracepoint")
    host_by(request.param)
    return TAKES[request.param]


def own_cgroup() -> str:
    """Where the programs run that are started here, of the hierarchy that counts tasks."""
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    found = {name: path for _, names, path in lines for name in names.split(",")}
    return found.get("pids", found.get("", "none"))


def fail_until(certainty: str, tracer: subprocess.Popen[str], program: str) -> list[dict[str, Any]]:
    """Let one fork after the other fail until one is so certain; the header, and a record of each."""
    assert tracer.stdout is not None
    records = [json.loads(tracer.stdout.readline())]
    while records[-1].get("certainty") != certainty and len(records) <= MOST_TRIES:
        subprocess.run([program, "fork", "1"], check=True, capture_output=True)
        records.append(json.loads(tracer.stdout.readline()))
    return records


def test_root_watches_as_another_user_attaches_later_and_leaves_no_probe(
    any_host: dict[str, Any], takes_any: tuple[str, ...], build: Any, tmp_path: Path
) -> None:
    # By a name of its own: elsewhere than in a guest others run these programs too.
    program = shutil.copy(build("fork_kinds"), f"{tmp_path}/ft-{os.getpid()}")
    comm = os.path.basename(program)
    before, own = loaded_programs(), held_by(os.getpid())["CapPrm"]
    attach = attach_of(takes_any)
    tracer = start(
        *(*FORK_TRACE, "capture", "--json", "--comm", comm, *takes_any),
        *(() if attach == "tracepoint" else ("--on-demand",)),
    )
    held, identity = wait_until_given_up(tracer.pid), identity_of(tracer.pid)
    assert tracer.stdout is not None
    certainty = "inferred" if attach == "tracepoint" else "observed"
    records = fail_until(certainty, tracer, program)
    made = len(records)  # the header stands for the next one
    time.sleep(20 if IS_GUEST else 5)  # who holds a limit is looked at seldom: holders.REST
    with lasting(program, "fork", "1"):
        records.append(json.loads(tracer.stdout.readline()))
    tracer.send_signal(signal.SIGTERM)
    # Not by communicate: what was read ahead of the last line would be lost.
    records += [json.loads(line) for line in tracer.stdout]
    errors = tracer.stderr.read() if tracer.stderr else ""
    tracer.wait(timeout=TIMEOUT_S)
    header, *failures, summary = records
    probes = Path("/sys/kernel/tracing/kprobe_events")

    assert {
        "Uid": [UNUSED_ID] * 4,
        "Gid": [UNUSED_ID] * 4,
        "Groups": [],
        "Threads": [1],
    } == identity
    assert mask(*KEPT) & own == held["CapEff"]
    # Held back until the last probe is attached, on kernels that take it for that.
    held_back = SYS_ADMIN if attach == "kprobe" else 0
    assert held["CapEff"] == held["CapPrm"] & ~held_back
    assert (0, 0, 1) == (held["CapInh"], held["CapAmb"], held["NoNewPrivs"])
    assert (attach, "") == (header["attach"], errors)
    # Before Linux 5.14 RLIMIT_NPROC has no function of its own to watch.
    is_watched = "rlimit_nproc" in {each["step"] for each in header["attached"]}
    certainty = "observed" if is_watched else "inferred"
    assert (certainty, program) == (failures[-1]["certainty"], failures[-1]["exe"])
    assert takes_any == BCC or failures[-1]["caller"] == "ask"
    assert comm in {each["comm"] for each in failures[-1]["holders"]}
    assert failures[-1]["cgroup"] == own_cgroup()
    assert made == summary["failures"] == sum(each["count"] for each in failures)
    assert {"rlimit-nproc"} == set(summary["causes"])
    assert (0, 0) == (summary["lost"], summary["untracked"])
    if IS_GUEST:  # elsewhere others come and go
        assert set() == left_behind(before)
        assert "fork_trace_" not in probes.read_text()


def test_what_is_left_of_root_can_read_and_not_write(
    any_host: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "precious").chmod(0o600)
    done = subprocess.run(
        [sys.executable, PROGRAMS / "given_up.py", tmp_path, str(os.getpid())],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for path in ("/etc/cron.d/ft-given-up", "/root/ft-given-up"):
        Path(path).unlink(missing_ok=True)
    reading = ("read", "list", "open")

    assert {None} == {why for what, why in found.items() if what.startswith(reading)}, found
    denied = {what: why for what, why in found.items() if not what.startswith(reading)}
    assert {"EACCES", "EPERM"} == {why for why in denied.values()} - {"ENOENT"}, denied
    assert ["precious"] == [each.name for each in tmp_path.iterdir()]


def test_a_command_is_run_as_the_user_who_started_it_and_can_be_ended(
    any_host: dict[str, Any], tmp_path: Path
) -> None:
    lines = r"^(Uid|Gid|Groups|CapEff|CapPrm|CapInh|NoNewPrivs):"
    shown = ["grep", "-E", lines, "/proc/self/status"]
    expected = subprocess.run(shown, capture_output=True, text=True, check=True).stdout
    file = tmp_path / "forks.jsonl"
    tracer = start(
        *(*FORK_TRACE, "capture", "--attach", "tracepoint", "--output", str(file), "--"),
        *("sh", "-c", f"grep -E '{lines}' /proc/self/status; exec sleep 1000"),
    )
    wait_until_given_up(tracer.pid)
    time.sleep(1)
    tracer.send_signal(signal.SIGTERM)
    text, _ = tracer.communicate(timeout=TIMEOUT_S)
    summary = json.loads(file.read_text().splitlines()[-1])

    assert text.startswith(expected)
    assert -signal.SIGTERM == summary["command"]["status"]


@pytest.mark.parametrize("options", [(), ("--keep-privileges",)])
def test_root_that_cannot_become_another_user_is_refused_unless_it_says_so(
    any_host: dict[str, Any], options: tuple[str, ...]
) -> None:
    command = ["capture", "--attach", "tracepoint", "--duration", "0.1", *options, "--", "true"]
    done = subprocess.run(
        ["setpriv", "--bounding-set=-setuid", *FORK_TRACE, *command],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )

    assert "Traceback" not in done.stderr
    if options:
        assert done.returncode in (0, 1), done.stderr
    else:
        assert (2, "") == (done.returncode, done.stdout)
        assert "cannot give up privileges: root needs CAP_SETUID and CAP_SETGID" in done.stderr
        assert "Watching" not in done.stderr


def test_if_it_cannot_give_up_it_ends_and_its_command_with_it(any_host: dict[str, Any]) -> None:
    # Nothing tells beforehand that capabilities may not be kept over a change of user.
    command = ["sleep", f"100{os.getpid()}"]
    done = subprocess.run(
        [
            *("setpriv", "--securebits=+keep_caps_locked", *FORK_TRACE),
            *("capture", "--attach", "tracepoint", "--", *command),
        ],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    said = [line for line in done.stderr.splitlines() if not line.startswith("Watching")]
    left = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            left += [path] if command[1].encode() in path.read_bytes() else []

    assert (2, "") == (done.returncode, done.stdout)
    assert ["fork-trace: cannot give up privileges: Operation not permitted."] == [
        line.partition(". ")[0] + "." for line in said
    ]
    assert [] == left


def test_root_stays_root_if_told_to(any_host: dict[str, Any]) -> None:
    tracer = start(*FORK_TRACE, "capture", "--attach", "tracepoint", "--json", "--keep-privileges")
    time.sleep(1)
    held, identity, own = held_by(tracer.pid), identity_of(tracer.pid), held_by(os.getpid())
    told(tracer, "tracepoint")

    assert [0] * 4 == identity["Uid"] == identity["Gid"]
    assert own == held
