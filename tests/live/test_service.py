"""The recorder as a service of a real systemd, which is the first process: started, killed, hung, without space.

`scripts/test --lane systemd` runs it in a virtual machine. The unit is the package's own; only where the
program stands differs, and how long systemd waits before it acts.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import schema

from fork_trace.probes.privileges import CAPABILITIES

from .conftest import FORK_TRACE, TIMEOUT_S

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(
        not os.path.exists("/run/systemd/system/vm-session.service"),
        reason="needs systemd as the first process of a guest: scripts/test --lane systemd",
    ),
]
ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "fork_trace" / "deploy" / "systemd"
UNITS = Path("/run/systemd/system")
LOGS = Path("/var/log/fork-trace")
UNIT = "fork-trace.service"
COMM = "ft-rlimit-nproc"
KILLED = "ft-cow-oom"
RECORD = f"ExecStart={sys.executable} -m fork_trace record --keep-free 0"


def systemctl(*words: str) -> str:
    done = subprocess.run(
        ["systemctl", *words], check=False, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    if done.returncode:
        said = subprocess.run(
            ["journalctl", "--no-pager", "-n", "30"], check=True, capture_output=True, text=True
        )
        pytest.fail(f"systemctl {' '.join(words)}: {done.stderr}{said.stdout}")
    return done.stdout


def shown(name: str, unit: str = UNIT) -> str:
    return systemctl("show", "-P", name, unit).strip()


def wait_for(what: Callable[[], Any], seconds: float = 120) -> None:
    end_s = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end_s, systemctl("show", UNIT)
        time.sleep(0.2)


def journal(*options: str) -> list[dict[str, Any]]:
    subprocess.run(["journalctl", "--sync"], check=True, timeout=TIMEOUT_S)
    done = subprocess.run(
        ["journalctl", "-o", "json", "--no-pager", *options],
        check=True,
        capture_output=True,
        timeout=TIMEOUT_S,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def fail(count: int, unit: str = "app.service", rehearsal: str = "rlimit-nproc") -> None:
    """Have a service of that name refused, or killed, so often."""
    (UNITS / unit).write_text(
        "[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\n"
        f"WorkingDirectory={ROOT}\nEnvironment=HOME=/root\n"
        f"ExecStart={' '.join(FORK_TRACE)} rehearse --count {count} {rehearsal}\n"
    )
    systemctl("daemon-reload")
    systemctl("start", unit)


def report() -> dict[str, Any]:
    done = subprocess.run(
        [*FORK_TRACE, "report", "--format", "json"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    found: dict[str, Any] = schema.validate(json.loads(done.stdout))
    return found


def installed(*more: str, comm: str = COMM) -> None:
    """Install the unit with the checkout's program, for one command, and with more settings."""
    shutil.copy(DEPLOY / UNIT, UNITS)
    changes = UNITS / f"{UNIT}.d"
    changes.mkdir(exist_ok=True)
    lines = ["[Service]", f"WorkingDirectory={ROOT}", "ExecStart="]
    lines += [f"{RECORD} --comm {comm}", "RestartSec=1", *more]
    (changes / "checkout.conf").write_text("\n".join(lines) + "\n")
    systemctl("daemon-reload")


@pytest.fixture(autouse=True)
def service() -> Iterator[None]:
    """The service, running, with a directory that is empty."""
    for path in Path("/var/log/private/fork-trace").glob("*"):
        path.unlink()
    installed()
    systemctl("start", UNIT)
    try:
        yield
    finally:
        systemctl("stop", UNIT)
        subprocess.run(["systemctl", "reset-failed", UNIT], check=False, capture_output=True)


def test_it_is_ready_once_it_watches_and_the_journal_explains_what_it_saw() -> None:
    assert ("active", "notify") == (shown("ActiveState"), shown("Type"))
    assert shown("StatusText").startswith("armed: ")  # `start` waited for that
    shutil.copy(DEPLOY / "fork-trace.catalog", "/usr/lib/systemd/catalog")
    subprocess.run(["journalctl", "--update-catalog"], check=True, timeout=TIMEOUT_S)

    fail(23)
    wait_for(lambda: "23 failures (rlimit-nproc 23)" in shown("StatusText"))
    systemctl("stop", UNIT)

    assert ("inactive", "success") == (shown("ActiveState"), shown("Result"))
    found = report()
    assert (23, False) == (found["failures"], found["lower_bound"])
    told = journal("FORK_TRACE_UNIT=app.service")
    assert 23 == sum(int(each["FORK_TRACE_COUNT"]) for each in told)
    assert {("rlimit-nproc", COMM, UNIT)} == {
        (each["FORK_TRACE_CAUSE"], each["FORK_TRACE_COMM"], each["_SYSTEMD_UNIT"]) for each in told
    }
    assert not journal("FORK_TRACE_UNIT=other.service")
    text = subprocess.run(
        ["journalctl", "--no-pager", "-x", "-t", "fork-trace", "FORK_TRACE_CAUSE=rlimit-nproc"],
        check=True,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    ).stdout
    assert "Subject: The kernel refused a fork: rlimit-nproc" in text
    assert "Mitigate: As root, raise the limit of the running process" in text


