"""The kernels that must work, oldest first. The one list: everything else reads it."""

from __future__ import annotations

from typing import NamedTuple


class Architecture(NamedTuple):
    """What differs between machines: Debian's name, the kernel's, QEMU's program and options."""

    name: str
    machine: str  # as uname -m tells it
    qemu: str
    board: str
    processor: str
    console: str


AMD64 = Architecture("amd64", "x86_64", "qemu-system-x86_64", "pc", "qemu64,+rdrand", "ttyS0")
# What signs pointers by the architecture's own algorithm takes half of all time under emulation.
ARM64 = Architecture(
    "arm64", "aarch64", "qemu-system-aarch64", "virt", "max,pauth-impdef=on", "ttyAMA0"
)


class Kernel(NamedTuple):
    """A kernel as a distribution ships it."""

    version: str
    suite: str
    package: str  # with a *: the newest of that pattern
    reason: str
    architecture: Architecture = AMD64
    userland: str = ""  # the suite of the root that is made for it; empty: the machine's own

    @property
    def release(self) -> str:
        """With what the release of such a kernel begins."""
        return self.version.removeprefix("arm64-").partition("-")[0] + "."


KERNELS = (
    Kernel(
        "5.10",
        "bullseye",
        "linux-image-amd64",
        "the oldest with BTF and trampolines that a Debian release still carries",
    ),
    Kernel("6.1", "bookworm", "linux-image-amd64", "the most widely run on servers"),
    Kernel("6.12", "trixie", "linux-image-amd64", "the current stable release"),
    # Unstable moves on: its kernel may by now be newer than the name says.
    Kernel("7.2", "unstable", "linux-image-amd64", "what the next release will bring"),
)

NEWEST = KERNELS[-1]

# Kernels that preempt themselves otherwise, and another architecture's: run by lanes that name them.
FURTHER = (
    Kernel(
        "6.18",
        "trixie-backports",
        "linux-image-6.18.*+deb13-amd64",
        "preempts its own code as it boots, and no tracepoint",
    ),
    Kernel("6.1-rt", "bookworm", "linux-image-rt-amd64", "PREEMPT_RT"),
    Kernel("6.12-rt", "trixie", "linux-image-rt-amd64", "PREEMPT_RT"),
    Kernel("7.2-rt", "unstable", "linux-image-rt-amd64", "PREEMPT_RT"),
    Kernel(
        "arm64-5.10",
        "bullseye",
        # What linux-image-arm64 names there now is not in every mirror.
        "linux-image-5.10.0-32-arm64",
        "BTF without static functions, no trampolines, symbols without variables",
        ARM64,
        "bookworm",
    ),
    Kernel(
        "arm64-6.1",
        "bookworm",
        "linux-image-arm64",
        "no trampolines, symbols without variables",
        ARM64,
        "bookworm",
    ),
    Kernel("arm64-6.12", "trixie", "linux-image-arm64", "trampolines", ARM64, "trixie"),
    Kernel("arm64-7.2", "unstable", "linux-image-arm64", "the newest of arm64", ARM64, "bookworm"),
    Kernel(
        "arm64-7.2-16k",
        "unstable",
        "linux-image-arm64-16k",
        "pages of 16 KiB",
        ARM64,
        "bookworm",
    ),
)


def named(version: str) -> Kernel | None:
    """Return the kernel of that version, or None."""
    return next((each for each in KERNELS + FURTHER if each.version == version), None)
