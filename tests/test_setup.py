"""scripts/setup, as far as it can be asked without installing anything."""

from __future__ import annotations

import subprocess
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
SETUP = CHECKOUT / "scripts" / "setup"


def lists(option: str) -> tuple[set[str], set[str]]:
    """Return the packages and the tools that it would see to: it runs up to where it begins to."""
    script = SETUP.read_text().partition("\ncheckout=$(cd")[0]
    told = 'echo "${packages[*]}"; echo "${tools[*]}"'
    done = subprocess.run(
        ["bash", "-c", f"{script}\n{told}", "setup", *option.split()],
        capture_output=True,
        text=True,
        check=True,
    )
    packages, tools = done.stdout.splitlines()
    return set(packages.split()), set(tools.split())


def test_building_a_package_takes_neither_bcc_nor_the_test_tools() -> None:
    packages, tools = lists("--build")

    assert {"setuptools", "wheel"} == tools
    assert {"clang", "libbpf-dev", "python3-click"} <= packages
    assert not {"python3-bpfcc", "groff-base", "qemu-system-x86"} & packages


def test_each_option_takes_what_the_one_below_takes() -> None:
    build, usual, vm = (lists(option) for option in ("--build", "", "--vm"))

    assert build[0] < usual[0] < vm[0]
    assert build[1] < usual[1] == vm[1]
    assert "python3-bpfcc" in usual[0]
    assert "qemu-system-x86" in vm[0] - usual[0]


def test_another_architecture_is_emulated_only_for_who_asks_for_it() -> None:
    vm, arm64 = lists("--vm"), lists("--arm64")

    assert {"qemu-system-arm"} == arm64[0] - vm[0]
    assert vm[0] < arm64[0]
    assert vm[1] == arm64[1]


def test_other_tracers_are_installed_only_for_who_measures_them() -> None:
    vm, peers = lists("--vm"), lists("--peers")

    assert {"bpftrace", "bpfcc-tools", "linux-perf"} == peers[0] - vm[0]
    assert vm[0] < peers[0]
    assert vm[1] == peers[1]


def test_a_browser_is_installed_only_where_it_is_asked_for() -> None:
    usual, browser = lists(""), lists("--browser")

    assert {"chromium"} == browser[0] - usual[0]
    assert usual[1] == browser[1]
    assert "python3-jinja2" in usual[0]


def test_an_unknown_option_is_refused() -> None:
    done = subprocess.run([SETUP, "--frobnicate"], capture_output=True, text=True)

    assert 2 == done.returncode
    assert "unknown option --frobnicate" in done.stderr
