"""From registers and a slice of a stack to return addresses: what is followed, and where it ends."""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as some

from fork_trace.stacks import cfi, unwind

STACK = 0x7FFE_0000
RBX, RBP, RSP, RA = 3, 6, 7, 16


def row(size: int, *rules: tuple[int, int, int | bytes], **changes: object) -> cfi.Row:
    """A frame of so many bytes, whose return address lies on top."""
    values: dict[str, object] = {
        "cfa": (RSP, size),
        "rules": ((RA, cfi.OFFSET, -8), *rules),
        "return_register": RA,
        "is_signal": False,
    }
    return cfi.Row(**{**values, **changes})  # type: ignore[arg-type]


def memory(*words: int) -> unwind.Memory:
    return unwind.Memory(STACK, struct.pack(f"<{len(words)}Q", *words))


def walk(
    rows: Mapping[int, cfi.Row | None], *words: int, pc: int = 0x100, **registers: int
) -> list[int]:
    """Walk where code lies at the keys of `rows`, each valid for 256 bytes."""

    def find(address: int) -> cfi.Row | None:
        return rows[address & ~0xFF]

    held = {RSP: STACK, RBP: registers.get("rbp", 0), RBX: registers.get("rbx", 0)}
    return unwind.walk(pc, held, memory(*words), find, "x86_64")


def test_frames_are_followed_to_the_outermost() -> None:
    end = cfi.Row((RSP, 8), ((RA, cfi.UNDEFINED, 0),), RA, False)
    rows = {0x100: row(16), 0x200: row(8), 0x300: end}

    assert [0x100, 0x210, 0x320] == walk(rows, 7, 0x210, 0x320, 0x999)


def test_a_return_address_is_looked_up_at_its_call() -> None:
    # The call is the last thing in its function: what follows is another one.
    rows = {0x100: row(8), 0x200: row(8), 0x300: row(64)}

    assert [0x100, 0x300] == walk(rows, 0x300, 0)


def test_after_a_signal_the_address_is_the_next_to_run() -> None:
    rows = {0x100: row(8), 0x200: row(8, is_signal=True), 0x300: row(8), 0x400: None}

    assert [0x100, 0x210, 0x300, 0x350] == walk(rows, 0x210, 0x300, 0x350, 0)


@pytest.mark.parametrize("rule", [(RSP, cfi.UNDEFINED, 0), (RSP, cfi.REGISTER, 99)])
def test_a_rule_that_gives_up_the_stack_pointer_ends_the_stack(
    rule: tuple[int, int, int | bytes],
) -> None:
    rows = {0x100: row(16), 0x200: row(8, rule), 0x300: row(8)}

    assert [0x100, 0x210] == walk(rows, 7, 0x210, 0x320, 0x999)


def test_a_saved_register_leads_to_the_frame_of_its_caller() -> None:
    by_rbp = cfi.Row((RBP, 16), ((RA, cfi.OFFSET, -8), (RBP, cfi.OFFSET, -16)), RA, False)
    rows = {0x100: row(24, (RBP, cfi.OFFSET, -24)), 0x200: by_rbp, 0x300: None}
    words = (STACK + 32, 0, 0x210, 0, 0, 0x310)

    assert [0x100, 0x210, 0x310] == walk(rows, *words)


def test_an_expression_is_evaluated_with_the_caller_s_frame_on_it() -> None:
    # breg7 (rsp) 8, breg16 as of a PLT entry is not known, so: lit8, plus
    expression = bytes([0x77, 0x08, 0x38, 0x22])
    rows = {0x100: row(0, cfa=expression), 0x200: None}

    assert [0x100, 0x210] == walk(rows, 0, 0x210)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (bytes([0x77, 0x00]), STACK),
        (bytes([0x77, 0x78]), STACK - 8),
        (bytes([0x77, 0x08, 0x06]), 0x55),  # deref
        (bytes([0x08, 0x07, 0x31, 0x24]), 14),  # const1u 7, lit1, shl
        (bytes([0x35, 0x33, 0x1C]), 2),  # minus
        (bytes([0x33, 0x35, 0x1C]), (1 << 64) - 2),
        (bytes([0x31, 0x28, 1, 0, 0x30, 0x3F]), 15),  # bra over lit0
        (bytes([0x35, 0x12, 0x1E, 0x23, 0x80, 0x01]), 25 + 128),  # dup, mul, plus_uconst
        (bytes([0x3F, 0x3B, 0x1A, 0x3B, 0x2A]), 1),  # and, ge
    ],
)
def test_an_expression_has_its_value(code: bytes, expected: int) -> None:
    value = unwind._evaluate(code, {RSP: STACK}, memory(0, 0x55), None)

    assert expected == value


