"""Where the BPF programs lie that are loaded."""

from __future__ import annotations

import os

from fork_trace.errors import ForkTraceError


def program(name: str) -> str:
    """Find a BPF program or its source: beside the installed package, or in the checkout."""
    package = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    for directory in (os.path.join(package, "_bpf"), os.path.join(package, "../bpf")):
        path = os.path.normpath(os.path.join(directory, name))
        if os.path.exists(path):
            return path
    raise ForkTraceError(
        f"cannot find the BPF program {name}: it has not been built",
        "Run scripts/build-bpf in the checkout, or install fork-trace again.",
    )
