"""Holds programs attached until it is ended: `python -m bench.hold floor OBJECT | fexit`.

`floor` are the empty programs of floor.bpf.c on the functions of our plan; `fexit` are ours without
the reader, so that the price of the programs can be told from that of the frontend.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

from fork_trace.collect.arm import read_facts
from fork_trace.probes.libbpf.backend import LibbpfBackend
from fork_trace.probes.libbpf.bindings import Library
from fork_trace.probes.plan import Plan, Stage, make
from fork_trace.probes.request import Request


def _attach_floor(library: Library, plan: Plan, path: Path) -> list[int]:
    lib = library.lib
    now = [probe for probe in plan.probes if probe.stage is Stage.START]
    # The second one on a function, where the kernel preempts, is what ours cost beside that.
    wanted = {
        probe.program.replace("fexit_", "floor_")
        for probe in now
        if not probe.program.endswith("_again")
    }
    image = path.read_bytes()
    opened = lib.bpf_object__open_mem(image, len(image), None)
    programs = {}
    handle = lib.bpf_object__next_program(opened, None) if opened else None
    while handle:
        name = lib.bpf_program__name(handle).decode()
        lib.bpf_program__set_autoload(handle, name in wanted)
        if name in wanted:
            programs[name] = handle
        handle = lib.bpf_object__next_program(opened, handle)
    if wanted - programs.keys():
        # A floor with fewer programs than ours would make ours look dear.
        sys.exit(f"bench: floor.bpf.c lacks {', '.join(sorted(wanted - programs.keys()))}.")
    if lib.bpf_object__load(opened):
        sys.exit(f"bench: the floor was refused: {' '.join(library.messages)}")
    links = [lib.bpf_program__attach(handle) for handle in programs.values()]
    if not all(links):
        sys.exit(f"bench: the floor was not attached: {' '.join(library.messages)}")
    return links


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.hold")
    parser.add_argument("what", choices=["floor", "fexit"])
    parser.add_argument("object", nargs="?", type=Path)
    parser.add_argument(
        "--only", action="append", metavar="FUNCTION", help="just the program on this function"
    )
    parser.add_argument("--large-forks", action="store_true", help="note who forks large parents")
    options = parser.parse_args()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    facts, library = read_facts(Request())
    plan = make(facts, Request(large_forks=options.large_forks))
    assert library is not None
    if options.only:
        probes = tuple(probe for probe in plan.probes if probe.function in options.only)
        if not probes:
            sys.exit(f"bench: nothing is attached to {' '.join(options.only)} here")
        plan = replace(plan, probes=probes)
    held: object
    if options.what == "floor":
        held = _attach_floor(library, plan, options.object)
        attached = [probe.function for probe in plan.probes if probe.stage is Stage.START]
    else:
        held = LibbpfBackend(library, plan)
        attached = [probe.function for probe in held.plan.probes if probe.stage is Stage.START]
    print("armed", *attached, file=sys.stderr, flush=True)
    signal.sigwait({signal.SIGTERM})
    # Closing in good order is not what is measured: the kernel detaches when we are gone.
    os._exit(0)


if __name__ == "__main__":
    main()
