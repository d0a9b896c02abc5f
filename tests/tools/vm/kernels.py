"""The kernels that must work, oldest first. The one list: everything else reads it."""

from __future__ import annotations

from typing import NamedTuple


class Kernel(NamedTuple):
    """A kernel as a distribution ships it."""

    version: str
    suite: str
    package: str
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


def named(version: str) -> Kernel | None:
    """Return the kernel of that version, or None."""
    return next((kernel for kernel in KERNELS if kernel.version == version), None)
