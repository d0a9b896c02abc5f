"""Metadata, and the one build step: compile bpf/ and carry it in the package."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # before setuptools 70.1
    try:
        from wheel.bdist_wheel import bdist_wheel
    except ImportError:
        bdist_wheel = None  # nobody builds a wheel without it

ROOT = Path(__file__).resolve().parent
# What bcc compiles on the host.
CARRIED = (
    *(
        "fork_trace.bcc.c",
        "caller.h",
        "count.h",
        "judge.h",
        "kernel_headers.h",
        "logic.h",
        "port.h",
    ),
    *("probes.def", "programs.h", "reading.h", "refusal.h", "settings.h", "slots.h", "steps.h"),
    *(
        "uapi.h",
        "wire.h",
        "limits/cgroup.h",
        "limits/fds.h",
        "limits/mappings.h",
        "limits/memory.h",
        "limits/namespaces.h",
    ),
    *("limits/nproc.h", "limits/pidns.h", "limits/stack.h"),
)


class BuildWithPrograms(build_py):
    """Put the BPF programs where fork_trace.probes.objects.program() looks first."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return  # a checkout is used as it is: ../bpf
        target = Path(self.build_lib, "fork_trace", "_bpf").resolve()
        Path(target, "limits").mkdir(parents=True, exist_ok=True)
        # For FORK_TRACE_ARCH, if that is set: those of the checkout stay this machine's.
        subprocess.run([str(ROOT / "scripts" / "build-bpf"), str(target)], check=True)
        for name in CARRIED:
            shutil.copy(ROOT / "bpf" / name, target / name)


# What a source archive has beside the Python files: all that a checkout has.
SOURCES = ("README.md", "CHANGELOG.md", "LICENSE", ".*.toml", ".*.ini", ".editorconfig")
SOURCES += (".clang-format", ".pre-commit-config.yaml", ".gitignore")
FOLDERS = ("bpf", "fork_trace", "scripts", "tests", ".ci", ".github", ".changelog")
NOT_SOURCES = ("*.o", "*.pyc", "*.so")


class Sources(sdist):
    """Take whole folders, so that no list of files is kept beside the tree."""

    def make_distribution(self) -> None:
        found = [path for pattern in SOURCES for path in ROOT.glob(pattern)]
        for folder in FOLDERS:
            found += (path for path in (ROOT / folder).rglob("*") if path.is_file())
        self.filelist.extend(
            str(path.relative_to(ROOT))
            for path in sorted(found)
            if not any(path.match(pattern) for pattern in NOT_SOURCES)
        )
        self.filelist.remove_duplicates()
        super().make_distribution()


commands = {"build_py": BuildWithPrograms, "sdist": Sources}
if bdist_wheel is not None:

    class WheelForOneMachine(bdist_wheel):
        """Any Python 3, but the BPF objects in it are for one architecture."""

        def finalize_options(self) -> None:
            super().finalize_options()
            self.root_is_pure = False

        def get_tag(self) -> tuple:
            machine = os.environ.get("FORK_TRACE_ARCH")
            return ("py3", "none", f"linux_{machine}" if machine else super().get_tag()[2])

    commands["bdist_wheel"] = WheelForOneMachine


setup(
    name="fork-trace",
    version=re.search(r'__version__ = "(.+)"', (ROOT / "fork_trace/__init__.py").read_text())[1],
    description="Name the kernel step that refused a fork, and the limit it hit",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="GPL-2.0-or-later",
    packages=find_packages(str(ROOT), include=["fork_trace", "fork_trace.*"]),
    package_data={
        "fork_trace": ["records.schema.json", "docs/*.md", "deploy/*/*", "output/page/page.*"]
    },
    python_requires=">=3.9",
    data_files=[
        ("share/man/man8", ["fork_trace/docs/fork-trace.8"]),
        ("share/man/man5", ["fork_trace/docs/fork-trace-capture.5"]),
        ("share/man/man7", ["fork_trace/docs/fork-trace-causes.7"]),
    ],
    # click: the command line; tabulate: the tables. libbpf is a system library (Debian:
    # libbpf1), reached through ctypes. bcc comes from the distribution (python3-bpfcc), never from
    # PyPI, where that name is an unrelated project.
    install_requires=["click>=8.0", "tabulate>=0.8.9"],
    # prometheus-client: for `check --format prometheus`, `record --metrics` and `record --textfile` alone;
    # Jinja2: for `report --format html`.
    extras_require={"prometheus": ["prometheus-client>=0.9"], "html": ["Jinja2>=2.11"]},
    entry_points={"console_scripts": ["fork-trace = fork_trace.commands.cli:main"]},
    cmdclass=commands,
    zip_safe=False,
    classifiers=[
        "Environment :: Console",
        "License :: OSI Approved :: GNU General Public License v2 or later (GPLv2+)",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: C",
        "Programming Language :: Python :: 3 :: Only",
        "Topic :: System :: Monitoring",
    ],
)
