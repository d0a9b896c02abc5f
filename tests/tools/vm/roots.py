"""What a guest of another architecture than the machine's needs: a root of its own, and the BPF objects for it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from . import cache, fetch
from .cache import VmError
from .kernels import AMD64, Kernel

# Nothing is set up in there, so what other packages take for granted is named too.
_BASE = "base-files,base-passwd,bash,dash,coreutils,sed,grep,mawk,findutils,diffutils,tar,gzip"
_BASE += (
    ",util-linux,mount,login,passwd,hostname,ncurses-base,libc-bin,procps,kmod,git,ca-certificates"
)
_TOOL = "python3,python3-click,python3-tabulate,python3-jinja2,python3-prometheus-client,libbpf1"
_TESTS = "python3-pytest,python3-hypothesis,python3-fastjsonschema,python3-jsonschema,strace"
_TESTS += ",gcc,g++,binutils,libc6-dev,musl-tools,busybox-static"
# What a package's script would make, as far as anybody here asks for it.
_LINKS = {"cc": "gcc", "c++": "g++"}
_COPIES = {"passwd.master": "passwd", "group.master": "group"}


def is_own(kernel: Kernel) -> bool:
    """Say whether the guest shows the machine's own root."""
    return kernel.architecture == AMD64


def tree(kernel: Kernel) -> Path | None:
    """Return the root of a kernel's architecture, made on first use: 520 MB, a minute or two. None: the machine's own."""
    if is_own(kernel):
        return None
    name = f"{kernel.architecture.name}-{kernel.userland}"
    place = cache.directory() / "roots" / name
    with cache.locked(f"root-{name}"):
        if not place.is_dir():
            print(
                f"vm: making a root of Debian {kernel.userland} for {kernel.architecture.name} once",
                file=sys.stderr,
                flush=True,
            )
            work = cache.directory() / "apt" / f"root-{name}"
            packages = ",".join((_BASE, _TOOL, _TESTS))
            made = fetch.extracted(work, kernel.userland, kernel.architecture, packages)
            for link, target in _LINKS.items():
                (made / "usr/bin" / link).symlink_to(target)
            for source, target in _COPIES.items():
                shutil.copy(made / "usr/share/base-passwd" / source, made / "etc" / target)
            place.parent.mkdir(exist_ok=True)
            made.rename(place)
            shutil.rmtree(work, ignore_errors=True)
    return place


def busybox(kernel: Kernel) -> Path:
    """Return the first program of the guest."""
    root = tree(kernel)
    found = str(root / "bin/busybox") if root else shutil.which("busybox")
    if found is None:
        raise VmError("busybox is missing. Run scripts/setup --vm.")
    return Path(found)


def objects(kernel: Kernel, checkout: Path) -> Path | None:
    """Return where the BPF objects of the checkout are for that architecture, compiled on first use. None: in the checkout."""
    if is_own(kernel):
        return None
    machine = kernel.architecture.machine
    digest = hashlib.sha256((checkout / "scripts/build-bpf").read_bytes())
    for path in sorted((checkout / "bpf").rglob("*")):
        if path.suffix in (".c", ".h", ".def"):
            digest.update(path.read_bytes())
    place = cache.directory() / "objects" / f"{machine}-{digest.hexdigest()[:16]}"
    with cache.locked(f"objects-{machine}"):
        if not place.is_dir():
            place.parent.mkdir(exist_ok=True)
            with tempfile.TemporaryDirectory(dir=place.parent) as partial:
                built = Path(partial, "built")
                built.mkdir()
                _build(checkout, machine, built)
                built.rename(place)
    return place


def _build(checkout: Path, machine: str, directory: Path) -> None:
    done = subprocess.run(
        [str(checkout / "scripts/build-bpf"), str(directory)],
        env={**os.environ, "FORK_TRACE_ARCH": machine},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise VmError(f"cannot compile the BPF programs for {machine}:\n{done.stdout}")
