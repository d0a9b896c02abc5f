"""The kernels that must work, oldest first. The one list: everything else reads it."""

from __future__ import annotations

from typing import NamedTuple


class Kernel(NamedTuple):
    """A kernel as a distribution ships it."""

    version: str
    suite: str
    package: str  # with a *: the newest of that pattern
    reason: str


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

# For what depends on how a kernel preempts itself: run by lanes that name them.
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
)


def named(version: str) -> Kernel | None:
    """Return the kernel of that version, or None."""
    return next((each for each in KERNELS + FURTHER if each.version == version), None)