def test_the_journal_tells_of_processes_that_were_killed_after_a_fork() -> None:
    systemctl("stop", UNIT)
    installed(comm=KILLED)
    systemctl("start", UNIT)

    fail(3, rehearsal="cow-oom")
    time.sleep(2)
    systemctl("stop", UNIT)

    deaths = report()["death_places"]
    assert {("copy-on-write", KILLED)} == {(each["cause"], each["comm"]) for each in deaths}
    told = journal("FORK_TRACE_CAUSE=copy-on-write")
    assert 3 == sum(int(each["FORK_TRACE_COUNT"]) for each in told)
    for each in told:
        assert (KILLED, UNIT) == (each["FORK_TRACE_COMM"], each["_SYSTEMD_UNIT"])
        assert each["FORK_TRACE_PID"] == each["FORK_TRACE_CHILD_PID"]
        assert each["FORK_TRACE_LIMIT_NAME"] == "memory.max"


def test_it_is_a_user_of_its_own_with_no_more_rights_than_the_book_has_reasons_for() -> None:
    status = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{shown('MainPID')}/status").read_text().splitlines()
        if ":\t" in line
    )
    known = {each.name: 1 << each.bit for each in CAPABILITIES}

    assert "0" not in status["Uid"].split()
    assert sum(known.values()) == int(status["CapBnd"], 16)
    kept = sum(known[each.name] for each in CAPABILITIES if each.is_kept)
    assert 0 == int(status["CapEff"], 16) & ~kept
    assert "1" == status["NoNewPrivs"]
    assert 0o700 == LOGS.stat().st_mode & 0o777
    assert {0o600} == {each.stat().st_mode & 0o777 for each in LOGS.glob("*.jsonl*")}


def test_killed_outright_it_is_started_again_and_tells_of_the_gap() -> None:
    fail(23)
    wait_for(lambda: "23 failures" in shown("StatusText"))
    before = shown("MainPID")
    time.sleep(2)
    systemctl("kill", "--signal=KILL", UNIT)
    wait_for(lambda: shown("ActiveState") == "active" and shown("MainPID") not in ("0", before))
    fail(7)
    assert "1" == shown("NRestarts")
    systemctl("stop", UNIT)

    found = report()
    assert found["lower_bound"] and 1 == found["unclosed"] == len(found["gaps"])
    assert 7 <= found["failures"] <= 30


def test_a_new_file_begins_on_request_and_none_is_lost() -> None:
    fail(23)
    systemctl("kill", "--signal=HUP", UNIT)
    wait_for(lambda: 2 == len(list(LOGS.glob("*.jsonl*"))))
    fail(7)
    systemctl("stop", UNIT)

    found = report()
    assert (30, False, []) == (found["failures"], found["lower_bound"], found["gaps"])


def test_a_full_disk_costs_no_count_and_does_not_end_it() -> None:
    systemctl("stop", UNIT)
    place = Path("/var/log/private")
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "none", str(place)], check=True
    )
    try:
        systemctl("start", UNIT)
        before = shown("MainPID")
        fail(5)
        time.sleep(2)
        with open(place / "ballast", "wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                pass
        fail(11)
        wait_for(lambda: "16 failures" in shown("StatusText"))
        os.unlink(place / "ballast")
        fail(7)
        assert ("active", before) == (shown("ActiveState"), shown("MainPID"))
        systemctl("stop", UNIT)

        found = report()
        assert (23, False) == (found["failures"], found["lower_bound"])
    finally:
        systemctl("stop", UNIT)
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_one_that_hangs_is_started_again_by_the_watchdog() -> None:
    systemctl("stop", UNIT)
    installed("WatchdogSec=10", "TimeoutAbortSec=2")
    systemctl("start", UNIT)
    before = int(shown("MainPID"))
    time.sleep(15)
    assert ("active", str(before)) == (shown("ActiveState"), shown("MainPID"))  # it tells in time

    os.kill(before, signal.SIGSTOP)
    wait_for(
        lambda: shown("ActiveState") == "active" and shown("MainPID") not in ("0", str(before))
    )
    assert "1" == shown("NRestarts")


def test_of_two_on_one_directory_the_second_says_why_not() -> None:
    done = subprocess.run(
        [*FORK_TRACE, "record", "--directory", str(LOGS)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )

    assert 2 == done.returncode
    assert "Traceback" not in done.stderr and "cannot record in" in done.stderr
