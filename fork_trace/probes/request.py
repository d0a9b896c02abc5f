"""What the user can force or deny of how the kernel is watched."""

from __future__ import annotations

from typing import NamedTuple

ATTACH_MODES: tuple[str, ...] = ("fexit", "kprobe", "tracepoint")
BACKENDS: tuple[str, ...] = ("libbpf", "bcc")
# What can be denied, so that a fallback is tried on a kernel that would not need it.
FEATURES: tuple[str, ...] = (
    *("libbpf", "btf", "trampolines", "ringbuf", "kallsyms", "kprobes"),
    *("bcc", "headers"),
)


class Request(NamedTuple):
    """What the user forces or denies."""

    attach: str | None = None
    backend: str | None = None
    without: frozenset[str] = frozenset()
    # Also what never reaches copy_process, at the price of a little at every system call.
    refused: bool = False
    # Attach the programs of every step from the start, not at the first failure unexplained.
    all_steps: bool = False
    # Attach none but copy_process until a fork fails.
    on_demand: bool = False
    # For whoever stays for weeks: less room for stacks that wait to be unwound, fewer latest records.
    is_lean: bool = False
    # Remember who forked a large parent: for each fork that goes through, and by fexit only.
    large_forks: bool = False
