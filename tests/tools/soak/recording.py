"""The recorder for long: ever new commands and cgroups, a disk that is full for a while, a clock that is set.

What is measured is judged here as well: every failure is in the closed files' totals, memory is what it was
after the first thousand commands, and the files stay within their bounds.
"""

from __future__ import annotations

import ctypes
import gzip
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import own_cgroups

from soak.running import SoakError

NAMES = 100_000
FIRST = 1_000  # commands after which memory is looked at
MOST_GROWTH_KIB = 5 * 1024
MAX_SIZE = 48 << 20
DISK = 96 << 20
MANY, EACH = 23, 500  # every so often a command fails so often
UID = 61_223  # whose failures are recorded: others fork on this host as well
IS_GUEST = bool(os.environ.get("FORK_TRACE_VM"))
_PR_SET_NAME = 15


def recorded(seconds: float, names: int, options: list[str], note: Callable[[str], None]) -> Any:
    """Run it; return what was measured, with a sentence for each thing that is not as it must be."""
    with ExitStack() as stack:
        disk = Path(f"/tmp/fork-trace-soak-{os.getpid()}")
        disk.mkdir()
        stack.callback(shutil.rmtree, disk, ignore_errors=True)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", str(disk)]
        subprocess.run(mount, check=True)
        stack.callback(subprocess.run, ["umount", "-l", str(disk)], check=True)
        base = stack.enter_context(own_cgroups.with_pids("ft-soak-names"))
        assert base is not None, "no mounted hierarchy has the pids controller"
        recorder = subprocess.Popen(
            [
                *(sys.executable, "-m", "fork_trace", "record", "--directory", f"{disk}/log"),
                *("--max-size", str(MAX_SIZE), "--keep-free", "0", "--no-journal"),
                *("--uid", str(UID), *options),
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        stack.callback(recorder.kill)
        assert recorder.stderr
        first = recorder.stderr.readline()
        assert first.startswith("Watching"), first
        run = _Run(disk, recorder.pid, seconds, names)
        done = disk / "done"
        done.touch()
        os.chown(done, UID, UID)
        os.utime(done, ns=(0, 0))
        _hand_over(base)
        stack.callback(_remove_all, base)
        worker = os.fork()
        if worker == 0:
            try:
                (base / "begin" / "cgroup.procs").write_text("0")
                os.setuid(UID)
                os._exit(_fail(base, names, seconds, done))
            finally:
                os._exit(2)  # what was made for the run is not the worker's to undo
        try:
            run.watch(worker, note)
        except BaseException:
            os.kill(worker, signal.SIGKILL)
            raise
        finally:
            _, status = os.waitpid(worker, 0)
        recorder.send_signal(signal.SIGTERM)
        said = recorder.communicate(timeout=120)[1]
        return run.result(status, recorder.returncode, said)


def _hand_over(base: Path) -> None:
    """Let the user of the workload make cgroups there, and move from one to the next."""
    if (base / "cgroup.subtree_control").exists():
        (base / "cgroup.subtree_control").write_text("+pids")
    (base / "begin").mkdir()
    for path in (base, base / "cgroup.procs"):
        os.chown(path, UID, UID)


def _remove_all(base: Path) -> None:
    for each in base.iterdir():
        if each.is_dir():
            own_cgroups.remove(each)


def _fail(base: Path, names: int, seconds: float, done: Path) -> int:
    """Be one command after the other, each in a cgroup of its own that takes no second task."""
    libc = ctypes.CDLL(None)
    begin_s, made, before = time.monotonic(), 0, None
    for number in range(names):
        own = base / f"c{number}"
        own.mkdir()
        (own / "pids.max").write_text("1")
        (own / "cgroup.procs").write_text("0")
        if before:
            before.rmdir()
        before = own
        libc.prctl(_PR_SET_NAME, b"n%06d" % number, 0, 0, 0)
        for _ in range(MANY if number % EACH == 0 else 1):
            try:
                if os.fork() == 0:
                    os._exit(0)
                return 1  # it should not have gone through
            except BlockingIOError:
                made += 1
        if number % 100 == 0:
            os.utime(done, ns=(number + 1, made))
        ahead_s = begin_s + seconds * number / names - time.monotonic()
        if ahead_s > 0:
            time.sleep(ahead_s)
    os.utime(done, ns=(names, made))
    return 0


class _Run:
    """What is seen of it from outside, once a second."""

    def __init__(self, disk: Path, pid: int, seconds: float, names: int) -> None:
        self._disk, self._pid, self._seconds, self._names = disk, pid, seconds, names
        self._closed: dict[str, tuple[int, int]] = {}  # failures: by the summary, by the records
        self._torn: set[str] = set()
        self._resident: list[tuple[int, int]] = []  # commands so far, KiB
        self._most_bytes = self._made = self._clock_set = 0
        self._full_s = 0.0

    def watch(self, worker: int, note: Callable[[str], None]) -> None:
        """Look on until the worker ends; fill the disk for a tenth of the time, in the middle."""
        begin_s = time.monotonic()
        ballast = self._disk / "ballast"
        told_s = 0.0
        while os.waitid(os.P_PID, worker, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            time.sleep(1)
            at_s = time.monotonic() - begin_s
            self._look()
            if 0.45 < at_s / self._seconds < 0.55:
                self._full_s = self._full_s or at_s
                self._fill(ballast)
            elif ballast.exists():
                self._full_s = at_s - self._full_s
                ballast.unlink()
            if IS_GUEST and int(at_s) % 20 == 19:
                self._clock_set += 1
                jump_s = 3600 if self._clock_set % 2 else -7200
                time.clock_settime(time.CLOCK_REALTIME, time.time() + jump_s)
            if at_s - told_s >= 60:
                told_s = at_s
                note(f"{at_s:.0f} s: {self._resident[-1][0]} commands, {self._resident[-1][1]} KiB")

    @staticmethod
    def _fill(ballast: Path) -> None:
        with open(ballast, "ab", buffering=0) as file:
            try:
                while file.write(bytes(1 << 16)):
                    pass
            except OSError:
                return

    def _look(self) -> None:
        names = (self._disk / "done").stat().st_atime_ns
        status = Path(f"/proc/{self._pid}/status").read_text()
        if "VmRSS:" not in status:
            raise SoakError("the recorder ended in the middle")
        self._resident.append((names, int(status.partition("VmRSS:")[2].split()[0])))
        files = sorted((self._disk / "log").glob("*.jsonl*"))
        self._most_bytes = max(self._most_bytes, sum(_size(each) for each in files))
        for file in files:
            self._read(file)

    def _read(self, file: Path, is_last: bool = False) -> None:
        """Note what a closed file says, before it is removed."""
        name = file.name.partition(".")[0]
        if name in self._closed:
            return
        try:
            with gzip.open(file) if file.suffix == ".gz" else open(file, "rb") as lines:
                if not is_last and file.suffix != ".gz" and not _is_closed(file):
                    return
                records = [json.loads(line) for line in lines]
        except (OSError, EOFError, ValueError) as error:
            if is_last:
                self._torn.add(f"{name}: {error}")
            return
        summaries = [each["failures"] for each in records if each["type"] == "summary"]
        if summaries:
            told = sum(each["count"] for each in records if each["type"] == "failure")
            self._closed[name] = summaries[-1], told

    def result(self, status: int, ended: int, said: str) -> dict[str, Any]:
        """Return all numbers and what is wrong with them."""
        for file in sorted((self._disk / "log").glob("*.jsonl*")):
            self._read(file, is_last=True)
        made = (self._disk / "done").stat().st_mtime_ns
        counted = sum(by_summary for by_summary, _ in self._closed.values())
        in_records = sum(told for _, told in self._closed.values())
        warm = [kib for names, kib in self._resident if names <= FIRST]
        after = [kib for names, kib in self._resident if names > FIRST]
        dropped = said.rpartition("again; ")[2].partition(" records were dropped")[0]
        findings = []
        if status or ended:
            findings.append(f"the workload ended with {status}, the recorder with {ended}: {said}")
        if counted != made:
            findings.append(f"{counted} failures are in the files' totals, {made} were made")
        if in_records != made and not dropped.isdigit():
            findings.append(f"the records stand for {in_records} failures, and nobody said why")
        if self._torn:
            findings.append(f"files that cannot be read: {', '.join(sorted(self._torn))}")
        if self._most_bytes > MAX_SIZE:
            findings.append(f"the files took {self._most_bytes} bytes, of {MAX_SIZE}")
        if not after or max(after) - max(warm) > MOST_GROWTH_KIB:
            findings.append(f"memory was {max(warm)} KiB after {FIRST} commands, then {after[-1:]}")
        return {
            "kernel": platform.release(),
            "seconds": self._seconds,
            "commands": self._names,
            "made": made,
            "counted": counted,
            "in_records": in_records,
            "records_dropped": int(dropped) if dropped.isdigit() else 0,
            "files": len(self._closed),
            "most_bytes": self._most_bytes,
            "rss_kib": {"first": max(warm), "most": max(after, default=None)},
            "disk_full_s": round(self._full_s),
            "clock_set": self._clock_set,
            "findings": findings,
        }


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _is_closed(file: Path) -> bool:
    with open(file, "rb") as lines:
        lines.seek(0, os.SEEK_END)
        lines.seek(-min(lines.tell(), 1 << 20), os.SEEK_END)
        return b'\n{"type": "summary"' in lines.read()
