"""Several watchers at once, each a `fork-trace capture` of its own, over one pass of rehearsals.

A pass costs minutes under emulation and a watcher seconds: what each attach mode says is judged
from the same failures. The watchers fork nothing, so none of them is in another's capture.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

START_TIMEOUT_S = (
    600  # bcc compiles first, and under emulation everything takes 10 to 30 times as long
)
PASS_TIMEOUT_S = 1500
_TESTS = Path(__file__).resolve().parents[2]
_FORK_TRACE = (sys.executable, "-m", "fork_trace")
_POLL_S = 0.1
_CATCH_UP_S, _QUIET_S = 120.0, 3.0

_BY_FEXIT = ("--backend", "libbpf", "--attach", "fexit")
# Not --attach kprobe: its header is to say why it is no better one.
_BY_KPROBE = ("--backend", "libbpf", "--without", "trampolines")
# Unwinding is most of what a failure costs under emulation, and the same whatever is attached.
_WITHOUT_STACKS = ("--stack-bytes", "0")
# What makes a kernel that has them all attach in this mode. "-all" watches every step from the
# start, and what never reaches copy_process.
WATCHERS: Mapping[str, Sequence[str]] = {
    "fexit": _BY_FEXIT,
    "fexit-all": (*_BY_FEXIT, "--all-steps", "--refused", *_WITHOUT_STACKS),
    "kprobe": (*_BY_KPROBE, *_WITHOUT_STACKS),
    "kprobe-all": (*_BY_KPROBE, "--all-steps", "--refused", *_WITHOUT_STACKS),
    "tracepoint": ("--attach", "tracepoint"),
    "bcc": ("--backend", "bcc", "--refused", *_WITHOUT_STACKS),
}
# The same without an address of any of the kernel's variables, as where CONFIG_KALLSYMS_ALL is not set.
WITHOUT_SYMBOLS: Mapping[str, Sequence[str]] = {
    f"{name}-without-symbols": (*WATCHERS[name], "--without", "kallsyms")
    for name in ("fexit", "kprobe", "tracepoint")
}


class Watched(NamedTuple):
    """What one watcher recorded and printed; `refused` is why it could not begin, or None."""

    records: list[dict[str, Any]]
    done: subprocess.CompletedProcess[str]
    refused: str | None = None


class _Watcher:
    """One `fork-trace capture`, whose streams and records are files."""

    def __init__(self, place: Path, name: str, options: Sequence[str]) -> None:
        self.watches = False
        self._file = place / f"{name}.jsonl"
        self._file.unlink(missing_ok=True)
        self._out, self._err = place / f"{name}.out", place / f"{name}.err"
        self._argv = [*_FORK_TRACE, "capture", "--output", str(self._file), *options]
        with open(self._out, "wb") as out, open(self._err, "wb") as err:
            self._process = subprocess.Popen(
                self._argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )

    def wait(self) -> None:
        """Wait until it watches, or has ended instead."""
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not self.watches and time.monotonic() < deadline_s:
            has_ended = self._process.poll() is not None
            self.watches = "Watching" in self._said()
            if has_ended:
                return
            time.sleep(_POLL_S)

    def _said(self) -> str:
        return self._err.read_text(errors="replace")

    def written(self) -> int | None:
        """Return how much it has written; None: it writes no more."""
        if self._process.poll() is not None:
            return None
        return self._file.stat().st_size if self._file.exists() else 0

    def stop(self) -> None:
        """Tell it to end, if it still runs."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def end(self) -> Watched:
        """Wait for its end and read what it has."""
        try:
            self._process.wait(START_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        done = subprocess.CompletedProcess(
            self._argv, self._process.returncode, self._out.read_text(), self._said()
        )
        refused = None if self.watches else done.stderr.strip() or f"exit {done.returncode}"
        return Watched(read_lines(self._file), done, refused)


def refusal(name: str, watched: Watched) -> str | None:
    """Say why one of WATCHERS does not show its attach mode; None: it does."""
    if watched.refused is not None or not watched.records:
        return watched.refused
    wanted = "kprobe" if name == "bcc" else name.partition("-")[0]
    taken = watched.records[0]["attach"]
    # Left to itself the tool takes what is next.
    return None if taken == wanted else f"this kernel takes {taken} in place of {wanted}"


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Read JSON Lines; a last line without an end is of a process that was killed."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines(True) if line.endswith("\n")]


def _catch_up(watchers: Sequence[_Watcher]) -> None:
    """Wait until all have written what they saw: once they are told to end they look up few names more."""
    deadline_s = time.monotonic() + _CATCH_UP_S
    written: list[int | None] = []
    while time.monotonic() < deadline_s:
        known, written = written, [watcher.written() for watcher in watchers]
        if known == written:
            return
        time.sleep(_QUIET_S)


@contextmanager
def watching(
    place: Path, watchers: Mapping[str, Sequence[str]]
) -> Iterator[dict[str, Watched | None]]:
    """Watch with all of them while the block runs; what each saw is in the dictionary afterwards.

    A watcher that cannot begin does not keep the others from it; its files are left in `place`.
    """
    running: list[tuple[str, _Watcher]] = []
    seen: dict[str, Watched | None] = dict.fromkeys(watchers)
    try:
        # One after the other: together they would not be quicker, and each needs room for itself.
        for name, options in watchers.items():
            running.append((name, _Watcher(place, name, options)))
            running[-1][1].wait()
        yield seen
        _catch_up([watcher for _, watcher in running])
    finally:
        for _, watcher in running:
            watcher.stop()
        for name, watcher in running:
            seen[name] = watcher.end()


def rehearse(
    file: Path, scenarios: Sequence[str], host_wide: bool
) -> tuple[dict[str, dict[str, Any]], str]:
    """Make these rehearsals once, COUNT times each; returns what they said, and what went wrong."""
    command = [sys.executable, "-m", "accuracy.making", str(file)]
    command += [*(["--host-wide"] if host_wide else []), *scenarios]
    environment = {**os.environ, "PYTHONPATH": f"{_TESTS}/tools:{_TESTS}"}
    trouble = ""
    try:
        done = subprocess.run(command, env=environment, timeout=PASS_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        trouble = f"the rehearsals took more than {PASS_TIMEOUT_S} s"
    else:
        if done.returncode:
            trouble = f"the rehearsals ended with {done.returncode}"
    return {each["scenario"]: each for each in read_lines(file)}, trouble
