"""Gets a kernel from Debian's archive into the cache. The only file that knows apt and dpkg.

The machine's own apt state is read, never changed: lists and packages go to private directories.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from . import cache
from .cache import VmError
from .kernels import AMD64, Architecture, Kernel

SECURITY = "-security"
# The packages of an image: since 7.x a kernel is split into these.
PARTS = re.compile(r"linux-(image|binary|modules|base)-\d")
# What a program is compiled against; building modules would need more.
HEADERS = re.compile(r"linux-headers-\d")


def image(kernel: Kernel) -> Path:
    """Return the unpacked packages of that kernel, fetched on first use."""
    root = cache.directory() / "kernels" / kernel.version
    if root.is_dir():
        return root
    with cache.locked(f"fetch-{kernel.version}"):
        if not root.is_dir():
            print(f"vm: fetching Linux {kernel.version} once", file=sys.stderr, flush=True)
            _fetch(kernel, root)
    return root


def headers(kernel: Kernel, root: Path) -> Path | None:
    """Return the unpacked headers of a kernel, fetched on first use; None where they are no more.

    An archive keeps the newest of a suite only, and the cached kernel may be older.
    """
    name = release(root)
    place = cache.directory() / "headers" / name
    if place.is_dir():
        return place
    with cache.locked(f"headers-{kernel.version}"):
        if place.is_dir():
            return place
        print(f"vm: fetching the headers of Linux {name} once", file=sys.stderr, flush=True)
        work = cache.directory() / "apt" / f"headers-{kernel.version}"
        try:
            _unpack(work, kernel, f"linux-headers-{name}", HEADERS).rename(_below(place))
        except VmError as error:
            print(
                f"vm: no headers for Linux {name}: {error} To fetch a newer kernel together with "
                f"its headers, remove {root}.",
                file=sys.stderr,
            )
            return None
        shutil.rmtree(work, ignore_errors=True)
    return place


# What kbuild runs, beside the compiler that the headers depend on; nothing is set up in there.
_BUILD_TOOLS = "dash,bash,coreutils,sed,grep,mawk,findutils,make,diffutils"


def build_tree(work: Path, kernel: Kernel, release: str) -> Path:
    """Make a root directory of that kernel's suite that can build modules for it; 370 MB, 20 s."""
    return extracted(work, kernel.suite, AMD64, f"linux-headers-{release},{_BUILD_TOOLS}")


def extracted(work: Path, suite: str, architecture: Architecture, packages: str) -> Path:
    """Make a root directory of these packages, none of them set up: of any architecture, without running it."""
    _private_apt(work, suite, architecture)
    tree = work / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    lists = sorted((work / "sources").iterdir())
    _run(
        [
            *("mmdebstrap", "--quiet", "--variant=extract", "--skip=check/qemu"),
            f"--arch={architecture.name}",
            # The machine's own apt may be told so; mmdebstrap reads none of its settings.
            "--aptopt=Acquire::Check-Valid-Until false",
            f"--include={packages}",
            *(suite, str(tree), str(lists[0])),
        ],
        work,
    )
    # As the package's script would.
    (tree / "usr" / "bin" / "awk").symlink_to("mawk")
    return tree


def _below(place: Path) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


def release(root: Path) -> str:
    """Return the release of an unpacked kernel, as `uname -r` gives it."""
    return vmlinuz(root).name.partition("-")[2]


def vmlinuz(root: Path) -> Path:
    """Return the kernel to boot."""
    found = sorted(root.glob("boot/vmlinuz-*"))
    if not found:
        raise VmError(f"{root} holds no kernel. Remove that directory to fetch it again.")
    return found[-1]


def modules(root: Path) -> Path:
    """Return the directory of the kernel's modules; since 7.x it is below usr."""
    name = release(root)
    for base in ("lib/modules", "usr/lib/modules"):
        if (root / base / name / "kernel").is_dir():
            return root / base / name
    raise VmError(f"{root} holds no modules. Remove that directory to fetch it again.")


def _fetch(kernel: Kernel, root: Path) -> None:
    work = cache.directory() / "apt" / kernel.version
    unpacked = _unpack(work, kernel, kernel.package, PARTS)
    _fill_boot(unpacked)
    base = modules(unpacked).parent.parent.parent
    _run(["depmod", "-b", str(base), release(unpacked)], work)
    if not release(unpacked).startswith(kernel.release):
        print(
            f"vm: Debian {kernel.suite} now carries Linux {release(unpacked)} "
            f"in place of {kernel.version}",
            file=sys.stderr,
        )
    unpacked.rename(_below(root))
    shutil.rmtree(work, ignore_errors=True)


