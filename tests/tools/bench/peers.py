"""Other tracers, as far as they are at hand: what starts them, and how their output tells failed forks.

Each is asked for the same five functions, or for the fork calls alone where it knows system calls
only, and once for what it watches by itself.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from vm import cache, debian

from bench.tracer import Config

# Debian's newest stand in a root of their own.
SUITE = "unstable"
PACKAGES = ("bpftrace", "linux-perf")
# What to install for which command; scripts/setup --peers does, but for the last.
SOURCES = {
    "bpftrace": "apt install bpftrace",
    "trace-bpfcc": "apt install bpfcc-tools",
    "perf": "apt install linux-perf",
    "strace": "apt install strace",
    "retsnoop": "not in Debian, see https://github.com/anakryiko/retsnoop",
}
_VERSION = {
    "bpftrace": ("bpftrace", "--version"),
    # It has no option for that.
    "trace-bpfcc": ("/usr/bin/python3", "-c", "import bcc; print(bcc.__version__)"),
    "perf": ("perf", "--version"),
    "strace": ("strace", "-V"),
    "retsnoop": ("retsnoop", "--version"),
}
CALLS = ("fork", "vfork", "clone", "clone3")
# The four that are always watched, and the pids cgroup. True: it returns a pointer, which carries
# its error as its value; an int leaves the upper half of the register undefined.
FUNCTIONS = {
    "copy_process": True,
    "dup_fd": True,
    "alloc_pid": True,
    "cgroup_can_fork": False,
    "__vm_enough_memory": False,
}
# Debian's newest perf knows no names of errnos.
_REFUSED = r"(fork|clone3?)\(.*= -1 (EAGAIN|\(unknown\) \(Resource temporarily)"
_BY_CALLS = r"sys_exit_\w+ +(\d+ loops +)?-\d+$"


class Place(NamedTuple):
    """Where peers are: this system, or a root; `work` is what they may read and write there."""

    root: Path | None
    work: Path

    def command(self, *argv: str) -> tuple[str, ...]:
        """Return what becomes that program by the same process."""
        if self.root is None:
            return argv
        return tuple(debian.entered(self.root, self.work, str(self.work), *argv))

    def has(self, program: str) -> bool:
        """Say whether that program is there."""
        if self.root is None:
            return shutil.which(program) is not None
        return any(
            os.access(self.root / "usr" / each / program, os.X_OK) for each in ("bin", "sbin")
        )

    def says(self, *argv: str) -> str:
        """Return what a program prints; nothing, if it cannot be started."""
        with suppress(OSError):
            return subprocess.run(
                self.command(*argv), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            ).stdout
        return ""


class Peer(NamedTuple):
    """A way to start a peer; `program` is what has to be there."""

    program: str
    config: Config


class Found(NamedTuple):
    """What can be measured, of which version, and what the others would take."""

    configs: dict[str, Config]
    versions: dict[str, str]
    missing: list[str]


def newest() -> Path:
    """Return the root with Debian's newest, made on first use."""
    with cache.locked("peers"):
        place = cache.directory() / "peers" / SUITE
        return debian.kept(
            place, " ".join(PACKAGES), lambda root: debian.make(SUITE, PACKAGES, root)
        )


def by_calls(loops: str) -> tuple[str, ...]:
    """Return the command of bpftrace on the exits of the fork calls; loops is started when all is attached."""
    probes = ",".join(f"tracepoint:syscalls:sys_exit_{call}" for call in CALLS)
    program = (
        f'{probes} /args->ret < 0/ {{ printf("%s %d %s %d\\n", probe, pid, comm, args->ret); }}'
    )
    return ("bpftrace", "-q", "-c", f"{loops} hold", "-e", program)


def find(functions: Sequence[str], loops: Path, output: Path, root: Path | None = None) -> Found:
    """Return the peers that are here, watching those of FUNCTIONS that are among these, and Debian's newest in a root."""
    watched = [name for name in functions if name in FUNCTIONS]
    here = Place(None, loops.parent)
    places = {"": here, **({"newest ": Place(root, loops.parent)} if root else {})}
    found = Found({}, {}, [])
    for which, place in places.items():
        peers = _bpftraces(place, watched, loops) | _perfs(place, output)
        if place.root is None:
            peers |= _bcc(watched) | _retsnoop(watched) | _strace(output)
        programs = {peer.program for peer in peers.values()}
        versions = {each: _version(place, each) for each in programs if place.has(each)}
        found.missing.extend(f"{which}{each}" for each in sorted(programs - versions.keys()))
        for name, peer in peers.items():
            if peer.program in versions:
                found.configs[which + name] = peer.config
                found.versions[which + name] = versions[peer.program]
        if place.has("perf") and f"perf {SUMMARY}" not in peers:
            found.missing.append(f"{which}perf {SUMMARY}")
    return found


def told(missing: Sequence[str]) -> str:
    """Say what has to be installed for those that are missing."""
    return "; ".join(f"{each} ({_remedy(each)})" for each in missing)


def _remedy(missing: str) -> str:
    if missing.endswith(SUMMARY):
        return "a perf since 6.16 that was built with BPF skeletons"
    if missing.startswith("newest "):
        return f"not in the root of Debian {SUITE}"
    return SOURCES[missing]


def _version(place: Place, program: str) -> str:
    match = re.search(r"\d+(\.\d+)+", place.says(*_VERSION[program]))
    return match[0] if match else ""


