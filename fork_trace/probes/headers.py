"""What compiling on this host takes: bcc, and the kernel's headers; are they there, which fields do these have.

Only asked for the bcc backend, and before that is loaded. Headers are looked for here and not by bcc: where it finds
none, it runs modprobe through a shell.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping

from fork_trace import files
from fork_trace.model.dataclass import dataclass
from fork_trace.probes.plan import YES, Fact

# What came or went in the years of these kernels: (structure, or enum, and member) -> the header that
# declares it. A key is the name of bpf/kernel_headers.h, FT_HAS_<structure>_<member>.
_ASKED = {
    ("ucounts", "rlimit"): "user_namespace.h",
    ("user_namespace", "rlimit_max"): "user_namespace.h",
    ("ucount_type___v60", "UCOUNT_RLIMIT_NPROC___v60"): "user_namespace.h",
    ("user_struct___v513", "processes"): "sched/user.h",
    ("cred", "ucounts"): "cred.h",
    ("pid_namespace", "pid_max"): "pid_namespace.h",
    ("nsproxy", "time_ns_for_children"): "nsproxy.h",
    ("kernel_clone_args", "cgroup"): "sched/task.h",
}
# Of the functions that have several forms, those whose symbol does not tell which.
_DECLARED = {"dup_fd": "fdtable.h", "sched_cgroup_fork": "sched/task.h"}
_FLAVOUR = re.compile(r"___v\d+$")

# /etc/os-release's ID or ID_LIKE -> what brings the headers; {} is the release.
_PACKAGES = {
    "debian": "apt install linux-headers-{}",
    "ubuntu": "apt install linux-headers-{}",
    "fedora": "dnf install kernel-devel-{}",
    "rhel": "dnf install kernel-devel-{}",
    "centos": "dnf install kernel-devel-{}",
    "amzn": "dnf install kernel-devel-{}",
    "suse": "zypper install kernel-{flavour}-devel, of the version {}",
    "opensuse": "zypper install kernel-{flavour}-devel, of the version {}",
    "alpine": "apk add linux-{flavour}-dev, of the version {}",
    "arch": "pacman -S {kernel}-headers, of the version {}",
}


@dataclass(frozen=True)
class Declared:
    """What the headers of the running kernel declare, as far as kernels differ in it."""

    has: Mapping[str, bool]  # by the name in bpf/kernel_headers.h
    params: Mapping[str, int | None]  # function -> its parameter count; None: it returns nothing


def bcc_module(search: list[str] | None = None) -> Fact:
    """Say whether the Python module bcc is the BPF Compiler Collection; it is not imported."""
    if search is None:
        spec = importlib.util.find_spec("bcc")
        places = list(spec.submodule_search_locations or []) if spec else []
        if spec and not places and spec.origin:
            places = [os.path.dirname(spec.origin)]
    else:
        places = [os.path.join(path, "bcc") for path in search if files.exists(path, "bcc")]
    if not places:
        return Fact(False, "the Python module bcc is not installed")
    if any(files.exists(place, "libbcc.py") for place in places):
        return Fact(True, "installed")
    return Fact(
        False,
        f"the module bcc in {places[0]} is an unrelated project of the same name "
        "(PyPI's bcc), not the BPF Compiler Collection",
    )


def find(release: str, root: str = "/") -> tuple[Fact, str]:
    """Say whether the headers of that kernel are there for bcc, and what brings them."""
    modules, include = _places(release, root)
    missing = None
    if not os.path.isdir(os.path.join(modules, "build")):
        missing = f"/lib/modules/{release}/build is not a directory"
    elif not os.path.isfile(os.path.join(include, "sched.h")):
        missing = f"/lib/modules/{release} has no include/linux/sched.h"
    elif not os.path.isfile(os.path.join(modules, "build/include/generated/autoconf.h")):
        missing = f"/lib/modules/{release}/build has no include/generated/autoconf.h"
    if missing is None:
        return YES, ""
    why = f"the headers of the running kernel are not installed ({missing})"
    return Fact(False, why), _remedy(release, root)


def read(release: str, root: str = "/") -> Declared:
    """Read what the headers of that kernel declare; only for who compiles against them."""
    include = _places(release, root)[1]
    texts = {name: _text(include, name) for name in {*_ASKED.values(), *_DECLARED.values()}}
    has = {
        f"{type_}_{member}": _has(texts[name], type_, member)
        for (type_, member), name in _ASKED.items()
    }
    params: dict[str, int | None] = {}
    for function, name in _DECLARED.items():
        declared = re.search(rf"(\w+)[\s*]*\b{function}\(([^()]*)\)", texts[name])
        if declared:
            params[function] = None if declared[1] == "void" else declared[2].count(",") + 1
    return Declared(has, params)


def _places(release: str, root: str) -> tuple[str, str]:
    """Find the directory of the kernel's modules and, as bcc does, the include/linux beside it."""
    modules = os.path.join(root, "lib/modules", release)
    # bcc takes `source` where there is one, and what the configuration made from `build`.
    source = "source" if os.path.isdir(os.path.join(modules, "source")) else "build"
    return modules, os.path.join(modules, source, "include/linux")


def _text(*parts: str) -> str:
    try:
        text = files.text(*parts)
    except OSError:
        return ""
    return re.sub(r"/\*.*?\*/|//[^\n]*", " ", text, flags=re.DOTALL)


def _has(text: str, type_: str, member: str) -> bool:
    """Say whether a structure or enumeration has a member, by its declaration."""
    body = re.search(rf"\b(?:struct|enum) {_FLAVOUR.sub('', type_)} {{(.*?)\n}}", text, re.DOTALL)
    return bool(body and re.search(rf"\b{_FLAVOUR.sub('', member)}\b", body[1]))


def _remedy(release: str, root: str) -> str:
    """Name the package that brings the headers, as exactly as this distribution lets it be named."""
    # "6.4.0-150600.21-default", "6.6.30-0-lts", "6.9.1-arch1-1", "6.6.30-1-lts"
    last = release.rpartition("-")[2]
    flavour = last if last.isalpha() else "default"
    kernel = f"linux-{last}" if last.isalpha() else "linux"
    for name in _distributions(root):
        if name in _PACKAGES:
            command = _PACKAGES[name].format(release, flavour=flavour, kernel=kernel)
            return f"Install the headers for this exact kernel: {command}."
    return f"Install the headers for this exact kernel, {release}, from your distribution."


def _distributions(root: str) -> list[str]:
    """Name the distribution and those that it descends from, the nearest first."""
    fields: dict[str, str] = {}
    for place in ("etc/os-release", "usr/lib/os-release"):
        try:
            lines = files.text(root, place).splitlines()
        except OSError:
            continue
        fields = {
            key: value.strip("\"'") for key, _, value in (line.partition("=") for line in lines)
        }
        break
    names = [fields.get("ID", ""), *fields.get("ID_LIKE", "").split()]
    # "opensuse-leap", "opensuse-tumbleweed"
    return [name.partition("-")[0] for name in names if name]