def test_without_a_rule_the_frame_pointer_leads_on() -> None:
    rows = {0x100: row(8), 0x900: None, 0xA00: row(8), 0x200: None}
    words = (0x910, 0, STACK + 32, 0xA10, 0x0, 0x0)

    assert [0x100, 0x910, 0xA10] == walk(rows, *words, rbp=STACK + 16)[:3]


def test_what_a_broken_chain_leads_to_is_no_frame() -> None:
    assert [0x100] == walk({0x100: None}, 0, 0xBAD00, rbp=STACK)
    assert [0x100] == walk({0x100: None}, 0, 0, rbp=STACK - 64)
    assert [0x100] == walk({0x100: row(4096)}, 0, 0)


def test_what_was_not_read_of_the_stack_ends_the_walk() -> None:
    with_hole = unwind.Memory(STACK, struct.pack("<2Q", 0x110, 0x120) * 64, frozenset({1}))

    assert 0x110 == with_hole.word(STACK + 496)
    for at in (505, 512, 1016):
        with pytest.raises(unwind.LostError):
            with_hole.word(STACK + at)


@pytest.mark.parametrize(
    "size, expected", [(512, [0x100, 0x210]), (520, [0x100]), (1040, [0x100, 0x210])]
)
def test_a_frame_ends_the_walk_only_where_its_return_address_lies_in_a_hole(
    size: int, expected: list[int]
) -> None:
    # Each word of it is a return address into the second function, which is the last.
    with_hole = unwind.Memory(STACK, struct.pack("<Q", 0x210) * 192, frozenset({1}))
    rows = {0x100: row(size), 0x200: cfi.Row((RSP, 8), ((RA, cfi.UNDEFINED, 0),), RA, False)}

    found = unwind.walk(
        0x100, {RSP: STACK, RBP: 0}, with_hole, lambda address: rows[address & ~0xFF], "x86_64"
    )

    assert expected == found


def test_the_entry_that_ends_before_a_system_call_still_holds_after_it() -> None:
    rows = {0x000: row(8), 0x100: None, 0x200: cfi.Row((RSP, 8), ((RA, 0, 0),), RA, False)}

    assert [0x102, 0x210] == walk(rows, 0x210, pc=0x102)


def test_a_stack_that_leads_back_into_itself_ends() -> None:
    assert [0x100] == walk({0x100: row(0, cfa=(RBP, 0))}, 0x110, rbp=STACK)
    rows = {0x100: row(8)}
    found = walk(rows, *[0x110] * 2000)

    assert unwind.MOST_FRAMES == len(found)


def test_an_expression_that_never_ends_is_given_up() -> None:
    endless = bytes([0x2F, 0xFD, 0xFF])  # skip back to itself

    assert [0x100] == walk({0x100: row(0, cfa=endless)}, 0x110)


def test_a_deadline_ends_the_walk() -> None:
    found = unwind.walk(
        *(0x100, {RSP: STACK, RBP: 0}, memory(*[0x110] * 100)),
        *(lambda _: row(8), "x86_64", time.monotonic() - 1),
    )

    assert [0x100] == found


def test_arm64_keeps_the_return_address_in_a_register_until_it_is_saved() -> None:
    leaf = cfi.Row((31, 0), (), 30, False)
    saved = cfi.Row((31, 16), ((30, cfi.OFFSET, -8), (29, cfi.OFFSET, -16)), 30, False)
    rows = {0x100: leaf, 0x200: saved, 0x300: leaf}
    signed = 0xAB << 56 | 0x310
    found = unwind.walk(
        *(0x100, {31: STACK, 30: 0x210, 29: 0}, memory(0, signed, 0)),
        *(lambda address: rows[address & ~0xFF], "aarch64"),
    )

    assert [0x100, 0x210, 0x310] == found


@pytest.mark.parametrize("stack", [STACK, 1 << 50])
def test_a_signature_lies_above_the_addresses_of_its_process(stack: int) -> None:
    short, long = 0x0000_AAAA_BBBB_CCCC, 0x000F_AAAA_BBBB_CCCC
    signed = 0x5A5 << 52 | long

    assert (long if stack >> 48 else short) == unwind.unsigned(signed, stack)


RULES = some.tuples(some.integers(0, 16), some.integers(0, 3), some.integers(-64, 64))
CODE = some.binary(max_size=24)


@given(
    some.integers(-16, 4096) | CODE,
    some.lists(RULES | some.tuples(some.integers(0, 16), some.integers(4, 5), CODE), max_size=5),
    some.lists(some.integers(0, (1 << 64) - 1) | some.just(0x110), max_size=40),
)
def test_no_rule_or_stack_is_too_odd(
    size: int | bytes, rules: list[tuple[int, int, int | bytes]], words: list[int]
) -> None:
    odd = cfi.Row(size if isinstance(size, bytes) else (RSP, size), tuple(rules), RA, False)

    assert 1 <= len(walk({0x100: odd}, *words)) <= unwind.MOST_FRAMES