def _unpack(work: Path, kernel: Kernel, package: str, parts: re.Pattern[str]) -> Path:
    """Download what a package's name stands for and unpack it, aside: a run cut short leaves no half."""
    apt = _private_apt(work, kernel.suite, kernel.architecture)
    # One archive may be missing (a security suite of unstable, say); what counts
    # is whether the package is found afterwards.
    update = subprocess.run(
        ["apt-get", *apt, "-q", "update"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    names = _concrete(_newest(package, apt) or package, parts, apt)
    if not names:
        why = (update.stdout.strip().splitlines() or ["apt-get said nothing"])[-1]
        raise VmError(
            f"cannot find {package} in Debian {kernel.suite}: {why} "
            "Check the network and the machine's apt sources."
        )
    packages = work / "packages"
    shutil.rmtree(packages, ignore_errors=True)
    packages.mkdir()
    _run(["apt-get", *apt, "-q", "download", *names], packages)
    unpacked = work / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    unpacked.mkdir()
    for path in sorted(packages.glob("*.deb")):
        _run(["dpkg-deb", "-x", str(path), str(unpacked)], packages)
    return unpacked


def _fill_boot(root: Path) -> None:
    """Move the kernel and its config to boot; since 7.x they come among the modules."""
    (root / "boot").mkdir(exist_ok=True)
    for name in ("vmlinuz", "config"):
        for path in root.glob(f"usr/lib/modules/*/{name}"):
            path.rename(root / "boot" / f"{name}-{path.parent.name}")


def _run(command: list[str], directory: Path) -> None:
    try:
        subprocess.run(
            command,
            cwd=directory,
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    except FileNotFoundError as error:
        raise VmError(f"{command[0]} is missing. Run scripts/setup --vm.") from error
    except subprocess.CalledProcessError as error:
        why = (error.stdout.strip().splitlines() or [f"exit status {error.returncode}"])[-1]
        raise VmError(
            f"{command[0]} failed: {why} Check the network and the free disk space."
        ) from error


def _newest(pattern: str, apt: list[str]) -> str | None:
    """Return the newest package of a pattern with a *; None: there is none, or it is no pattern."""
    if "*" not in pattern:
        return None
    names = subprocess.run(
        ["apt-cache", *apt, "pkgnames", pattern.partition("*")[0]],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ).stdout.split()
    wanted = re.compile(r"[\d.]*".join(map(re.escape, pattern.split("*"))))
    found = [name for name in names if wanted.fullmatch(name)]
    return max(
        found, key=lambda name: [int(part) for part in re.findall(r"\d+", name)], default=None
    )


def _concrete(package: str, parts: re.Pattern[str], apt: list[str]) -> list[str]:
    """Return the versioned packages that a name stands for."""
    found: list[str] = []
    wanted = [package]
    while wanted:
        asked = wanted.pop()
        shown = subprocess.run(
            ["apt-cache", *apt, "show", "--no-all-versions", asked],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ).stdout
        if not shown and asked in found:
            found.remove(
                asked
            )  # another package provides it: backports have no linux-base of their own
        named = re.findall(r"^(?:Package|(?:Pre-)?Depends): (.*)", shown, re.MULTILINE)
        for name in (each for line in named for each in re.split(r"[,|]\s*", line)):
            name = name.split()[0].split(":")[0]
            if parts.match(name) and name not in found:
                found.append(name)
                wanted.append(name)
    return found


def _private_apt(work: Path, suite: str, architecture: Architecture = AMD64) -> list[str]:
    """Prepare apt directories that know only that suite, and return the options naming them."""
    for name in ("sources", "lists/partial", "cache/archives/partial"):
        (work / name).mkdir(parents=True, exist_ok=True)
    text, suffix = sources(Path("/etc/apt"), codename(), suite)
    (work / "sources" / f"{suite}{suffix}").write_text(text)
    return [
        f"-oDir::Etc::sourceparts={work}/sources",
        "-oDir::Etc::sourcelist=/dev/null",
        # Pins of the machine speak of its own suites.
        "-oDir::Etc::preferencesparts=/dev/null",
        "-oDir::Etc::preferences=/dev/null",
        f"-oDir::State::lists={work}/lists",
        f"-oDir::Cache={work}/cache",
        # As root, apt would download as a user who may not write to the cache.
        "-oAPT::Sandbox::User=root",
        f"-oAPT::Architecture={architecture.name}",
        f"-oAPT::Architectures={architecture.name}",
    ]


def codename() -> str:
    for line in Path("/etc/os-release").read_text().splitlines():
        key, _, value = line.partition("=")
        if key == "VERSION_CODENAME":
            return value.strip().strip('"')
    return ""


def sources(etc: Path, host: str, suite: str) -> tuple[str, str]:
    """Return the machine's Debian sources with only the suite changed, and their suffix."""
    stanzas: list[str] = []
    for path in sorted(etc.glob("sources.list.d/*.sources")):
        for stanza in re.split(r"\n\s*\n", path.read_text()):
            suites = re.search(r"^Suites:(.*)$", stanza, re.MULTILINE | re.IGNORECASE)
            changed = _suites(suites.group(1).split(), host, suite) if suites else []
            if suites and changed and not re.search(r"^Enabled:\s*no", stanza, re.M | re.I):
                line = f"Suites: {' '.join(changed)}"
                stanzas.append(stanza[: suites.start()] + line + stanza[suites.end() :])
    if stanzas:
        return "\n\n".join(stanzas) + "\n", ".sources"
    lines: list[str] = []
    for path in [etc / "sources.list", *sorted(etc.glob("sources.list.d/*.list"))]:
        for line in path.read_text().splitlines() if path.is_file() else []:
            entry = re.match(r"(deb\s+(?:\[[^]]*\]\s+)?\S+\s+)(\S+)(.*)", line)
            changed = _suites([entry.group(2)], host, suite) if entry else []
            if entry and changed:
                lines.append(entry.group(1) + changed[0] + entry.group(3))
    if lines:
        return "\n".join(lines) + "\n", ".list"
    raise VmError(
        "cannot fetch Debian kernels: the apt sources of this machine name no Debian release. "
        "Run this on Debian, or in a Debian container."
    )


def _suites(names: list[str], host: str, suite: str) -> list[str]:
    wanted = {host: suite}
    # Neither unstable nor backports have a suite for security.
    if suite != "unstable" and not suite.endswith("-backports"):
        wanted[host + SECURITY] = suite + SECURITY
    return [wanted[name] for name in names if name in wanted]
