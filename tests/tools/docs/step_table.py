"""fork_trace/model/step_table.py from bpf/probes.def, so that nobody parses C while the tool starts."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import NamedTuple

_CHECKOUT = Path(__file__).resolve().parents[3]
PROBES = _CHECKOUT / "bpf" / "probes.def"
STEP_TABLE = _CHECKOUT / "fork_trace" / "model" / "step_table.py"

_BODIES = ("PLAIN", "OUTER", "NAMESPACE", "OWN", "EACH", "SHELL")
_RETURNS = ("INT", "ERR_PTR", "PTR", "TRUE", "FALSE")
_CALLERS, _STAGES = ("FORK", "OTHERS"), ("START", "FAILED", "UNEXPLAINED")
_STEP = re.compile(r'STEP\((\w+), "([^"\\]+)", "([^"\\]+)"\)')
_ENUM = re.compile(r'(^    "step": \{.*?"enum": \[\n)(.*?)(\n +\])', re.DOTALL | re.MULTILINE)
_PROBE = re.compile(r"\tPROBE\((.*)\)")
NO_STEP = "NONE"
HEAD = '''"""The rows of bpf/probes.def, written by scripts/build-docs: edit that file, not this one.

Each step: its ident, its name, what it is, its probes (function, parameters, program, whether arguments
are saved on the entry), whether they are attached at the first failure without a reason, the ident of the
last step inside it, whose refusals it hands on ("": there are none).
"""

# fmt: off

from __future__ import annotations
'''
_TYPE = "tuple[tuple[str, str, str, tuple[tuple[str, int, str, bool], ...], bool, str], ...]"


class Probe(NamedTuple):
    """A line of the table, by its columns."""

    step: str
    program: str
    function: str
    parameters: int
    returns: str
    body: str
    of: str
    saves: str
    callers: str
    stage: str


class Step(NamedTuple):
    """A step, with the probes that tell of it."""

    ident: str
    name: str
    what: str
    probes: list[Probe]


def _probe(columns: str) -> Probe:
    step, program, function, parameters, *others = columns.split(", ")
    probe = Probe(step, program, function, int(parameters), *others)
    known = ((probe.returns, _RETURNS), (probe.body, _BODIES), (probe.callers, _CALLERS))
    for value, values in (*known, (probe.stage, _STAGES)):
        if value not in values:
            raise ValueError(f"probes.def: {value} of {program} is none of {', '.join(values)}")
    return probe


def parse(text: str) -> tuple[list[Step], list[Probe]]:
    """Read the steps in their order, and the probes of none."""
    steps: list[Step] = []
    without: list[Probe] = []
    for line in text.splitlines():
        if step := _STEP.fullmatch(line):
            steps.append(Step(step[1], step[2], step[3], []))
        elif probe := _PROBE.fullmatch(line):
            made = _probe(probe[1])
            if made.step == NO_STEP:
                without.append(made)
            elif not steps or made.step != steps[-1].ident:
                raise ValueError(f"probes.def: {made.program} does not stand below its step")
            else:
                steps[-1].probes.append(made)
        elif line.lstrip().startswith(("STEP(", "PROBE(")):
            raise ValueError(f"probes.def: a line that is not understood: {line}")
    return steps, without


def _row(probe: Probe) -> str:
    saves = probe.saves != "NONE"
    return f'("{probe.function}", {probe.parameters}, "fexit_{probe.program}", {saves})'


def _in_detail(step: Step) -> bool:
    stages = {probe.stage == "UNEXPLAINED" for probe in step.probes}
    if len(stages) > 1:
        raise ValueError(f"probes.def: the forms of {step.ident} are of two stages")
    return stages == {True}


def _last_inner(step: Step) -> str:
    return next((probe.of for probe in step.probes if probe.body == "OUTER"), "")


def page(text: str) -> str:
    """The Python table for that text of probes.def."""
    steps, without = parse(text)
    lines = [HEAD, f"STEPS: {_TYPE} = ("]
    for step in steps:
        probes = "".join(_row(probe) + ", " for probe in step.probes).strip()
        lines.append(f'    ("{step.ident}", "{step.name}", "{step.what}",')
        lines.append(f'     ({probes}), {_in_detail(step)}, "{_last_inner(step)}"),')
    (charge,) = without
    lines += [")", f"MEMORY_CGROUP: tuple[str, int, str, bool] = {_row(charge)}", ""]
    return "\n".join(lines)


def put_into_schema(schema: str, text: str) -> str:
    """Return the text of the schema with these steps; ValueError if there is no place for them."""
    names = ", ".join(json.dumps(step.name) for step in parse(text)[0])
    indent = " " * 12
    lines = textwrap.fill(names, 90, initial_indent=indent, subsequent_indent=indent)
    written, places = _ENUM.subn(lambda match: match[1] + lines + match[3], schema, count=1)
    if places != 1:
        raise ValueError("the schema has no enumeration of steps")
    return written


# Apart from the other pages and before them: they import the table.
if __name__ == "__main__":
    STEP_TABLE.write_text(page(PROBES.read_text(encoding="utf-8")), encoding="utf-8")
