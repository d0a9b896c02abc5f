"""The C programs and libraries that tests and measurements build for themselves."""

from __future__ import annotations

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
