"""The C programs, libraries and BPF objects that tests and measurements build for themselves."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

ID = "0123456789abcdef0123456789abcdef01234567"
PROGRAMS = Path(__file__).resolve().parent / "live" / "programs"


def program(directory: Path, name: str) -> str:
    """Compile one of PROGRAMS into a directory, unless it is there; its path."""
    target = directory / name
    if not target.exists():
        subprocess.run(
            ["cc", "-O2", "-Wall", "-Werror", "-pthread", "-o", target, PROGRAMS / f"{name}.c"],
            check=True,
        )
    return str(target)


# Of what the numbers are read; the running kernel cannot be changed, so the expectation is.
STRUCTURES = ("pids_cgroup", "pid_namespace", "mm_struct")
MOVED_OBJECT = "moved.bpf.o"


def moved(directory: Path) -> Path:
    """Build the BPF object for a kernel without STRUCTURES; a minute under emulation, unless it is there."""
    target = directory / MOVED_OBJECT
    arch = {"x86_64": "x86", "aarch64": "arm64"}.get(os.uname().machine, "")
    if not target.exists():
        subprocess.run(
            [
                *("clang", "-target", "bpf", f"-D__TARGET_ARCH_{arch}", "-mcpu=v2", "-O2", "-g"),
                *(f"-D{structure}={structure}_of_no_kernel" for structure in STRUCTURES),
                *("-c", "bpf/fork_trace.bpf.c", "-o", str(target)),
            ],
            check=True,
            cwd=PROGRAMS.parents[2],
        )
    return target


def library(directory: Path, name: str, *options: str, source: str, build_id: str = ID) -> Path:
    """Build a shared library of this source, which has that build id; skips without a compiler."""
    compiler = shutil.which("cc")
    if not compiler:
        import pytest  # scripts/soak builds without it

        pytest.skip("needs a C compiler; install one (Debian: gcc) to run it")
    (directory / "source.c").write_text(source)
    built = directory / name
    subprocess.run(
        [
            *(compiler, "-shared", "-fPIC", "-O1", f"-Wl,--build-id=0x{build_id}", *options),
            *("-o", str(built), str(directory / "source.c")),
        ],
        check=True,
    )
    return built
