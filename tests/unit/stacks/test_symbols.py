"""Frames of user stacks, from places and from slices of a stack in files that were built for it."""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import building
import pytest
from building import ID

from fork_trace import mounts
from fork_trace.host import procfs
from fork_trace.model.events import Place, Stack
from fork_trace.model.records import Frame
from fork_trace.mounts import OwnMounts
from fork_trace.stacks import cfi, symbol_files, symbols
from fork_trace.stacks.layouts import Caller

SOURCE = """
int refuse_here(int x) { return x * 3 + 1; }
int refuse_there(int x) { return x * 5 + 2; }
"""
SELF = Caller(os.getpid(), os.getuid())
GONE = Caller(2**22 + 1, os.getuid())

x86_64 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="its registers are x86-64's")


def build(directory: Path, name: str, build_id: str = ID, source: str = SOURCE) -> Path:
    return building.library(directory, name, source=source, build_id=build_id)


@pytest.fixture
def named() -> Iterator[symbols.Symbols]:
    found = symbols.Symbols()
    yield found
    found.close()


def address_of(function: object) -> int:
    address = ctypes.cast(function, ctypes.c_void_p).value  # type: ignore[arg-type]
    assert address
    return address


def place(function: object, build_id: str = ID, into: int = 1) -> Place:
    """The place of a loaded function: as the kernel gives it, a build id and an offset in the file."""
    address = address_of(function) + into
    for mapping in procfs.mappings(os.getpid()):
        if mapping.start <= address < mapping.end:
            return Place(address, build_id, address - mapping.start + mapping.file_offset)
    raise AssertionError("the function is in no file")


def frames(
    named: symbols.Symbols, *places: Place, caller: Caller = SELF, stack: Stack | None = None
) -> tuple[Frame, ...]:
    named.note(caller, places, stack)
    return named.frames(caller, places, stack)[0]


def gone(named: symbols.Symbols, *places: Place, stack: Stack | None = None) -> tuple[Frame, ...]:
    """The frames of a process that was gone before anything of it was looked at."""
    return frames(named, *places, caller=GONE, stack=stack)


@pytest.mark.parametrize("name", ["refuse_here", "refuse_there"])
def test_a_place_has_the_name_of_its_function_and_its_file(
    named: symbols.Symbols, tmp_path: Path, name: str
) -> None:
    built = build(tmp_path, "ours.so")
    where = place(getattr(ctypes.CDLL(str(built)), name))

    (frame,) = frames(named, where)

    assert Frame(where.address, name, str(built), where.offset, ID) == frame


