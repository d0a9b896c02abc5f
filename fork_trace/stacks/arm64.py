"""What arm64's instructions tell a stack that is followed without unwind tables: what a call calls, what a frame takes. Pure.

All are 32 bits wide; their fields are in the Arm Architecture Reference Manual (DDI 0487), C4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

FRAME_POINTER, LINK, STACK_POINTER = 29, 30, 31
_BTI_C = 0xD503245F
_SYSTEM_CALL, _RETURN = 0xD4000001, 0xD65F03C0


class Frame(NamedTuple):
    """What a function does to the stack before its first call, system call or return."""

    lowered: int  # the bytes by which it lowers the stack pointer
    # How far below the caller's stack pointer it keeps its return address; None: in its register.
    depth: int | None
    has_pointer: bool = False  # the caller's frame pointer lies right below that


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> bits - 1 & 1 else value


def call_target(word: int, at: int) -> int | None:
    """Return what the instruction at an address calls: only of bl it is written there."""
    return at + 4 * _signed(word & 0x3FFFFFF, 26) if word >> 26 == 0x25 else None


def stub_slot(words: Sequence[int], at: int) -> int | None:
    """Return where a stub of the procedure linkage table finds its target's address; None: it is no such stub."""
    if words[0] == _BTI_C:
        words, at = words[1:], at + 4
    page, load = words[0], words[1]
    # adrp x16, PAGE; ldr x17, [x16, #OFFSET]
    if page & 0x9F00001F != 0x90000010 or load & 0xFFC003FF != 0xF9400211:
        return None
    pages = _signed((page >> 5 & 0x7FFFF) << 2 | page >> 29 & 3, 21)
    return (at & ~0xFFF) + (pages << 12) + (load >> 10 & 0xFFF) * 8


def frame(words: Sequence[int]) -> Frame | None:
    """Read the first instructions of a function; what stands between those of its frame is passed over.

    None: it lowers the stack pointer by what they do not tell.
    """
    lowered, depth, has_pointer = 0, None, False
    constants: dict[int, int] = {}  # what registers hold: a large frame is subtracted from there
    for word in words:
        # A call would change the return address, so it is kept before the first one.
        if word >> 26 == 0x25 or word in (_SYSTEM_CALL, _RETURN):
            break
        if word & 0xFF8003FF == 0xD10003FF:  # sub sp, sp, #N {, lsl #12}
            lowered += (word >> 10 & 0xFFF) << (12 if word >> 22 & 1 else 0)
            continue
        if word & 0xFF800000 == 0xD2800000:  # mov xA, #N
            constants[word & 31] = (word >> 5 & 0xFFFF) << 16 * (word >> 21 & 3)
            continue
        if word & 0xFFE0FFFF == 0xCB2063FF:  # sub sp, sp, xA
            if word >> 16 & 31 not in constants:
                return None
            lowered += constants[word >> 16 & 31]
            continue
        is_pair, before = word & 0xFE4003E0 == 0xA80003E0, word >> 23 & 3
        if is_pair and before in (2, 3):  # stp A, B, [sp, #N] or [sp, #N]!
            offset = 8 * _signed(word >> 15 & 0x7F, 7)
            registers: tuple[int, ...] = (word & 31, word >> 10 & 31)
            is_lowering = before == 3
        elif word & 0xFFC003E0 == 0xF90003E0:  # str A, [sp, #N]
            offset, registers, is_lowering = 8 * (word >> 10 & 0xFFF), (word & 31,), False
        elif word & 0xFFE00FE0 == 0xF8000FE0:  # str A, [sp, #N]!
            offset, registers, is_lowering = _signed(word >> 12 & 0x1FF, 9), (word & 31,), True
        else:
            continue
        if is_lowering:
            lowered, offset = lowered - offset, 0
        if LINK in registers and depth is None:
            place = registers.index(LINK)
            depth = lowered - offset - 8 * place
            has_pointer = place == 1 and registers[0] == FRAME_POINTER
    return Frame(lowered, depth, has_pointer)
