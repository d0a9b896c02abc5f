"""Bytes of the kernel side as values; that the layouts are the kernel side's is test_abi's."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as some

from fork_trace.model import events


def raw_key(**changes: object) -> bytes:
    values: dict[str, object] = {
        "comm": b"sh",
        "cgroup": 77,
        "uid": 1000,
        "error": -11,
        "step": 6,
        "detail": 0,
        "syscall": 3,
        "bits": 2,
        "unused": 0,
        "fits": 0,
    }
    return struct.pack("=16sQIiBBBBIQ", *{**values, **changes}.values())


def raw_event(
    key: bytes | None = None,
    have: int = 0,
    numbers: dict[int, int] | None = None,
    frames: tuple[int, ...] = (),
    frame_count: int | None = None,
    places: tuple[tuple[int, bytes, int], ...] = (),
    levels: tuple[tuple[int, int, int, int, int], ...] = (),
    level_count: int | None = None,
    path: bytes = b"",
    path_bytes: int | None = None,
    maker: tuple[int, int, bytes, bytes, bytes] = (0, 0, b"", b"", b""),
) -> bytes:
    count = len(frames) if frame_count is None else frame_count
    raw = struct.pack("=Q", 5) + (key or raw_key())
    level_count = len(levels) if level_count is None else level_count
    path_bytes = len(path) if path_bytes is None else path_bytes
    raw += struct.pack(
        "=QIIIIII16sQ", 0x11, 42, 43, 1, count, level_count, path_bytes, b"cron", have
    )
    for index in range(len(events.NUMBERS)):
        raw += struct.pack("=Q", (numbers or {}).get(index, 0))
    for index in range(events.USER_FRAMES):
        raw += struct.pack("=Q", frames[index] if index < len(frames) else 0)
    for index in range(events.USER_FRAMES):
        raw += struct.pack("=i20sQ", *(places[index] if index < len(places) else (0, b"", 0)))
    for index in range(events.LEVEL_COUNT):
        raw += struct.pack("=QQQII", *(levels[index] if index < len(levels) else (0,) * 5))
    raw += path.ljust(events.CGROUP_PATH_BYTES, b"\0")
    return raw + struct.pack("=II16s48s48s", *maker)


def test_frames_end_where_frame_pointers_led_out_of_every_mapping() -> None:
    ours = (1, b"\x01" * 20, 0x10)
    astray = (1, b"\x01" * 20, (0xC9 - 0x560867B35000) & (1 << 64) - 1)
    raw = raw_event(frames=(0x1000, 0xC9, 0x2000), places=(ours, astray, ours))

    assert (events.Place(0x1000, "01" * 20, 0x10),) == events.decode(raw).user_frames


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ((0, 9, b"mount", b"jbd2", b"kjournald2"), None),
        ((1, 0, b"", b"", b""), events.Maker("io-uring-worker")),
        (
            (3, 77, b"mount", b"", b"kjournald2"),
            events.Maker("kernel-thread", None, "kjournald2", "mount", 77),
        ),
        ((4, 0, b"", b"/sbin/modprobe", b""), events.Maker("user-mode-helper", "/sbin/modprobe")),
        ((200, 0, b"", b"x\xff", b""), events.Maker("unknown:200", "x\\xff")),
    ],
)
def test_who_makes_a_task_in_the_kernel_is_decoded(
    raw: tuple[int, int, bytes, bytes, bytes], expected: events.Maker | None
) -> None:
    assert expected == events.decode(raw_event(maker=raw)).maker


@pytest.mark.parametrize(
    ("word", "is_32_bit"), [(0x33, False), (0x23, True), (0xABCD00000023, True)]
)
def test_a_32_bit_task_is_known_whatever_else_its_word_holds(word: int, is_32_bit: bool) -> None:
    stack = events.Stack(0, 1, (*(0,) * 17, word, *(0,) * 16), 0)

    assert (stack.dwarf_registers("x86_64") is None) is is_32_bit


def test_an_event_is_decoded_with_all_that_it_holds() -> None:
    raw = raw_event(
        have=1 << 22 | 1 << 23,
        numbers={22: 7, 23: 8},
        frames=(0x1000, 0x2000),
        places=((1, b"\x01" * 20, 0x10), (2, b"\x02" * 20, 0x20)),
        levels=((99, 7, 8, 1, 0), (98, 9, (1 << 64) - 1, 1, 1)),
    )

    assert events.Event(
        time_ns=5,
        key=events.Key("sh", 77, 1000, 11, 6, "", "clone", False, True),
        flags=0x11,
        pid=42,
        tid=43,
        ppid=1,
        parent_comm="cron",
        numbers={"pids_current": 7, "pids_limit": 8},
        user_frames=(events.Place(0x1000, "01" * 20, 0x10), events.Place(0x2000)),
        levels=(
            events.Level("pids-cgroup", 0, 99, 7, 8),
            events.Level("pids-cgroup", 1, 98, 9, -1),
        ),
    ) == events.decode(raw)


@pytest.mark.parametrize(
    ("path", "path_bytes", "expected"),
    [
        (b"", None, None),
        (b"leaf\0", None, "/leaf"),
        (b"leaf\0middle\0top\0", None, "/top/middle/leaf"),
        (b"l\xffaf\0t\ntop\0", None, "/t\ntop/l\\xffaf"),
        # What cannot have been written is no path: nothing is made up.
        (b"a\0", 5000, None),
        (b"a\0", 4, None),
        (b"leaf\0midd", None, None),
    ],
)
def test_a_cgroup_path_is_put_together_from_its_names(
    path: bytes, path_bytes: int | None, expected: str | None
) -> None:
    raw = raw_event(path=path, path_bytes=path_bytes)

    assert expected == events.decode(raw).cgroup_path


def test_a_number_that_was_not_read_is_absent_even_if_its_bytes_are_not_zero() -> None:
    raw = raw_event(have=0b10, numbers={0: 5, 1: 0})

    assert {"nproc_limit": 0} == events.decode(raw).numbers


def test_a_number_below_zero_stays_below_zero() -> None:
    assert {"nproc": -1} == events.decode(raw_event(have=1, numbers={0: (1 << 64) - 1})).numbers


def test_padding_behind_an_event_does_no_harm() -> None:
    assert events.decode(raw_event()) == events.decode(raw_event() + b"\xff" * 4)


@pytest.mark.parametrize(
    ("decode", "size"),
    [
        (events.decode, events.EVENT_BYTES),
        (events.decode_key, events.KEY_BYTES),
        (events.decode_tally, events.TALLY_BYTES),
    ],
)
def test_bytes_that_are_too_few_are_refused_with_both_sizes(
    decode: Callable[[bytes], object], size: int
) -> None:
    decode(bytes(size))

    with pytest.raises(events.BadEventError, match=f"{size} bytes, got {size - 1}"):
        decode(bytes(size - 1))


@given(some.binary(min_size=events.EVENT_BYTES, max_size=events.EVENT_BYTES))
def test_any_bytes_decode_and_their_names_are_valid_text(raw: bytes) -> None:
    event = events.decode(raw)

    assert (event.key.comm + event.parent_comm).encode("utf-8") is not None
    assert len(event.user_frames) <= events.USER_FRAMES
    assert len(event.levels) <= events.LEVEL_COUNT


def test_a_frame_count_beyond_the_array_is_cut_to_it() -> None:
    assert events.USER_FRAMES == len(events.decode(raw_event(frame_count=1 << 31)).user_frames)


def test_a_level_count_beyond_the_array_is_cut_to_it() -> None:
    assert events.LEVEL_COUNT == len(events.decode(raw_event(level_count=(1 << 32) - 1)).levels)


def test_levels_that_were_not_read_are_absent_even_if_their_bytes_are_not_zero() -> None:
    raw = raw_event(levels=((1, 2, 3, 4, 5), (6, 7, 8, 2, 9)), level_count=1)

    assert (events.Level("nproc", 5, 1, 2, 3),) == events.decode(raw).levels


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (1, "pids-cgroup"),
        (2, "pid-namespace"),
        (3, "memory-cgroup"),
        (4, "nproc"),
        (5, "unknown:5"),
    ],
)
def test_a_level_says_of_which_hierarchy_it_is(kind: int, word: str) -> None:
    (level,) = events.decode(raw_event(levels=((0, 0, 0, kind, 0),))).levels

    assert word == level.kind


@pytest.mark.parametrize("bit", range(len(events.FITS)))
def test_each_fit_has_its_bit(bit: int) -> None:
    assert frozenset({events.FITS[bit]}) == events.decode_key(raw_key(fits=1 << bit)).fits


def test_fits_of_a_newer_kernel_side_hide_none_that_is_known() -> None:
    key = events.decode_key(raw_key(fits=(1 << 64) - 1))

    assert frozenset(events.FITS) == key.fits


@pytest.mark.parametrize(
    ("comm", "shown"),
    [
        (b"sh", "sh"),
        (b"sh\0rest", "sh"),
        (b"x" * 15 + b"\x01", "x" * 15),  # the mark of a generation
        ("café".encode(), "café"),
        (b"caf\xe9", "caf\\xe9"),
        (b"", ""),
    ],
)
def test_a_command_of_any_bytes_is_text(comm: bytes, shown: str) -> None:
    assert shown == events.decode_key(raw_key(comm=comm)).comm


def test_words_that_this_version_does_not_know_stay_visible() -> None:
    key = events.decode_key(raw_key(step=200, detail=201, syscall=202))

    assert ("unknown:201", "unknown:202", "unknown:200") == (
        key.detail,
        key.syscall,
        events.step_name(key),
    )


@pytest.mark.parametrize(
    ("bits", "expected"),
    [(0, (0, 0, 0)), (1, (1, 0, 0)), (2, (0, 1, 0)), (4, (0, 0, 1)), (7, (1, 1, 1))],
)
def test_the_bits_of_a_key_are_told_apart(bits: int, expected: tuple[int, int, int]) -> None:
    key = events.decode_key(raw_key(bits=bits))

    assert expected == (key.is_thread, key.is_observed, key.is_memcg)


def test_a_tally_is_its_count_and_what_of_it_has_no_event() -> None:
    assert events.Tally(1009, 7) == events.decode_tally(struct.pack("=QQQQ", 1009, 7, 5, 6))


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (17, ()),  # SIGCHLD, the exit signal, is no flag
        (0x01200011, ("CLONE_CHILD_CLEARTID", "CLONE_CHILD_SETTID")),  # glibc's fork
        (0x4111, ("CLONE_VM", "CLONE_VFORK")),
        (0x200000000, ("CLONE_INTO_CGROUP",)),
        (0x2400000000, ("CLONE_AUTOREAP", "CLONE_EMPTY_MNTNS")),
        (0x8000000100, ("CLONE_VM", "unknown:0x8000000000")),
        (1 << 63, ("unknown:0x8000000000000000",)),  # of the caller's own making
        (events.FLAGS_UNKNOWN | 0x100, ("unknown",)),
        (0, ()),
    ],
)
def test_flags_have_the_names_of_the_kernel(flags: int, names: tuple[str, ...]) -> None:
    assert names == events.flag_names(flags)


def test_every_flag_is_one_bit_and_has_one_name() -> None:
    bits = [bit for bit, _ in events.CLONE_FLAGS]

    assert [1 << n for n in range(8, 38)] == bits
    assert len(bits) == len({name for _, name in events.CLONE_FLAGS})


def raw_stack(
    parts: tuple[bytes, ...] = (b"app", b"bin"),
    argument: bytes = b"app\0-x\0half",
    registers: tuple[int, ...] = tuple(range(34)),
    **changes: int,
) -> bytes:
    values = {"time_ns": 5, "tid": 43, "byte_count": 16, "start": 0x7FFE_0000, "code_end": 0x5000}
    values.update({"exe_inode": 99, "exe_device": 8 << 20 | 2, "have": 0, "zero": 0})
    values["part_count"] = len(parts)
    values["argument_count"] = len(argument)
    raw = struct.pack("=QIIQQQQQQII", *{**values, **changes}.values())
    raw += struct.pack("=34Q", *registers)
    raw += b"".join(part.ljust(64, b"\0") for part in parts).ljust(12 * 64, b"\xa5")
    return raw + argument.ljust(256, b"\xa5") + b"0123456789abcdef" + b"\xa5" * 16


def test_a_stack_is_decoded_with_all_that_it_holds() -> None:
    assert events.Stack(
        time_ns=5,
        tid=43,
        registers=tuple(range(34)),
        start=0x7FFE_0000,
        slice=b"0123456789abcdef",
        code_end=0x5000,
        exe_inode=99,
        exe_device=(8, 2),
        exe="/bin/app",
        arguments=("app", "-x"),
    ) == events.decode_stack(raw_stack())


@pytest.mark.parametrize(
    "parts", [(), (b"x",) * 12, (b"x" * 63, b"bin"), (b"", b"bin"), (b"app", b"x" * 64)]
)
def test_a_path_that_was_cut_is_not_known(parts: tuple[bytes, ...]) -> None:
    assert events.decode_stack(raw_stack(parts)).exe is None


def test_what_was_not_read_of_a_program_is_not_known() -> None:
    stack = events.decode_stack(raw_stack(code_end=0, exe_inode=0, argument=b""))

    assert (None, None, ()) == (stack.code_end, stack.exe_inode, stack.arguments)


@given(some.binary(max_size=events.STACK_HEAD_BYTES + 64))
def test_no_bytes_of_a_stack_are_worse_than_refused(raw: bytes) -> None:
    if len(raw) < events.STACK_HEAD_BYTES:
        with pytest.raises(events.BadEventError):
            events.decode_stack(raw)
    else:
        assert len(events.decode_stack(raw).slice) <= 64


def test_what_could_not_be_read_of_a_stack_is_a_hole() -> None:
    stack = events.decode_stack(raw_stack(byte_count=2048, have=0b1001) + bytes(4096))

    assert (2048, frozenset({1, 2})) == (len(stack.slice), stack.holes)


def test_registers_are_told_by_the_numbers_of_dwarf() -> None:
    # struct pt_regs of x86-64: r15 first, then down to sp.
    pc, registers = events.decode_stack(raw_stack()).dwarf_registers("x86_64") or (0, {})

    assert (16, 19, 4, 5, 0) == (pc, registers[7], registers[6], registers[3], registers[15])
    arm_pc, arm = events.decode_stack(raw_stack()).dwarf_registers("aarch64") or (0, {})
    assert (32, 31, 30, 29) == (arm_pc, arm[31], arm[30], arm[29])


def test_a_32_bit_task_is_not_unwound() -> None:
    of_32 = tuple(0x23 if number == 17 else number for number in range(34))
    arm_32 = tuple(0x10 if number == 33 else number for number in range(34))

    assert events.decode_stack(raw_stack(registers=of_32)).dwarf_registers("x86_64") is None
    assert events.decode_stack(raw_stack(registers=arm_32)).dwarf_registers("aarch64") is None
    assert events.decode_stack(raw_stack()).dwarf_registers("riscv64") is None