def _bpftraces(place: Place, functions: Sequence[str], loops: Path) -> dict[str, Peer]:
    def peer(argv: Sequence[str], report: str) -> Peer:
        return Peer("bpftrace", Config(place.command(*argv), r"^armed", report, optional=True))

    return {
        **{
            f"bpftrace {kind}": peer(
                _bpftrace(kind, functions, loops), r"copy_process \d+ loops -\d+$"
            )
            for kind in ("kretfunc", "kretprobe")
        },
        "bpftrace calls": peer(by_calls(str(loops)), _BY_CALLS),
    }


def _bpftrace(kind: str, functions: Sequence[str], loops: Path) -> tuple[str, ...]:
    # No program may do arithmetic on a pointer.
    pointer = ("(uint64)retval > 0xfffffffffffff000", "(int64)retval")
    number = ("(int32)retval < 0", "(int32)retval")
    # One block each: bpftrace refuses several functions whose arguments differ.
    blocks = [
        f'{kind}:{name} /{test}/ {{ printf("%s %d %s %lld\\n", probe, pid, comm, {value}); }}'
        for name in functions
        for test, value in [pointer if FUNCTIONS[name] else number]
    ]
    # Its command is started when all is attached.
    return ("bpftrace", "-q", "-c", f"{loops} hold", "-e", "\n".join(blocks))


def _bcc(functions: Sequence[str]) -> dict[str, Peer]:
    returns = [
        f"r::{name} "
        + ("(retval > 0xfffffffffffff000)" if FUNCTIONS[name] else "((int)retval < 0)")
        + ' "%d", retval'
        for name in functions
    ]
    exits = [f't:syscalls:sys_exit_{call} (args->ret < 0) "%d", args->ret' for call in CALLS]

    def peer(probes: Sequence[str], report: str, shows: Callable[[int], bool]) -> Peer:
        argv = ("trace-bpfcc", *probes)
        # What it has not written yet goes with SIGTERM.
        return Peer(
            "trace-bpfcc",
            Config(argv, "", report, shows=shows, ends_by=signal.SIGINT, optional=True),
        )

    return {
        "bcc trace": peer(
            returns, r"loops +copy_process +-\d+$", lambda _pid: _has_kprobes(functions)
        ),
        # One each, and the buffer of the one processor.
        "bcc trace calls": peer(
            exits, r"loops +sys_exit_\w+ +-\d+$", lambda pid: _has_events(pid, len(CALLS) + 1)
        ),
    }


def _has_kprobes(functions: Sequence[str]) -> bool:
    # "ffffffff810a1d30  r  copy_process+0x0    [FTRACE]"
    listed = Path("/sys/kernel/debug/kprobes/list").read_text()
    return all(f"  {name}+0x0 " in listed for name in functions)


def _has_events(pid: int, number: int = 1, kind: str = "perf_event") -> bool:
    found = 0
    with suppress(FileNotFoundError):  # it has just ended
        for each in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # it opens and closes others meanwhile
                found += kind in os.readlink(each)
    return found >= number


SUMMARY = "trace --bpf-summary"


def _perfs(place: Place, output: Path) -> dict[str, Peer]:
    def peer(
        *options: str, share: float = 1, report: str = _REFUSED, kind: str = "perf_event"
    ) -> Peer:
        argv = place.command("perf", "trace", "-a", "-o", str(output), *options)
        return Peer(
            "perf",
            Config(
                argv,
                "",
                report,
                share=share,
                shows=lambda pid: _has_events(pid, kind=kind),
                ends_by=signal.SIGINT,
                optional=True,
            ),
        )

    peers = {
        "perf trace calls": peer("--failure", "-e", ",".join(CALLS)),
        # Every system call that fails.
        "perf trace --failure": peer("--failure", share=0.05),
    }
    # Without them it takes the option, and ends without a word.
    if re.search(r"bpf_skeletons: \[ on", place.says("perf", "version", "--build-options")):
        # It counts in the kernel, and shows the sums at its end.
        peers[f"perf {SUMMARY}"] = peer("-s", "--bpf-summary", report="", kind="bpf")
    return peers


def _retsnoop(functions: Sequence[str]) -> dict[str, Peer]:
    watched = ["-sn", "-e", "copy_process"]
    watched += [word for name in functions if name != "copy_process" for word in ("-a", name)]

    def peer(*options: str) -> Peer:
        argv = ("retsnoop", *options, *watched)
        found = r"\[-E\w+\] +copy_process"
        return Peer(
            "retsnoop",
            Config(argv, "", found, shows=_receives, ends_by=signal.SIGINT, optional=True),
        )

    return {"retsnoop -F": peer("-F"), "retsnoop": peer()}


def _receives(pid: int) -> bool:
    with suppress(FileNotFoundError):  # it has just ended
        return "Receiving data" in Path(f"/proc/{pid}/fd/1").read_text(errors="replace")
    return False


def _strace(output: Path) -> dict[str, Peer]:
    def peer(*options: str, share: float) -> Peer:
        argv = ("strace", "-f", "-A", "-o", str(output), *options)
        return Peer("strace", Config(argv, "", _REFUSED, True, share, optional=True))

    return {
        "strace calls": peer("--seccomp-bpf", "-Z", "-e", f"trace={','.join(CALLS)}", share=0.1),
        "strace -f": peer(share=0.02),
    }
