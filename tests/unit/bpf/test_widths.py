"""At which width each slot is read, against what the running kernel's BTF says that the function takes and returns."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import kernel_btf
import pytest
from docs import step_table

BPF = Path(__file__).resolve().parents[3] / "bpf"
STEPS, WITHOUT_STEP = step_table.parse((BPF / "probes.def").read_text())
PROBES = [*(probe for step in STEPS for probe in step.probes), *WITHOUT_STEP]
RETURNS = {"INT": 4, "ERR_PTR": 8, "PTR": 8, "TRUE": 1, "FALSE": 1}
# How a slot is read -> the bytes of what must stand there.
WIDTHS = {
    r"\b(?:INT_IN|ENUM_IN|REFUSED_INT)\(": 4,
    r"\b(?:BOOL_IN|REFUSED_TRUE|REFUSED_FALSE)\(": 1,
    r"\b(?:LONG_IN|IS_ERR_VALUE|REFUSED_ERR_PTR|REFUSED_PTR)\(|\bstruct \w+ \*\)|&": 8,
}


@pytest.fixture(scope="module")
def widths() -> dict[str, tuple[int, ...]]:
    path = Path(kernel_btf.SOURCE)
    if not path.exists():
        pytest.skip("this kernel has no BTF")
    return kernel_btf.widths(path.read_bytes(), {probe.function for probe in PROBES})


def slots(program: str) -> list[tuple[int, int]]:
    """Return the slots that a body in fork_trace.bpf.c reads, and at which widths."""
    text = (BPF / "fork_trace.bpf.c").read_text()
    body = re.search(
        rf"^ft_(?:in|out)line int exit_{program}\(__u64 \*ctx\)\n{{(.*?)^}}", text, re.M | re.S
    )
    assert body, program
    code = re.sub(r"/\*.*?\*/", "", body[1], flags=re.S)
    found = []
    for match in re.finditer(r"ctx\[(\d+)\]", code):
        before = code[: match.start()]
        (width,) = (bytes_ for how, bytes_ in WIDTHS.items() if re.search(f"(?:{how})$", before))
        found.append((int(match[1]), width))
    return found


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.program)
def test_a_refusal_is_looked_for_at_the_width_of_what_is_returned(
    probe: step_table.Probe, widths: dict[str, tuple[int, ...]]
) -> None:
    known = widths.get(probe.function)
    if known is None or len(known) - 1 != probe.parameters or not known[-1]:
        pytest.skip(f"this kernel has another form of {probe.function}, or none")

    assert RETURNS[probe.returns] == known[-1]


@pytest.mark.parametrize(
    "probe",
    [probe for probe in PROBES if probe.body in ("OWN", "EACH")],
    ids=lambda probe: probe.program,
)
def test_an_argument_is_read_at_its_own_width(
    probe: step_table.Probe, widths: dict[str, tuple[int, ...]]
) -> None:
    known = widths.get(probe.function)
    if known is None or len(known) - 1 != probe.parameters or not known[-1]:
        pytest.skip(f"this kernel has another form of {probe.function}, or none")
    read = slots(probe.program)

    assert read
    for slot, width in read:
        # clone3's result is handed on whole, to be cast where it is judged.
        if probe.program == "copy_clone_args":
            continue
        assert known[slot] == width, f"{probe.function}: slot {slot}"


def test_the_widths_of_a_function_are_those_of_its_types() -> None:
    """A BTF of one function: bool (*)(struct x *, enum, unsigned long)."""
    text = b"\0f\0long\0bool\0e\0x\0"
    at = {
        name: text.index(b"\0" + name + b"\0") + 1 for name in (b"f", b"long", b"bool", b"e", b"x")
    }
    types = struct.pack("<IIII", at[b"long"], 1 << 24, 8, 64)  # 1
    types += struct.pack("<IIII", at[b"bool"], 1 << 24, 1, 4 << 24 | 8)  # 2
    types += struct.pack("<III", at[b"e"], 6 << 24, 4)  # 3: an enumeration
    types += struct.pack("<III", at[b"x"], 4 << 24, 16)  # 4: a structure
    types += struct.pack("<III", 0, 2 << 24, 4)  # 5: a pointer to it
    types += struct.pack("<III", 0, 10 << 24, 2)  # 6: const bool
    types += struct.pack("<III", 0, 13 << 24 | 3, 6) + struct.pack("<6I", 0, 5, 0, 3, 0, 1)  # 7
    types += struct.pack("<III", at[b"f"], 12 << 24, 7)  # 8
    head = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(text))

    assert {"f": (8, 4, 8, 1)} == kernel_btf.widths(head + types + text, {"f", "g"})
