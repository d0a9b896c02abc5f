"""Where the functions of a Python process go among the frames of its stack."""

from __future__ import annotations

import struct

import pytest

from fork_trace.budget import Budget
from fork_trace.host.procfs import Mapping
from fork_trace.model.events import Stack
from fork_trace.model.records import CONFIRMED, UNCONFIRMED, Frame
from fork_trace.mounts import OwnMounts
from fork_trace.stacks import cpython, pythons
from fork_trace.stacks.cpython import Function, Seen
from fork_trace.stacks.symbol_files import SymbolFiles

LIBC, PYTHON = "/lib/libc.so.6", "/usr/bin/python3.13"
PROGRAM = Mapping(0x400000, 0x500000, 0, "00:00", 0, PYTHON)
FRAMES = (
    Frame(0x1000, "fork", LIBC, 0x10),
    Frame(0x400100, "os_fork", PYTHON, 0x100),
    Frame(0x400200, "_PyEval_EvalFrameDefault", PYTHON, 0x200),
    Frame(0x400300, "PyEval_EvalCode", PYTHON, 0x300),
    Frame(0x400400, "_PyEval_EvalFrameDefault", PYTHON, 0x400),
    Frame(0x400500, "main", PYTHON, 0x500),
)
INNER, MIDDLE, OUTER, OTHER = (
    Function(name, "/srv/job.py", 1, range(start, start + 64))
    for name, start in (("inner", 0x9000), ("middle", 0x9100), ("outer", 0x9200), ("other", 0x9300))
)
ALL = (INNER, MIDDLE, OUTER, OTHER)
R12, R13 = 12, 13


def trail(*values: dict[int, int]) -> list[dict[int, int]]:
    """The registers of each of the frames, each of which has 16 bytes."""
    return [{7: 0x7000 + 16 * number, **each} for number, each in enumerate(values)]


def placed(seen: Seen | None, registers: list[dict[int, int]], **words: int) -> list[str | None]:
    raw = bytearray(96)
    for number, word in words.items():
        struct.pack_into("<Q", raw, 16 * int(number[1:]) + 8, word)
    stack = Stack(1, 2, (), 0x7000, bytes(raw))
    work = Budget(1000)
    known = pythons.Pythons(SymbolFiles(work, OwnMounts(set())), work)
    known._seen[1, 2] = seen
    frames = known.placed(FRAMES, stack, registers, "x86_64", PROGRAM, None)
    marks = {CONFIRMED: "!", UNCONFIRMED: "?"}
    return [
        f"{each.symbol}{marks[each.read_later]}" if each.read_later else each.note
        for each in frames
        if each.read_later or each.note
    ]


IN_INNER = {R12: 0x9008}
BOTH = trail({}, IN_INNER, IN_INNER, {R12: 0x9208}, {R12: 0x9208}, {})


def test_what_the_registers_of_each_loop_point_into_is_confirmed() -> None:
    assert ["inner!", "outer!"] == placed(Seen((), ALL), BOTH)


def test_who_had_called_it_by_then_is_not() -> None:
    assert ["inner!", "middle?", "outer!", "other?"] == placed(
        Seen((INNER, MIDDLE, OUTER, OTHER), ALL), BOTH
    )


def test_what_runs_by_then_but_did_not_is_not_told() -> None:
    assert ["inner!", "outer!"] == placed(Seen((OTHER, MIDDLE, OUTER), ALL), BOTH)


def test_of_two_functions_of_a_frame_that_by_the_register_is_likely() -> None:
    assert ["inner?"] == placed(Seen((), ALL), BOTH, w2=0x9308)


@pytest.mark.parametrize("words", [{}, {"w2": 0x9008}])
def test_an_outer_loop_does_not_stand_for_an_unknown_inner_one(words: dict[str, int]) -> None:
    registers = trail({}, {}, {R12: 0x9008, R13: 0x9308}, {R12: 0x9208}, {R12: 0x9208}, {})
    seen = placed(Seen((OUTER,), ALL), registers, **words)

    assert [cpython.UNTOLD] == seen


def test_what_no_register_bears_out_is_not_told() -> None:
    assert [cpython.UNTOLD] == placed(Seen(ALL, ALL), trail({}, {}, {}, {}, {}, {}))


def test_why_nothing_was_read_is_told() -> None:
    assert [cpython.GONE] == placed(None, BOTH)
    assert [cpython.STRANGE] == placed(Seen((), (), cpython.STRANGE), BOTH)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["/usr/bin/python3.13"], "/usr/bin/python3.13"),
        (["/usr/bin/python3.14", "/usr/lib/libpython3.14.so.1.0"], "/usr/lib/libpython3.14.so.1.0"),
        (["/usr/bin/python3.12"], None),
        (["/usr/bin/python3"], None),
        ([], None),
    ],
)
def test_the_interpreter_is_the_one_that_publishes_its_offsets(
    names: list[str], expected: str | None
) -> None:
    found = pythons.interpreter([Mapping(0, 1, 0, "00:00", 1, each) for each in names])

    assert expected == (found.path if found else None)
