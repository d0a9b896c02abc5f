"""One pass of rehearsals on the running kernel under every attach mode: `python -m accuracy.capturing KERNEL`.

One JSON object on stdout for each mode: its cells, or why this kernel has not that mode. In a guest
(FORK_TRACE_VM) host-wide rehearsals are made too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from accuracy.judging import NOT_HERE, WRONG, Verdict, judge
from accuracy.watching import WATCHERS, Watched, refusal, rehearse, watching
from fork_trace.rehearse.scenarios import SCENARIOS, Scenario, find

# The watchers that show each; the second one sees what never reaches copy_process. By libbpf, but
# for bcc, which has the kprobe attach mode only.
ATTACH_MODES = {
    "fexit": ("fexit", "fexit-all"),
    "kprobe": ("kprobe", "kprobe-all"),
    "bcc": ("bcc", "bcc"),
    "tracepoint": ("tracepoint", "tracepoint"),
}

_HOST_WIDE = "would take a limit of the whole host away: only in a virtual machine"
# Thread stacks are seen without --refused.
_STACK_STEPS = ("mmap", "mprotect")


def is_seen_by_all(scenario: Scenario) -> bool:
    """Say whether a watcher without --refused sees it too."""
    return not scenario.is_early or scenario.step in _STACK_STEPS


def verdict(
    scenario: Scenario,
    watched: Watched,
    told: Mapping[str, Mapping[str, Any]],
    is_native: bool = False,
    trouble: str = "",
) -> Verdict:
    """Judge one rehearsal by what one watcher saw of it."""
    if is_native and scenario.host_wide:
        return Verdict(NOT_HERE, _HOST_WIDE)
    code = watched.done.returncode
    if not trouble and code not in (0, 1):
        trouble = f"the capture ended with {code}: {watched.done.stderr.strip()[-300:]}"
    if trouble:
        return Verdict(WRONG, trouble)
    return judge(scenario, told.get(scenario.name), watched.records, is_native)


def lines(
    kernel: str,
    scenarios: Sequence[Scenario],
    seen: Mapping[str, Watched | None],
    told: Mapping[str, Mapping[str, Any]],
    trouble: str = "",
) -> Iterator[dict[str, Any]]:
    """Yield the object of each mode that was watched by."""
    is_native = not os.environ.get("FORK_TRACE_VM")
    for attach, (plain, early) in ATTACH_MODES.items():
        line: dict[str, Any] = {"attach": attach, "release": platform.release()}
        names = {each.name: plain if is_seen_by_all(each) else early for each in scenarios}
        by = {name: seen.get(watcher) for name, watcher in names.items()}
        if None in by.values():
            continue
        refused = [why for name, each in by.items() if each and (why := refusal(names[name], each))]
        if refused:
            line["refused"] = refused[0]
        else:
            line["cells"] = [
                [each.name, kernel, attach, *verdict(each, watched, told, is_native, trouble)]
                for each in scenarios
                if (watched := by[each.name])
            ]
        yield line


def main() -> None:
    parser = argparse.ArgumentParser(prog="accuracy.capturing")
    parser.add_argument("kernel")
    parser.add_argument("scenarios", nargs="*")
    options = parser.parse_args()
    scenarios = [find(name) for name in options.scenarios] or list(SCENARIOS)
    is_native = not os.environ.get("FORK_TRACE_VM")
    made = [each.name for each in scenarios if not (is_native and each.host_wide)]
    with tempfile.TemporaryDirectory(prefix="fork-trace-accuracy-") as directory:
        # Where the captures are wanted, they are left there.
        place = Path(os.environ.get("FORK_TRACE_VM_SHARE") or directory, platform.release())
        place.mkdir(exist_ok=True)
        with watching(place, WATCHERS) as seen:
            told, trouble = rehearse(place / "told.jsonl", made, host_wide=not is_native)
        for line in lines(options.kernel, scenarios, seen, told, trouble):
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
