"""Files that callers placed to make the tool act, hang or hold on to them; and containers' own.

Runs natively too, in the lowest attach mode. Two starts of the tool see all of it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from building import PROGRAMS

from fork_trace.host import procfs
from fork_trace.stacks import cpython, peek

from .conftest import FORK_TRACE, IS_GUEST, TIMEOUT_S, Captured, functions, read_capture

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="builds programs for x86-64"),
]

UID = 61003  # as in stranger.c and called.c: others may be refused as well meanwhile
OPTIONS = ("--attach", "tracepoint", "--uid", str(UID))
NAMED = ["run_job", "middle_job", "outer_job", "main"]
LAYERS = ("c-lower", "c-upper")
WATCHDOG = (10, 130)
WATCHDOG_STATE = Path("/sys/class/watchdog/watchdog0/state")
# As in stranger.c; behind what a reader of ELF files looks at first.
CODE = b"\x48\x83\xec\x08\xff\xd7\x48\x83\xc4\x08\xc3"
OFFSET = 1 << 19
PATIENCE_S = 10.0 * (20 if IS_GUEST else 1)


def run(*argv: object, **how: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, argv)), check=True, capture_output=True, text=True, **how)


def build_static(target: Path, source: str, *options: str) -> Path:
    run("cc", "-O2", "-static", "-fomit-frame-pointer", "-Wall", "-Werror", "-pthread",
        *options, "-o", target, PROGRAMS / f"{source}.c")  # fmt: skip
    return target


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_static(tmp_path_factory.mktemp("stranger") / "stranger", "stranger")


@pytest.fixture(scope="module")
def watchdog() -> bool:
    """Say whether there is one, that does nobody any harm if it is started."""
    done = subprocess.run(["modprobe", "softdog", "soft_noboot=1"], capture_output=True)
    return IS_GUEST and done.returncode == 0 and WATCHDOG_STATE.exists()


def container(place: Path) -> str:
    """A script that calls from a root of its own: an overlay in a mount namespace of its own."""
    for name in ("lower", "upper", "work", "merged"):
        (place / name).mkdir()
    for number, (name, layer) in enumerate(zip(LAYERS, ("lower", "upper"))):
        # Of a build id of its own: nothing that is known of the other one shall be found for it.
        build_static(place / layer / name, "called", f"-Wl,--build-id=0x{number:040x}")
    shutil.copy("/bin/busybox", place / "lower/busybox")
    (place / "lower/old").mkdir()
    # Time and again, so that it is still there when it is looked at, slow as that is under strace.
    calls = "; ".join(f"/{name} popen 5" for name in LAYERS)
    inner = f"/busybox umount -l /old; {calls}"
    options = f"lowerdir={place}/lower,upperdir={place}/upper,workdir={place}/work"
    return (
        f"unshare -m sh -c 'mount -t overlay overlay -o {options} {place}/merged && "
        f'cd {place}/merged && pivot_root . old && exec ./busybox sh -c "{inner}"\''
    )


@dataclass
class Attacked:
    """One capture around all that a caller can place, and what the tool opened meanwhile."""

    captured: Captured
    opened: list[str]  # each line of strace of an open that was no O_PATH one
    traps: list[Path]


@pytest.fixture(scope="module")
def attacked(
    any_host: dict[str, Any],
    stranger: Path,
    watchdog: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> Attacked:
    if not shutil.which("strace"):
        pytest.skip("needs strace; install it (Debian: strace) to run this")
    place = tmp_path_factory.mktemp("attacked")
    for directory in (place.parent, place):
        directory.chmod(0o755)
    root = place / "root"
    (root / "tmp").mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    os.mkfifo(place / "fifo")
    lines = [container(place), f"{stranger} perf {root} 0 0"]
    lines += [
        f"{stranger} deleted {place}/F {place}/fifo",
        f"{stranger} deleted {place}/T /dev/tty",
    ]
    if watchdog:
        lines.append(f"{stranger} perf {root} {WATCHDOG[0]} {WATCHDOG[1]}")
        lines.append(f"{stranger} deleted {place}/W /dev/watchdog")
    (place / "run.sh").write_text("\n".join([*lines, "true"]))
    file, trace = place / "c.jsonl", place / "trace"
    done = subprocess.run(
        [
            *("strace", "-yy", "-s", "256", "-e", "trace=open,openat,openat2", "-o", str(trace)),
            *(*FORK_TRACE, "capture", "--output", str(file), *OPTIONS),
            *("--", "sh", str(place / "run.sh")),
        ],
        capture_output=True,
        text=True,
        timeout=2 * TIMEOUT_S,
    )
    assert done.returncode == 1, done.stderr
    lines = trace.read_text().splitlines()
    traps = [*root.glob("tmp/perf-*.map"), place / "fifo", Path("/dev/watchdog"), Path("/dev/tty")]
    opened = [line for line in lines if "O_PATH" not in line and "= -1" not in line]
    return Attacked(read_capture(file, done), opened, traps)


@pytest.mark.parametrize("name", LAYERS)
def test_callers_in_a_container_on_overlayfs_are_named(attacked: Attacked, name: str) -> None:
    failures = attacked.captured.of(name)

    assert failures, attacked.captured.done.stderr + attacked.captured.done.stdout
    # One of them: strace can slow us down so much that a caller is gone before it is looked at.
    named = [each for each in failures if each["caller"] == "popen <- run_job"]
    assert named, failures
    assert NAMED == [each for each in functions(named[0]) if each in NAMED]
    assert {f"/{name}"} == {
        frame["file"] for frame in named[0]["stack"] if frame["symbol"] in NAMED
    }


def test_nothing_but_regular_files_is_opened(attacked: Attacked) -> None:
    results = [re.search(r"= \d+<(.*)>$", line) for line in attacked.opened]
    paths = {match[1] for match in results if match}
    # The kernel's own are no stranger's.
    of_others = {path for path in paths if not path.startswith(("/proc/", "/sys/", "anon_inode:"))}
    kinds = {
        path: stat.S_IFMT(os.lstat(path).st_mode) for path in of_others if os.path.lexists(path)
    }

    assert any(path.endswith("/stranger") for path in paths)
    assert {} == {
        path: kind for path, kind in kinds.items() if kind not in (stat.S_IFREG, stat.S_IFDIR)
    }
    assert set() == {path for path in paths if "<char" in path and not path.startswith("/dev/null")}
    assert set() == paths & set(map(str, attacked.traps))


def test_the_traps_were_in_the_way(attacked: Attacked) -> None:
    assert 2 + 3 <= len(attacked.traps) + 1
    assert all(stat.S_IFMT(os.lstat(trap).st_mode) != stat.S_IFREG for trap in attacked.traps[:-2])
    failures = attacked.captured.of("stranger")
    assert failures
    # Up to the code that lies in the trap each was followed.
    assert all("refuse" in functions(failure) for failure in failures)
    assert any(frame["symbol"] is None for failure in failures for frame in failure["stack"])


def test_the_timer_of_a_watchdog_is_not_started(attacked: Attacked, watchdog: bool) -> None:
    if not watchdog:
        pytest.skip("this kernel has no softdog, or it is not a guest's; run it by scripts/vm")

    assert "inactive" == WATCHDOG_STATE.read_text().strip()


@contextmanager
def mounted(*argv: object, at: Path) -> Iterator[Path]:
    at.mkdir(exist_ok=True)
    run("mount", *argv, at)
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", at], capture_output=True)


@contextmanager
def served(place: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A FUSE file system with one file; and who answers for it."""
    subprocess.run(["modprobe", "fuse"], capture_output=True)
    place.mkdir()
    (place / "mount").mkdir()
    (place / "data").write_bytes((bytes(OFFSET) + CODE).ljust(2 * OFFSET, b"\0"))
    server = subprocess.Popen(
        [sys.executable, PROGRAMS / "fuse_server.py", place / "mount", place / "data"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None and server.stderr is not None
    try:
        if server.stdout.readline() != "serving\n":
            pytest.skip(f"no FUSE here: {server.stderr.read().strip()}")
        yield place / "mount", server
    finally:
        # Whoever waits for it is let go as its descriptor is closed.
        server.kill()
        server.communicate()
        subprocess.run(["umount", "-l", place / "mount"], capture_output=True)


def waiting(stranger: Path, file: Path, offset: int = OFFSET) -> subprocess.Popen[str]:
    """A caller that has mapped a file and asks for its fork when it is told to."""
    process = subprocess.Popen(
        [stranger, "mapped", file, str(offset)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def refused(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "3\n"


@dataclass
class Endured:
    """One capture while file systems break, hang and are unmounted."""

    captured: Captured
    ending_s: float
    unmounting_s: float


@pytest.fixture(scope="module")
def endured(
    any_host: dict[str, Any], stranger: Path, tmp_path_factory: pytest.TempPathFactory
) -> Endured:
    place = tmp_path_factory.mktemp("endured")
    file = place / "c.jsonl"
    with ExitStack() as stack:
        broken, breaking = stack.enter_context(served(place / "broken"))
        dead, dying = stack.enter_context(served(place / "dead"))
        layered = stack.enter_context(
            mounted(
                *("-t", "overlay", "overlay", "-o"),
                f"lowerdir={broken}:{place}",
                at=place / "layered",
            )
        )
        own = stack.enter_context(mounted("-t", "tmpfs", "own", at=place / "own"))
        shutil.copy(stranger, own / "own")
        (own / "f").write_bytes(CODE.ljust(8192, b"\0"))
        for name in ("broken", "dead"):
            shutil.copy(stranger, place / name / name)
        # Both are mapped before anything is wrong with them.
        on_broken = waiting(place / "broken/broken", layered / "f")
        on_dead = waiting(place / "dead/dead", dead / "f")
        on_own = waiting(own / "own", own / "f", 0)
        tool = subprocess.Popen(
            [*FORK_TRACE, "capture", "--output", str(file), *OPTIONS],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        stack.callback(tool.kill)
        assert tool.stderr is not None
        assert tool.stderr.readline().startswith("Watching")
        breaking.send_signal(signal.SIGUSR1)
        dying.send_signal(signal.SIGSTOP)
        refused(on_own)
        refused(on_broken)
        refused(on_dead)
        on_own.wait(timeout=TIMEOUT_S)
        began_s = time.monotonic()
        while subprocess.run(["umount", own], capture_output=True).returncode:
            assert time.monotonic() - began_s < PATIENCE_S, "it stays busy"
            time.sleep(0.1)
        unmounting_s = time.monotonic() - began_s
        began_s = time.monotonic()
        tool.send_signal(signal.SIGINT)
        text, errors = tool.communicate(timeout=TIMEOUT_S)
        ending_s = time.monotonic() - began_s
        for process in (on_broken, on_dead):
            process.kill()
            process.communicate()
    assert tool.returncode == 1, errors
    done = subprocess.CompletedProcess([], tool.returncode, text, errors)
    return Endured(read_capture(file, done), ending_s, unmounting_s)


@pytest.mark.parametrize("comm", ["own", "broken", "dead"])
def test_whatever_becomes_of_its_files_a_caller_is_counted_and_named(
    endured: Endured, comm: str
) -> None:
    assert 3 == endured.captured.count(comm)
    for failure in endured.captured.of(comm):
        assert ["_Fork", "refuse"] == [
            name for name in functions(failure) if name in ("_Fork", "refuse")
        ]


def test_a_frame_on_a_file_system_that_may_not_answer_says_so(endured: Endured) -> None:
    notes = {
        (frame["file"], frame["symbol"], frame["note"])
        for failure in endured.captured.of("dead")
        for frame in failure["stack"]
        if frame["file"].endswith("/f")
    }

    assert {"not read: its file system, fuse, may never answer"} == {note for *_, note in notes}
    assert {None} == {symbol for _, symbol, _ in notes}


def test_memory_that_a_dead_server_answers_for_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that was the process' own until a moment ago, and then became one of such a file."""
    with (
        served(tmp_path / "dead") as (dead, server),
        open(dead / "f", "rb") as file,
        mmap.mmap(file.fileno(), 4096, flags=mmap.MAP_PRIVATE) as mapped,
    ):
        address = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
        monkeypatch.setattr(procfs, "own_memory", lambda *_: [(address, address + 4096)])
        peeker = peek.Peeker(answer_s=0.3)
        server.send_signal(signal.SIGSTOP)
        asked = {"pid": os.getpid(), "tid": 1, "device": "00:00", "inode": 0}
        asked.update(runtime=address, words=[])
        began_s = time.monotonic()
        whys = [peeker.ask(asked).why for _ in range(4)]
        took_s = time.monotonic() - began_s
        server.send_signal(signal.SIGCONT)
        peeker.close()

    assert whys[:2] == 2 * [cpython.GONE]
    assert {*whys[2:]} <= {cpython.GONE, peek.STUCK}
    assert took_s < 3


def test_the_end_waits_for_no_file_system(endured: Endured) -> None:
    assert endured.ending_s < (1.0 if not IS_GUEST else 20.0)


def test_a_file_system_can_be_unmounted_soon_after_its_caller_has_ended(endured: Endured) -> None:
    assert endured.unmounting_s < (5.0 if not IS_GUEST else 20.0)
