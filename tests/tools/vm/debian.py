"""Roots of Debian's suites for programs of this machine's architecture: made, kept in the cache, and entered."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from . import fetch
from .cache import VmError

# For this one process, so that nothing is left to be unmounted.
_ENTER = (
    'set -e; mount --bind "$0" "$0"; '
    'for each in proc sys dev; do mount --rbind "/$each" "$0/$each"; done; '
    'mount -t tmpfs tmpfs "$0/tmp"; mkdir -p "$0$2"; mount --bind "$1" "$0$2"; shift 2; '
    # A root as /proc/self/mountinfo tells it, which chroot alone does not make.
    'cd "$0"; pivot_root . .; umount -l .; cd /; exec "$@"'
)

# By which a root is entered.
_NEEDED = ("mount",)


def run(command: Sequence[str], what: str) -> str:
    """Run one program of the preparations; what it prints, or VmError."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except FileNotFoundError as error:
        raise VmError(f"{command[0]} is missing. Run scripts/setup --vm.") from error
    if done.returncode:
        raise VmError(f"cannot {what}: {(done.stdout.strip().splitlines() or ['no word'])[-1]}")
    return done.stdout


def entered(root: Path, shown: Path, at: str, *argv: str) -> list[str]:
    """The command that becomes another in that root, where the directory `shown` is seen at a path."""
    mounts = ("unshare", "--mount", "--propagation", "private", "sh", "-c", _ENTER)
    return [*mounts, str(root), str(shown), at, *argv]


def make(suite: str, packages: Sequence[str], root: Path) -> None:
    """Make a root of a suite with these packages, from the machine's own archive."""
    shutil.rmtree(root, ignore_errors=True)
    root.parent.mkdir(parents=True, exist_ok=True)
    text, suffix = fetch.sources(Path("/etc/apt"), fetch.codename(), suite)
    with tempfile.TemporaryDirectory(prefix="fork-trace-root-") as directory:
        sources = Path(directory, f"{suite}{suffix}")
        sources.write_text(text)
        run(
            [
                *("mmdebstrap", "--mode=root", "--variant=apt", "--quiet"),
                *("--dpkgopt=force-unsafe-io", '--aptopt=Acquire::Retries "5"'),
                # A mirror that stands still is good enough: its signature is looked at all the same.
                '--aptopt=Acquire::Check-Valid-Until "false"',
                f"--include={','.join(sorted({*packages, *_NEEDED}))}",
                *(suite, str(root), str(sources)),
            ],
            f"make a root of Debian {suite}",
        )


def kept(place: Path, wanted: str, prepare: Callable[[Path], None]) -> Path:
    """Return the root that is kept there, prepared aside if it is missing or was made for something else."""
    made_for = place / "made-for"
    if not made_for.is_file() or made_for.read_text() != wanted:
        made = place.with_suffix(".new")
        prepare(made)
        (made / "made-for").write_text(wanted)
        shutil.rmtree(place, ignore_errors=True)
        made.rename(place)
    return place
