"""Builds a kernel module from one C file for one of the kernels, with the compiler and headers of its suite."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from . import cache, fetch
from .cache import VmError
from .kernels import Kernel


def text(source: Path) -> bytes:
    """Read the C file of a module."""
    try:
        return source.read_bytes()
    except OSError as error:
        raise VmError(f"cannot read {source}: {error.strerror}. Give a C file.") from error


def built(kernel: Kernel, root: Path, source: Path) -> Path:
    """Return the module, built on first use for that release and that source; it takes half a minute."""
    release = fetch.release(root)
    digest = hashlib.sha256(text(source)).hexdigest()[:16]
    module = cache.directory() / "modules" / release / digest / f"{source.stem}.ko"
    if module.is_file():
        return module
    with cache.locked(f"modules-{kernel.version}"):
        if not module.is_file():
            print(
                f"vm: building {source.name} for Linux {release} once", file=sys.stderr, flush=True
            )
            _build(kernel, release, source, module)
    return module


def _build(kernel: Kernel, release: str, source: Path, module: Path) -> None:
    work = cache.directory() / "apt" / f"module-{kernel.suite}"
    tree = fetch.build_tree(work, kernel, release)
    place = tree / "build"
    place.mkdir()
    shutil.copy(source, place / source.name)
    (place / "Kbuild").write_text(f"obj-m := {source.stem}.o\n")
    # objtool reads /proc; without the BTF of modules, which takes pahole, kprobes do as well.
    command = f"mount --rbind /proc {tree}/proc && exec chroot {tree} /usr/bin/make -s -C " + (
        f"/usr/src/linux-headers-{release} M=/build CONFIG_DEBUG_INFO_BTF_MODULES= modules"
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise VmError(f"cannot build {source.name} for Linux {release}:\n{done.stdout}")
    module.parent.mkdir(parents=True, exist_ok=True)
    (place / module.name).rename(module)
    shutil.rmtree(work, ignore_errors=True)