def test_a_stack_is_named_once_until_the_mappings_are_read_again(
    named: symbols.Symbols, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = place(ctypes.CDLL(str(build(tmp_path, "ours.so"))).refuse_here)
    known = frames(named, where)
    looked: list[int] = []

    def look(address: int, *_: object) -> Frame:
        looked.append(address)
        return Frame(address, None, None)

    monkeypatch.setattr(named._names, "_frame", look)

    assert known == named.frames(SELF, [where])[0]
    assert [] == looked
    others = (replace(SELF, uid=SELF.uid + 1), where), (SELF, replace(where, build_id=None))
    for caller, other in others:
        named.frames(caller, [other])
    named._layouts.kept.clear()
    named.note(SELF, [where], None)
    named.frames(SELF, [where])
    assert 3 * [where.address] == looked


def test_what_may_have_a_name_the_next_time_is_looked_up_again(
    named: symbols.Symbols, tmp_path: Path
) -> None:
    where = place(ctypes.CDLL(str(build(tmp_path, "ours.so"))).refuse_here)
    named.note(SELF, [where], None)
    named._work.left, named._work.per_s = 0, 0
    (nameless,) = named.frames(SELF, [where])[0]
    named._work.left = named._work.most

    (frame,) = named.frames(SELF, [where])[0]

    assert (None, "refuse_here") == (nameless.symbol, frame.symbol)
    # What lies in no file may be a JIT compiler's, whose perf map comes later.
    kept = len(named._names._stacks)
    named.frames(SELF, [Place(0xDEAD)])
    assert (1, 1) == (kept, len(named._names._stacks))


def test_a_name_is_known_after_the_process_and_its_mappings_are_gone(
    named: symbols.Symbols, tmp_path: Path
) -> None:
    where = place(ctypes.CDLL(str(build(tmp_path, "ours.so"))).refuse_here)
    frames(named, where)

    (frame,) = gone(named, Place(0xDEAD, ID, where.offset))

    assert "refuse_here" == frame.symbol


def test_a_file_that_was_replaced_since_lends_nobody_its_names(
    named: symbols.Symbols, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(symbol_files, "_OPEN_FILES", 1)
    built = build(tmp_path, "ours.so")
    where = place(ctypes.CDLL(str(built)).refuse_here)
    named.note(SELF, [where], None)
    built.unlink()
    build(tmp_path, "ours.so", ID[::-1])
    other = build(tmp_path, "other.so", ID[:-1] + "8")
    named._layouts.kept.clear()
    frames(named, place(ctypes.CDLL(str(other)).refuse_here, ID[:-1] + "8"))

    (frame,) = gone(named, Place(0xDEAD, ID, where.offset))

    assert (None, str(built)) == (frame.symbol, frame.file)


def test_a_file_that_was_deleted_is_read_all_the_same(
    named: symbols.Symbols, tmp_path: Path
) -> None:
    built = build(tmp_path, "ours.so")
    where = place(ctypes.CDLL(str(built)).refuse_here)
    built.unlink()
    if not os.access(f"/proc/self/map_files/{min(os.listdir('/proc/self/map_files'))}", os.R_OK):
        pytest.skip("needs the right to open map_files; run it as root")

    (frame,) = frames(named, where)

    assert "refuse_here" == frame.symbol


def test_a_place_outside_every_function_or_file_has_no_name(
    named: symbols.Symbols, tmp_path: Path
) -> None:
    where = place(ctypes.CDLL(str(build(tmp_path, "ours.so"))).refuse_here)
    frames(named, where)

    found = gone(named, Place(1, ID, 1 << 40), Place(2, "00" * 20, 1), Place(3))

    assert [None, None, None] == [frame.symbol for frame in found]
    assert [str(tmp_path / "ours.so"), None, None] == [frame.file for frame in found]
    assert [ID, "00" * 20, None] == [frame.build_id for frame in found]


def test_the_c_library_is_known_before_anybody_fails(named: symbols.Symbols) -> None:
    libc = ctypes.CDLL(None)
    (path,) = {
        mapping.path
        for mapping in procfs.mappings(os.getpid())
        if os.path.basename(mapping.path or "").startswith(("libc.so", "libc-2."))
    }
    build_id = next(known for known, file in named._files._paths.items() if file == path)

    (frame,) = gone(named, place(libc.getpid, build_id))

    assert (path, True) == (frame.file, "getpid" in (frame.symbol or ""))


# struct pt_regs of x86-64
IP, CS, SP = 16, 17, 19


def stack_of(pc: int, *words: int, **changes: Any) -> Stack:
    registers = [0] * 34
    registers[IP], registers[CS], registers[SP] = pc, 0x33, 0x7FFE_0000
    values: dict[str, Any] = {
        "time_ns": 1,
        "tid": 1,
        "registers": tuple(registers),
        "start": 0x7FFE_0000,
        "slice": struct.pack(f"<{len(words)}Q", *words),
    }
    return Stack(**{**values, **changes})


@x86_64
def test_a_stack_is_unwound_through_files_without_frame_pointers(
    named: symbols.Symbols, tmp_path: Path
) -> None:
    library = ctypes.CDLL(str(build(tmp_path, "ours.so")))
    where = place(library.refuse_here, into=0)
    stack = stack_of(where.address, address_of(library.refuse_there) + 4, 0)
    named.note(SELF, [where], stack)

    found, how = named.frames(SELF, [where], stack)

    assert ["refuse_here", "refuse_there"] == [frame.symbol for frame in found]
    assert "unwinding" == how


@x86_64
def test_what_cannot_be_unwound_keeps_the_frames_that_the_kernel_found(
    named: symbols.Symbols, tmp_path: Path
) -> None:
    where = place(ctypes.CDLL(str(build(tmp_path, "ours.so"))).refuse_here, into=0)
    places = [where, Place(0x10, None, None)]
    for stack in (None, stack_of(where.address), stack_of(0x10, 0x20, 0x30)):
        named.note(SELF, places, stack)

        found, how = named.frames(SELF, places, stack)

        assert [where.address, 0x10] == [frame.address for frame in found]
        assert "frame-pointers" == how


def test_without_any_stack_nothing_is_said_of_one(named: symbols.Symbols) -> None:
    assert ((), None) == named.frames(GONE, [])


PROGRAM = """
__attribute__((noinline)) int run_job(int x) { return x * 3 + 1; }
int main(int argc, char **argv) { return run_job(argc); }
"""


def build_program(directory: Path) -> tuple[Path, int, int]:
    """A program; where its code ends, and where run_job is, as linked."""
    built = directory / "program"
    (directory / "program.c").write_text(PROGRAM)
    subprocess.run(["cc", "-O1", "-pie", "-fPIE", "-o", built, directory / "program.c"], check=True)
    headers = subprocess.run(["readelf", "-lW", built], capture_output=True, text=True).stdout
    code = next(line.split() for line in headers.splitlines() if " R E " in line)
    listed = subprocess.run(["nm", built], capture_output=True, text=True).stdout
    job = next(line.split()[0] for line in listed.splitlines() if line.endswith(" run_job"))
    return built, int(code[2], 16) + int(code[4], 16), int(job, 16)


@x86_64
def test_a_program_that_is_gone_is_found_by_its_inode_and_the_end_of_its_code(
    named: symbols.Symbols, tmp_path: Path
) -> None:
    built, end, job = build_program(tmp_path)
    status, bias = built.stat(), 0x5555_5555_0000
    stack = stack_of(
        *(bias + job, bias + job + 1, 0),
        code_end=bias + end,
        exe_inode=status.st_ino,
        exe_device=(os.major(status.st_dev), os.minor(status.st_dev)),
        exe=str(built),
    )
    if str(built) not in OwnMounts().find(str(built), mounts.device_name(*stack.exe_device)):
        pytest.skip(
            "the directory of this test is on a filesystem whose mount tells another device"
        )

    found = gone(named, Place(bias + job), stack=stack)

    assert [("run_job", str(built))] * 2 == [(frame.symbol, frame.file) for frame in found]
    assert str(built) == named.program(stack)


@x86_64
def test_a_program_that_would_not_lie_on_a_page_is_another_one(
    named: symbols.Symbols, tmp_path: Path
) -> None:
    built, end, job = build_program(tmp_path)
    status = built.stat()
    stack = stack_of(
        *(job, job + 1),
        code_end=end + 8,
        exe_inode=status.st_ino,
        exe_device=(os.major(status.st_dev), os.minor(status.st_dev)),
        exe=str(built),
    )

    assert [None] == [frame.symbol for frame in gone(named, Place(job), stack=stack)]


@x86_64
def test_mappings_of_another_program_are_not_taken_for_the_caller_s(
    named: symbols.Symbols, tmp_path: Path
) -> None:
    library = ctypes.CDLL(str(build(tmp_path, "ours.so")))
    where = Place(address_of(library.refuse_here))
    stack = stack_of(where.address, address_of(library.refuse_there) + 4, code_end=0x1234)

    assert [None] == [frame.symbol for frame in frames(named, where, stack=stack)]


def test_a_hostile_file_is_no_crash(named: symbols.Symbols, tmp_path: Path) -> None:
    built = build(tmp_path, "ours.so")
    where = place(ctypes.CDLL(str(built)).refuse_here)
    frames(named, where)
    image = built.read_bytes()
    built.unlink()  # the mapping stays whole
    for broken in (b"", b"\x7fELF", image[: len(image) // 2], b"\x7fELF" + b"\xff" * 4096):
        built.write_bytes(broken)
        fresh = symbols.Symbols()
        fresh._files._paths.update(named._files._paths)
        fresh._files._keys.update(named._files._keys)

        assert 1 == len(gone(fresh, where))
        fresh.close()


def test_a_file_that_is_cut_short_while_it_is_open_is_no_crash(
    named: symbols.Symbols, tmp_path: Path
) -> None:
    built = build(tmp_path, "ours.so")
    where = place(ctypes.CDLL(str(built)).refuse_here)
    copy = tmp_path / "copy.so"
    shutil.copy(built, copy)
    status = copy.stat()
    named._files._paths[ID], named._files._keys[ID] = (
        str(copy),
        symbol_files.device_and_inode(status),
    )
    assert "refuse_here" == gone(named, where)[0].symbol
    os.truncate(copy, 100)
    named._names._names.clear()

    assert 1 == len(gone(named, where))


def test_more_files_than_are_kept_open_are_named_all_the_same(
    named: symbols.Symbols, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(symbol_files, "_OPEN_FILES", 1)
    wheres = []
    for number in range(3):
        build_id = f"{number:040x}"
        source = f"int f{number}(void) {{ return 1; }}"
        built = build(tmp_path, f"ours{number}.so", build_id, source)
        wheres.append(place(getattr(ctypes.CDLL(str(built)), f"f{number}"), build_id))
    before = len(os.listdir("/proc/self/fd"))

    found = frames(named, *wheres)

    assert ["f0", "f1", "f2"] == [frame.symbol for frame in found]
    assert len(named._files._files) == 1
    assert len(os.listdir("/proc/self/fd")) <= before


def test_everything_that_is_opened_is_closed(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    found = symbols.Symbols()
    where = place(ctypes.CDLL(str(build(tmp_path, "ours.so"))).refuse_here)
    assert "refuse_here" == frames(found, where)[0].symbol
    found.close()

    assert before == len(os.listdir("/proc/self/fd"))


def test_a_process_that_is_gone_teaches_nothing(named: symbols.Symbols) -> None:
    (frame,) = gone(named, Place(0x1000, ID, 16))

    assert frame.file is None


def test_mappings_are_read_once_in_a_second(
    named: symbols.Symbols, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    mappings = procfs.mappings(os.getpid())

    def noted(pid: int) -> list[procfs.Mapping]:
        read.append(pid)
        return mappings

    monkeypatch.setattr(procfs, "mappings", noted)
    where = place(ctypes.CDLL(None).getpid)
    read.clear()
    for _ in range(5):
        named.note(SELF, [where], None)

    assert [os.getpid()] == read
    monkeypatch.setattr(time, "monotonic", lambda now=time.monotonic: now() + 2)
    named.note(SELF, [where], None)
    assert 2 == len(read)


def test_mappings_are_read_again_if_code_lies_where_there_was_none(
    named: symbols.Symbols, tmp_path: Path
) -> None:
    frames(named, place(ctypes.CDLL(None).getpid))
    where = place(ctypes.CDLL(str(build(tmp_path, "ours.so"))).refuse_here)
    time.sleep(0.1)

    (frame,) = frames(named, where)

    assert "refuse_here" == frame.symbol


@x86_64
def test_a_stack_whose_files_take_long_is_tried_once_more(
    named: symbols.Symbols, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = ctypes.CDLL(str(build(tmp_path, "ours.so")))
    where = place(library.refuse_here, into=0)
    stack = stack_of(where.address, address_of(library.refuse_there) + 4, 0)
    named.note(SELF, [where], stack)
    read = cfi.Tables.row

    def slow(tables: cfi.Tables, vaddr: int) -> cfi.Row | None:
        time.sleep(0.2)
        return read(tables, vaddr)

    monkeypatch.setattr(cfi.Tables, "row", slow)

    found, _ = named.frames(SELF, [where], stack, most_s=0.1)

    assert ["refuse_here", "refuse_there"] == [frame.symbol for frame in found]


@x86_64
def test_a_file_that_has_cost_too_much_costs_no_more_and_has_its_names_later(
    named: symbols.Symbols, tmp_path: Path
) -> None:
    library = ctypes.CDLL(str(build(tmp_path, "ours.so")))
    where = place(library.refuse_here, into=0)
    stack = stack_of(where.address, address_of(library.refuse_there) + 4, 0)
    named.note(SELF, [where], stack)
    file = named._files.by_build_id(ID)
    assert file is not None
    file.elf.budget.left, file.elf.budget.per_s = 0.0, 0.0

    (frame,), how = named.frames(SELF, [where], stack)

    assert ("frame-pointers", None, str(tmp_path / "ours.so")) == (how, frame.symbol, frame.file)
    file.elf.budget.left = file.elf.budget.most
    found, how = named.frames(SELF, [where], stack)
    assert ["refuse_here", "refuse_there"] == [frame.symbol for frame in found]
    assert "unwinding" == how


def mapped(path: Path, name: str | None = None, inode: int | None = None) -> procfs.Mapping:
    """A line of maps that tells this file, at an address where this process maps nothing."""
    device, number = symbol_files.device_and_inode(path.stat())
    return procfs.Mapping(0x1000, 0x2000, 0, device, inode or number, name or str(path))


def test_a_link_that_has_the_name_of_a_deleted_file_is_not_followed(
    named: symbols.Symbols, tmp_path: Path
) -> None:
    built = build(tmp_path, "ours.so")
    line = mapped(built, f"{built} (deleted)")
    (tmp_path / "ours.so (deleted)").symlink_to(built)

    assert named._files.mapped(line, os.getpid()) is None
    (tmp_path / "ours.so (deleted)").unlink()
    os.link(built, tmp_path / "ours.so (deleted)")
    assert named._files.mapped(line, os.getpid()) is not None


def test_a_file_of_another_inode_is_another_file(named: symbols.Symbols, tmp_path: Path) -> None:
    built = build(tmp_path, "ours.so")

    assert named._files.mapped(mapped(built, inode=1), os.getpid()) is None
    assert named._files.mapped(mapped(built), os.getpid()) is not None


def test_a_frame_says_why_its_file_is_not_read(
    named: symbols.Symbols, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = place(ctypes.CDLL(str(build(tmp_path, "ours.so"))).refuse_here)
    monkeypatch.setattr(mounts, "_LOCAL", frozenset())
    named._files._mounts.relied_on = ()

    (frame,) = frames(named, where)

    assert (None, str(tmp_path / "ours.so")) == (frame.symbol, frame.file)
    assert (frame.note or "").startswith("not read: its file system, ")


def test_a_file_that_is_not_the_one_that_the_kernel_saw_lends_no_name(
    named: symbols.Symbols, tmp_path: Path
) -> None:
    where = place(ctypes.CDLL(str(build(tmp_path, "ours.so"))).refuse_here)

    (frame,) = frames(named, replace(where, build_id=ID[::-1]))

    assert (None, ID[::-1]) == (frame.symbol, frame.build_id)


def test_files_that_nobody_asks_for_are_closed_and_opened_again(
    named: symbols.Symbols, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = place(ctypes.CDLL(str(build(tmp_path, "ours.so"))).refuse_here)
    frames(named, where)
    named.rest()
    held = {os.readlink(f"/proc/self/fd/{file.fd}") for file in named._files._files.values()}
    now_s = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now_s + symbol_files._IDLE_S + 0.1)
    named.rest()

    assert str(tmp_path / "ours.so") in held
    assert not any(file.is_open for file in named._files._files.values())
    assert "refuse_here" == gone(named, where)[0].symbol


def test_a_file_that_rests_costs_on_where_it_was_left(
    named: symbols.Symbols, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else whoever fails once in a while would have its whole table paid for at each time."""
    built = build(tmp_path, "ours.so")
    where = place(ctypes.CDLL(str(built)).refuse_here)
    frames(named, where)
    file = named._files.by_build_id(ID)
    assert file is not None
    file.elf.budget.left, file.elf.budget.per_s = 5.0, 0.0
    now_s = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now_s + symbol_files._IDLE_S + 0.1)
    named.rest()
    assert not file.is_open
    again = named._files.by_build_id(ID)

    assert again is file and file.is_open
    assert 5.0 == file.elf.budget.left
    named._files._files[symbol_files.device_and_inode(file.status)].used_s -= 10
    named.rest()
    os.utime(built)
    anew = named._files.by_build_id(ID)
    assert anew is not None and anew is not file


def test_once_the_run_is_told_to_end_nothing_more_is_looked_up(
    named: symbols.Symbols, tmp_path: Path
) -> None:
    library = ctypes.CDLL(str(build(tmp_path, "ours.so")))
    places = [place(library.refuse_here), place(library.refuse_there)]
    answers = iter([False, False, False, True])
    named.note(SELF, places, None)

    found, _ = named.frames(SELF, places, is_late=lambda: next(answers))

    assert ["refuse_here", None] == [frame.symbol for frame in found]
    assert [None, "not looked up: the run was told to end"] == [frame.note for frame in found]


def test_a_name_is_known_where_its_file_is_gone_as_well(
    named: symbols.Symbols, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = build(tmp_path, "ours.so")
    where = place(ctypes.CDLL(str(built)).refuse_here)
    frames(named, where)
    built.unlink()
    named.close()

    assert "refuse_here" == gone(named, where)[0].symbol


def test_a_library_that_a_link_led_to_is_found_again_without_it(
    named: symbols.Symbols, tmp_path: Path
) -> None:
    (tmp_path / "real").mkdir()
    built = build(tmp_path / "real", "ours.so")
    (tmp_path / "lib").symlink_to("real")
    file = named._files._at(named._files._within(str(tmp_path), "/lib/ours.so"))

    assert file is not None
    assert str(built) == named._files._paths[ID] == file.path
