"""One run: a tracer that stays, others that come and go beside it, and the workload that all of them watch.

What is measured here is judged in `judging`.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import bpf_objects
import building
import own_cgroups

from fork_trace.rehearse.scenarios import SCENARIOS
from soak.judging import Made, Measured, Sample, Told

IS_GUEST = bool(os.environ.get("FORK_TRACE_VM"))
TESTS = Path(__file__).resolve().parents[2]
FORK_TRACE = [sys.executable, "-m", "fork_trace"]
TIMEOUT_S = 300  # under emulation everything takes ten to thirty times as long
ROUND_S = 60
STORM_S = 1
STORM_EACH = 9  # pieces of the mix
# Thread stacks are seen by functions of their own, without --refused.
_STACK_STEPS = ("mmap", "mprotect")

# Nobody else's forks are at stake, and none are seen that refuse before copy_process.
MIX = tuple(
    each.name
    for each in SCENARIOS
    if not each.host_wide and (not each.is_early or each.step in _STACK_STEPS)
)


class SoakError(Exception):
    """It could not go on; what to tell."""


class _Tracer:
    """One fork-trace that watches from when this returns, its records in a file."""

    def __init__(self, name: str, directory: Path, *argv: str) -> None:
        self.name = name
        self._file = directory / f"{name.replace(' ', '-')}.jsonl"
        self._errors = directory / f"{name.replace(' ', '-')}.stderr"
        began_s = time.monotonic()
        with self._file.open("w") as out, self._errors.open("w") as errors:
            self.process = subprocess.Popen([*FORK_TRACE, *argv], stdout=out, stderr=errors)
        while not self._errors.read_text().startswith("Watching"):
            if self.process.poll() is not None or time.monotonic() - began_s > TIMEOUT_S:
                self.process.kill()
                self.process.wait()
                said = self._errors.read_text().strip()
                raise SoakError(f"{name} did not begin to watch: {said}")
            time.sleep(0.02)
        self.armed_s = time.monotonic() - began_s

    def end(self) -> Told:
        """Tell it to end, and read what it told."""
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise SoakError(f"{self.name} did not end within {TIMEOUT_S} s.") from None
        records = 0
        sampled = 0
        first: dict[str, Any] = {}
        last: dict[str, Any] = {}
        # A line at a time: of the one that stays there are many.
        with self._file.open() as lines:
            for line in lines:
                last = json.loads(line)
                first = first or last
                records += 1
                sampled += last["count"] if last["type"] == "failure" else 0
        self._file.unlink()
        return Told(
            name=self.name,
            status=status,
            errors=self._errors.read_text(),
            header=first,
            summary=last,
            records=records,
            sampled=sampled,
            armed_s=round(self.armed_s, 2),
        )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class _Worker:
    """A process of the workload."""

    def __init__(self, directory: Path, kind: str, base: Path | None) -> None:
        command = [sys.executable, "-m", "soak.working", str(directory), kind]
        if base:
            # The cgroups that rehearsals make at the top of the hierarchy are below ours then, and
            # so in what is watched.
            own = f"{base}/ft-soak-{os.getpid()}"
            enter = f'echo $$ >{own}/cgroup.procs && mount --bind {own} {base} && exec "$@"'
            command = ["unshare", "-m", "sh", "-c", enter, "sh", *command]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": f"{TESTS}/tools:{TESTS}"},
        )
        if self._line() != "ready\n":
            raise SoakError("the workload did not begin; it says why above.")

    def _line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline()

    def ask(self, order: str) -> dict[str, Any]:
        """Have a piece of work done."""
        assert self.process.stdin
        self.process.stdin.write(f"{order}\n")
        self.process.stdin.flush()
        return self._answer()

    def end(self) -> dict[str, Any]:
        """Let it end, and read what it tells then, if it does."""
        assert self.process.stdin
        self.process.stdin.close()
        line = self._line()
        if self.process.wait():
            raise SoakError("the workload could not end well; it says why above.")
        found: dict[str, Any] = json.loads(line or "{}")
        return found

    def _answer(self) -> dict[str, Any]:
        line = self._line()
        if not line:
            raise SoakError("the workload ended before it told; it says why above.")
        found: dict[str, Any] = json.loads(line)
        return found

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def _files(pid: int) -> int:
    # What is attached later on, at the first failure without a reason, is no leak.
    found = 0
    for path in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found += not os.readlink(path).startswith("anon_inode:")
        except FileNotFoundError:
            continue  # closed meanwhile
    return found


@contextmanager
def _sampled(pid: int, samples: list[Sample], began_s: float) -> Iterator[None]:
    """Look at a process once a second."""
    is_over = threading.Event()

    def look() -> None:
        while not is_over.wait(1):
            try:
                status = Path(f"/proc/{pid}/status").read_text()
                files = _files(pid)
            except OSError:
                continue  # it has ended, which is told elsewhere
            if "VmRSS:" in status:
                rss_kib = int(status.partition("VmRSS:")[2].split()[0])
                samples.append(Sample(round(time.monotonic() - began_s, 1), rss_kib, files))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


@contextmanager
def _own_base() -> Iterator[Path | None]:
    """The pids hierarchy in which a cgroup was made for the workload; None: all are watched.

    Only on cgroup v1: in v2 a cgroup that hands its pids down may have no process of its own.
    """
    version, base = (own_cgroups.pids_hierarchies() or [(2, "")])[0]
    if IS_GUEST or version == 2:
        yield None
        return
    place = Path(base) / f"ft-soak-{os.getpid()}"
    place.mkdir()
    try:
        yield Path(base)
    finally:
        own_cgroups.remove(place)


def soak(seconds: float, options: Sequence[str], note: Callable[[str], None]) -> Measured:
    """Run for so long; `options` go to every fork-trace. SoakError says what ended it early."""
    with ExitStack() as stack:
        directory = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="fork-trace-soak-"))
        )
        for name in ("fork_kinds", "storm"):
            building.program(directory, name)
        base = stack.enter_context(_own_base())
        if base:
            options = [*options, "--cgroup", f"{base}/ft-soak-{os.getpid()}"]
        elif not IS_GUEST:
            note("whatever else fails on this host meanwhile is counted too")
        return _soak(seconds, options, directory, base, stack, note)


def _soak(
    seconds: float,
    options: Sequence[str],
    directory: Path,
    base: Path | None,
    stack: ExitStack,
    note: Callable[[str], None],
) -> Measured:
    library = bpf_objects.library()
    before = bpf_objects.everything(library)
    staying = _Tracer("the one that stays", directory, "live", "--json", *options)
    stack.callback(staying.kill)
    measured = Measured(platform.release(), IS_GUEST, seconds)
    aside = _Worker(directory, "beside", base)
    stack.callback(aside.kill)
    mixed = _Worker(directory, "mixed", base)
    stack.callback(mixed.kill)
    began_s = time.monotonic()
    end_s = began_s + seconds
    pieces = _pieces()
    with _sampled(staying.process.pid, measured.samples, began_s):
        while time.monotonic() < end_s:
            number = len(measured.came) + 1
            coming = _Tracer(f"number {number}", directory, "capture", "--json", *options)
            stack.callback(coming.kill)
            round_end_s = min(time.monotonic() + ROUND_S, end_s)
            made: list[Made] = []
            while not made or time.monotonic() < round_end_s:
                piece = next(pieces)
                answer = mixed.ask(piece)
                if piece == MIX[-1] and measured.through_s is None:
                    measured.through_s = time.monotonic() - began_s
                if "why" in answer:
                    measured.not_made[piece] = answer["why"]
                made += answer["refused"]
            held = bpf_objects.held_by(coming.process.pid)
            told = coming.end()
            measured.add(told, made)
            bpf_objects.wait_until(functools.partial(_are_gone, library, held))
            measured.held.append(len(held))
            left = {each for each in held if bpf_objects.is_there(library, *each)}
            if IS_GUEST:  # elsewhere others come and go
                # The one that stays attaches more when it first has to.
                also = before | bpf_objects.held_by(staying.process.pid)
                left |= bpf_objects.everything(library) - also
            measured.left[told.name] = _named(left)
            done = round(time.monotonic() - began_s)
            note(
                f"{done} s: {told.name} counted {told.summary.get('failures')}, armed in {told.armed_s} s"
            )
        beside = aside.end()
        mixed.end()
    measured.succeeded = beside["succeeded"]
    held = bpf_objects.held_by(staying.process.pid)
    measured.add(staying.end(), [*measured.all_made(), *beside["refused"]])
    bpf_objects.wait_until(functools.partial(_are_gone, library, held))
    left = {each for each in held if bpf_objects.is_there(library, *each)}
    if IS_GUEST:
        left |= bpf_objects.everything(library) - before
    measured.left[staying.name] = _named(left)
    return measured


def _pieces() -> Iterator[str]:
    for number, name in enumerate(cycle(MIX)):
        if number % STORM_EACH == 0:
            yield f"storm {STORM_S}"
        yield name


def _are_gone(library: Any, held: Iterable[tuple[str, int]]) -> bool:
    return not any(bpf_objects.is_there(library, *each) for each in held)


def _named(objects: set[tuple[str, int]]) -> list[str]:
    return sorted(f"{kind} {number}" if number else kind for kind, number in objects)
