"""What the kernel side of a death says about the page that was copied. Each test takes one thing away."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fork_trace.collect.deaths import _functions, _is_copying
from fork_trace.model.deaths import DEATH_BYTES, Killed, decode

RANGES = {"do_wp_page": (0x100, 0x200), "kretprobe_trampoline": (0x300, 0x301)}
WHOLE, COPIES, CUT = (0x900, 0x910, 0x920, 0x930), (0x900, 0x910, 0x150, 0x930), (0x900, 0x300)


def killed(copied: str, frames: tuple[int, ...], is_in_fault: bool = True) -> Killed:
    none = decode(bytes(DEATH_BYTES))
    return replace(none, copied=copied, kernel_frames=frames, is_in_fault=is_in_fault)


def is_copying(death: Killed) -> bool | None:
    return _is_copying(death, _functions(death.kernel_frames, RANGES), RANGES)


@pytest.mark.parametrize(
    ("copied", "is_of_fork"),
    [("anonymous", True), ("ksm", False), ("file", False), ("zero", False)],
)
def test_only_an_anonymous_page_is_shared_by_fork(copied: str, is_of_fork: bool) -> None:
    assert is_of_fork == is_copying(killed(copied, COPIES))
    assert is_of_fork == is_copying(killed(copied, CUT))


def test_a_page_that_could_not_be_read_proves_nothing() -> None:
    assert is_copying(killed("", COPIES)) is None
    assert is_copying(killed("", CUT)) is None


def test_what_an_earlier_fault_left_in_the_stack_is_not_believed() -> None:
    assert is_copying(killed("anonymous", WHOLE)) is False
    assert is_copying(killed("anonymous", CUT, is_in_fault=False)) is None


def test_without_a_fault_nothing_is_copied() -> None:
    assert is_copying(killed("", WHOLE)) is False
