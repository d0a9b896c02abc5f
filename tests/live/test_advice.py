"""The printed advice of each rehearsable cause, performed as it stands: the next fork goes through.

A rehearsal is held at its refusal, the record's first command of `mitigate` is given to a shell, and the
same call is made once more. The shells are there before: with the host full, none could be started.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from building import PROGRAMS

from fork_trace.rehearse.scenarios import SCENARIOS, Scenario

from .conftest import FORK_TRACE, IS_GUEST

pytestmark = [pytest.mark.live, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

# Natively nothing that others would notice; and what the kernel there is known to make happen.
RUN = [each for each in SCENARIOS if IS_GUEST or not each.host_wide]
# Whose first command lets the next call through, on every kernel where it can be rehearsed.
THROUGH = {
    *("pids-cgroup", "pids-cgroup-ancestor", "pids-cgroup-thread", "pids-cgroup-three-up"),
    *("rlimit-nproc", "deadline"),
    *("thread-stack-address-space", "user-namespace-limit", "uts-namespace-limit"),
    *("ipc-namespace-limit", "pid-namespace-limit", "cgroup-namespace-limit"),
    *("net-namespace-limit", "mount-namespace-limit", "pidfd-limit"),
}
# The same of those that change the host.
THROUGH_ON_HOST = {
    *("overcommit-never", "fd-table-limit", "pid-max", "threads-max", "fork-big"),
    *("thread-stack-mappings", "thread-stack-commit", "user-namespace-sysctl"),
}
# Where two limits are full: the first command leads to the other one.
TWICE = {"two-causes", "rlimit-and-pids"}
# What an operator has to fill in, which no machine can: a name, a file, an image, a number that is not known.
_PLACEHOLDER = re.compile(
    r"\b(?:N|PROGRAM|CONTROLLER|FILE|PROFILE|IMAGE|COMMAND|DOMAIN_t|CONTAINER|UNIT|PATH|NAME|PID"
    r"|CGROUP|USER|ANCESTOR)\b"
)
_ONLY_SHOWS = ("uname",)  # a mitigation that is a choice of the program's
_PATIENCE_S = 60.0


@contextmanager
def records(directory: Path) -> Iterator[Path]:
    """A capture of everything, whose records are there as they happen."""
    file = directory / "records"
    attach = [] if IS_GUEST else ["--attach", "tracepoint"]
    with file.open("wb") as out, (directory / "errors").open("wb") as errors:
        argv = [*FORK_TRACE, "capture", "--force", "--json", "--refused", *attach]
        watcher = subprocess.Popen(argv, stdout=out, stderr=errors)
        try:
            _wait(lambda: file.stat().st_size > 0)
            yield file
        finally:
            watcher.terminate()
            watcher.wait(60)


def _wait(is_there: Any) -> Any:
    deadline_s = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline_s:
        found = is_there()
        if found:
            return found
        time.sleep(0.05)
    return None


def _failure(file: Path, comm: str, besides: str = "") -> dict[str, Any] | None:
    for line in file.read_text().splitlines():
        with_comm: dict[str, Any] = json.loads(line) if line.endswith("}") else {}
        is_of_it = with_comm.get("type") == "failure" and with_comm.get("comm") == comm
        if is_of_it and with_comm["cause"] != besides:
            return with_comm
    return None


def _shell() -> subprocess.Popen[str]:
    """A shell that is there already, and becomes the command that it reads."""
    return subprocess.Popen(
        ["bash", "-c", 'IFS= read -r line; exec bash -c "$line"'],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _perform(scenario: Scenario, file: Path) -> str:
    """Say what came of the advice on one scenario."""
    shell = _shell()
    held = subprocess.Popen(
        [sys.executable, str(PROGRAMS / "advised.py"), scenario.name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    assert held.stdin and held.stdout and shell.stdin and shell.stdout
    try:
        said = held.stdout.readline().strip()
        if not said.startswith("refused "):
            return said or "cannot: it ended"
        failure = _wait(lambda: _failure(file, scenario.comm))
        if failure is None:
            return "no record"
        (commands,) = [
            each["commands"] for each in failure["advice"] if each["kind"] == "mitigate"
        ][:1]
        if failure["cause"] != scenario.cause:
            return f"other cause: {failure['cause']}"
        if not commands or _PLACEHOLDER.search(commands[0]):
            return "nothing to run"
        if commands[0].split()[0] in _ONLY_SHOWS:
            return "nothing to run"
        if commands[0].startswith("sysctl ") and not IS_GUEST:
            return "cannot: others share this host"
        told, _ = shell.communicate(commands[0] + "\n", timeout=30)
        if "Operation not permitted" in told and not IS_GUEST:
            return f"cannot: {told.strip()}"
        held.stdin.write("go\n")
        held.stdin.flush()
        came = held.stdout.readline().strip()
        if scenario.name in TWICE and not came.startswith("through"):
            other = _wait(lambda: _failure(file, scenario.comm, scenario.cause))
            came = f"through to {other['cause']}" if other else came
        return f"{came} after `{commands[0]}` {told.strip()}".strip()
    finally:
        shell.kill()
        held.stdin.close()
        try:
            held.wait(30)
        except subprocess.TimeoutExpired:
            held.kill()
        shell.wait()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What came of each, by scenario."""
    with records(tmp_path_factory.mktemp("advice")) as file:
        found = {each.name: _perform(each, file) for each in RUN}
    causes = {each.cause for each in RUN if found[each.name].startswith("through")}
    print(*(f"{name}: {told}" for name, told in found.items()), sep="\n")
    print(
        f"the printed command lets the next call through for {len(causes)} causes: {sorted(causes)}"
    )
    return found


@pytest.mark.parametrize("name", [each.name for each in RUN])
def test_the_next_call_goes_through(outcomes: dict[str, str], name: str) -> None:
    told = outcomes[name]
    if told.startswith("cannot:"):
        pytest.skip(told)
    if name in THROUGH | THROUGH_ON_HOST:
        assert told.startswith("through")
    else:
        # A command is never printed that leaves everything as it is.
        assert told.startswith("through") or told == "nothing to run", told
