"""What arm64's instructions tell, by those of real programs."""

from __future__ import annotations

import struct

import pytest

from fork_trace.stacks import arm64
from fork_trace.stacks.arm64 import Frame


def words(text: str) -> tuple[int, ...]:
    """Instructions as a disassembler prints their bytes."""
    raw = bytes.fromhex(text)
    return struct.unpack(f"<{len(raw) // 4}I", raw)


STUB = "10010090 110240f9 10020091 20021fd6"  # of Debian 13's programs
BTI_STUB = "5f2403d5 100000b0 11fe47f9"

FRAMES = {
    # musl 1.2.5 of Debian 13: paciasp; sub sp, sp, #224; ...; stp x29, x30, [sp, #144]
    "fork": (
        "3f2303d5 ff8303d1 00008012 e10300d0 21bc47f9 fd7b09a9 fd430291 f3530aa9",
        Frame(224, 72, True),
    ),
    # paciasp; stp x29, x30, [sp, #-64]!; ...; sub sp, sp, #1104; str xzr, [sp, #1024]
    "system": (
        "3f2303d5 fd7bbca9 fd030091 f35301a9 f55b02a9 ff4311d1 ff0302f9",
        Frame(1168, 56, True),
    ),
    # mov x8, #220; ...; svc #0; and what comes after does not count
    "vfork": ("881b80d2 202288d2 010080d2 010000d4 ff4311d1", Frame(0, None)),
    # musl 1.2.3 of Debian 12: stp x29, x30, [sp, #-16]! and then the system call
    "older-vfork": ("fd7bbfa9 881b80d2 200280d2 fd030091 010000d4", Frame(16, 8, True)),
    # str x30, [sp, #-32]!; str x19, [sp, #8]; bl
    "without-pointer": ("fe0f1ef8 f30700f9 00000094 fd7bbfa9", Frame(32, 32)),
    # mov x12, #5744; sub sp, sp, x12; adrp; stp x29, x30, [sp]
    "older-posix_spawn": ("0cce82d2 ff632ccb 86030090 fd7b00a9", Frame(5744, 5736, True)),
    "unknown": ("ff632ccb fd7b00a9", None),
    # sub sp, sp, #1, lsl #12; str x30, [sp, #8]; stp x19, x30, [sp, #16], too late
    "large": ("ff0740d1 fe0700f9 f37b01a9", Frame(4096, 4088)),
}


@pytest.mark.parametrize("name", FRAMES)
def test_a_functions_beginning_tells_its_frame(name: str) -> None:
    text, frame = FRAMES[name]

    assert frame == arm64.frame(words(text))


def test_a_stub_tells_where_its_target_is_written() -> None:
    assert 0x20000 == arm64.stub_slot(words(STUB), 0xAB0)
    assert 0x1000 + 4088 == arm64.stub_slot(words(BTI_STUB), 0xAC0)
    # fork itself is none.
    assert arm64.stub_slot(words(FRAMES["fork"][0]), 0xAB0) is None


def test_only_a_call_by_distance_tells_what_it_calls() -> None:
    (call,) = words("adfeff97")
    (through_register,) = words("20003fd6")

    assert 0xB10 == arm64.call_target(call, 0x105C)
    assert arm64.call_target(through_register, 0x105C) is None
