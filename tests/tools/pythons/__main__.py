"""One after the other, each in a Debian root of its own. What it needs from outside is kept in the cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from vm import cache, debian
from vm.cache import VmError

CHECKOUT = Path(__file__).resolve().parents[3]
# The Debian packages of scripts/setup that the unit tests ask for, but for clang and bcc: what they do is no
# matter of Python's, and they are five times all the rest.
PACKAGES = [
    "python3",
    "python3-venv",
    "gcc",
    "libc6-dev",
    "binutils",
    "groff-base",
    "git",
    "mount",
    "ca-certificates",
]
# From PyPI, the newest for that Python: Debian 11 has them too old or not at all.
TOOLS = [
    "click",
    "tabulate",
    "jinja2",
    "prometheus_client",
    "pytest",
    "hypothesis",
    "fastjsonschema",
    "jsonschema",
    "setuptools",
    "wheel",
]
ENVIRON = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/root",
    "PYTHONDONTWRITEBYTECODE": "1",
}
# By which the machine reaches the network.
NETWORK = ("/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt")
INSIDE, VENV = "/fork-trace", "/venv"
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", ".*_cache", ".hypothesis", "__pycache__")


class Python(NamedTuple):
    """A Python as a Debian suite has it, with `more` packages; `version` None: whichever is there."""

    suite: str
    version: str | None
    more: tuple[str, ...] = ()


# setup.py's python_requires, and what the next release of Debian will bring.
# Debian 11 has no libbpf 1.
PYTHONS = (Python("bullseye", "3.9"), Python("unstable", None, ("libbpf1",)))


def _say(text: str) -> None:
    print(f"python: {text}", file=sys.stderr, flush=True)


def within(root: Path, tree: Path, *argv: str) -> list[str]:
    """The command that runs another in that root, with that tree as /fork-trace."""
    return debian.entered(root, tree, INSIDE, *argv)


def _version(root: Path, wanted: str | None) -> str:
    print_it = "import sys; print('%d.%d' % sys.version_info[:2])"
    found = debian.run(["chroot", str(root), "python3", "-c", print_it], "ask its Python").strip()
    if wanted not in (None, found):
        raise VmError(f"Python {found} is there in place of {wanted}.")
    return found


def _install(root: Path, version: str) -> None:
    _say(f"fetching the tools for Python {version} once")
    for file in NETWORK:
        if os.path.isfile(file):
            Path(root, file[1:]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, root / file[1:])
    settings = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    inside = ["env", "-i", *(f"{name}={value}" for name, value in {**ENVIRON, **settings}.items())]
    inside += ["chroot", str(root)]
    debian.run([*inside, "python3", "-m", "venv", VENV], "make a venv")
    debian.run([*inside, f"{VENV}/bin/pip", "install", "-q", *TOOLS], f"install them on {version}")


def prepared(python: Python) -> Path:
    """Return the root of a Python, made on first use."""
    packages = [*PACKAGES, *python.more]

    def prepare(root: Path) -> None:
        _say(f"making a root of Debian {python.suite} once")
        debian.make(python.suite, packages, root)
        _install(root, _version(root, python.version))

    place = cache.directory() / "pythons" / python.suite
    return debian.kept(place, " ".join([*packages, *TOOLS]), prepare)


def _test(python: Python, tree: Path, words: list[str]) -> int:
    """Run the unit tests on a Python; their exit status."""
    with cache.locked(f"python-{python.suite}"):
        root = prepared(python)
        version = _version(root, python.version)
        install = ("install", "-q", "--no-index", "--no-deps", "--no-build-isolation", "-e", INSIDE)
        debian.run(
            within(root, tree, f"{VENV}/bin/pip", *install), f"install it on Python {version}"
        )
        print(f"== unit tests on Python {version} (Debian {python.suite})", flush=True)
        tests = ["-q", "-p", "no:cacheprovider", *(words or ["tests"])]
        command = within(root, tree, f"{VENV}/bin/pytest", *tests)
        shell = f'cd {INSIDE} && exec "$@"'
        at = command.index(f"{VENV}/bin/pytest")
        command[at:at] = ["sh", "-c", shell, "sh"]
        status = subprocess.run(command, env=ENVIRON).returncode
        print(f"== Python {version}: {'passed' if not status else f'exit {status}'}", flush=True)
    return status


def main(words: list[str]) -> int:
    """Run them on each; `words` are pytest's, in place of all tests."""
    if os.geteuid() != 0:
        print("scripts/test: the lane python needs root, to make its roots.", file=sys.stderr)
        return 2
    statuses = []
    with tempfile.TemporaryDirectory(prefix="fork-trace-python-") as directory:
        tree = Path(directory, "tree")
        shutil.copytree(CHECKOUT, tree, symlinks=True, ignore=LEFT_OUT)
        try:
            statuses = [_test(python, tree, words) for python in PYTHONS]
        except VmError as error:
            print(f"scripts/test: {error}", file=sys.stderr)
            return error.status
    return int(any(statuses))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
