"""Fetches and builds them once: the selftests from Debian's source of that kernel, stress-ng as Debian has it.

Nothing of it is in the repository; what was built is kept in the cache of scripts/vm.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from vm import cache, fetch
from vm.cache import VmError
from vm.kernels import KERNELS, Kernel

# Of tools/testing/selftests; a kernel that does not have one yet goes without. Not pidfd_info_test, which
# dumps core and waits for it: under strace it never ends.
SELFTESTS = (
    *("clone3/clone3", "clone3/clone3_clear_sighand", "clone3/clone3_set_tid"),
    *("pidfd/pidfd_test", "pidfd/pidfd_fdinfo_test", "pidfd/pidfd_open_test"),
    *("pidfd/pidfd_poll_test", "pidfd/pidfd_wait", "pidfd/pidfd_getfd_test"),
    *("pidfd/pidfd_setns_test", "pidfd/pidfd_autoreap_test"),
    *("pid_namespace/regression_enomem", "pid_namespace/pid_max"),
    *("pid_namespace/pidns_init_via_setns", "rlimits/rlimits-per-userns"),
    *("cgroup/test_core", "cgroup/test_pids", "cgroup/test_kill"),
)
_TESTS = "tools/testing/selftests"
_WANTED = (_TESTS, "include/uapi", "tools/include")
# The headers of the source are not those that `make headers` would write: what it takes out is defined away.
_FLAGS = (
    *(
        "-O1",
        "-w",
        "-pthread",
        "-D_GNU_SOURCE",
        "-D__EXPORTED_HEADERS__",
        "-D__user=",
        "-D__force=",
    ),
    *("-Ishim", "-Iinclude/uapi", "-Itools/include", f"-I{_TESTS}", f"-I{_TESTS}/cgroup"),
    *(f"-I{_TESTS}/cgroup/lib/include", f"-I{_TESTS}/pidfd"),
)
_HOST_SUITE = next(kernel.suite for kernel in KERNELS if kernel.version == "6.1")


def selftests(kernel: Kernel) -> Path:
    """Return the directory of that kernel's selftests, built on first use."""
    place = cache.directory() / "suites" / f"selftests-{kernel.version}"
    with cache.locked(f"suites-{kernel.version}"):
        if not place.is_dir():
            print(f"suites: building the selftests of Linux {kernel.version} once", file=sys.stderr)
            _build(kernel, place)
    return place


def stress_ng() -> Path:
    """Return where stress-ng and the libraries it needs are unpacked, fetched on first use."""
    place = cache.directory() / "suites" / "stress-ng"
    with cache.locked("suites-stress-ng"):
        if not place.is_dir():
            print("suites: fetching stress-ng once", file=sys.stderr)
            work = cache.directory() / "apt" / "stress-ng"
            apt = fetch._private_apt(work, _HOST_SUITE)
            fetch._run(["apt-get", *apt, "-q", "update"], work)
            names = _closure("stress-ng", apt)
            fetch._run(["apt-get", *apt, "-q", "download", *names], work)
            unpacked = _emptied(work / "unpacked")
            for package in sorted(work.glob("*.deb")):
                fetch._run(["dpkg-deb", "-x", str(package), str(unpacked)], work)
            place.parent.mkdir(parents=True, exist_ok=True)
            unpacked.rename(place)
            shutil.rmtree(work)
    return place


def _closure(package: str, apt: list[str]) -> list[str]:
    """The package and those it needs that are not installed on this machine."""
    options = ("--recurse", "--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks")
    shown = subprocess.run(
        ["apt-cache", *apt, "depends", *options, "--no-replaces", "--no-enhances", package],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    names = {line for line in shown.splitlines() if line[:1].isalnum() and ":" not in line}
    known = subprocess.run(
        ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package}\n"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    here = {line.split()[1] for line in known.splitlines() if line.startswith("installed ")}
    return sorted(names - here)


def _emptied(directory: Path) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


def _build(kernel: Kernel, place: Path) -> None:
    work = cache.directory() / "apt" / f"source-{kernel.suite}"
    apt = fetch._private_apt(work, kernel.suite)
    # Of a suite that has no security archive that one is missing: what counts is the download.
    subprocess.run(["apt-get", *apt, "-q", "update"], capture_output=True)
    fetch._run(["apt-get", *apt, "-q", "download", f"linux-source-{kernel.version}"], work)
    (package,) = work.glob("*.deb")
    unpacked, source = _emptied(work / "unpacked"), _emptied(work / "source")
    fetch._run(["dpkg-deb", "-x", str(package), str(unpacked)], work)
    (archive,) = unpacked.glob("usr/src/*.tar.xz")
    patterns = [f"*/{name}/*" for name in _WANTED]
    fetch._run(
        ["tar", "-xJf", str(archive), "--strip-components=1", "--wildcards", *patterns], source
    )
    _compile(source, _emptied(work / "built")).rename(_below(place))
    shutil.rmtree(work)


def _below(place: Path) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


def _compile(source: Path, target: Path) -> Path:
    for name in ("compiler.h", "compiler_types.h"):
        (source / "shim/linux").mkdir(parents=True, exist_ok=True)
        (source / "shim/linux" / name).touch()
    shared = [
        path
        for path in ("cgroup/cgroup_util.c", "cgroup/lib/cgroup_util.c")
        if (source / _TESTS / path).exists()
    ]
    for name in SELFTESTS:
        text = source / _TESTS / f"{name}.c"
        if not text.exists():
            continue
        texts = [f"{_TESTS}/{name}.c"]
        texts += [f"{_TESTS}/{path}" for path in shared if name.startswith("cgroup/")]
        fetch._run(["gcc", *_FLAGS, "-o", str(target / text.stem), *texts], source)
    if not list(target.iterdir()):
        raise VmError(f"{source} holds none of the selftests.")
    return target
