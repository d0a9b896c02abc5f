"""Places as names: a library of our own, built here, and the C library that we run on."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from fork_trace import procfs, symbols
from fork_trace.events import Place

SOURCE = """
int refuse_here(int x) { return x * 3 + 1; }
int refuse_there(int x) { return x * 5 + 2; }
"""


def build(directory: Path, name: str, build_id: str, source: str = SOURCE) -> Path:
    compiler = shutil.which("cc")
    if not compiler:
        pytest.skip("needs a C compiler; install one (Debian: gcc) to run it")
    (directory / "source.c").write_text(source)
    built = directory / name
    subprocess.run(
        [
            *(compiler, "-shared", "-fPIC", "-O1", f"-Wl,--build-id=0x{build_id}"),
            *("-o", str(built), str(directory / "source.c")),
        ],
        check=True,
    )
    return built


@pytest.fixture
def named() -> symbols.Symbols:
    found = symbols.Symbols()
    if found.why_not:
        pytest.skip(f"{found.why_not}; install it (Debian: libdw1) to run it")
    return found


def place(function: object, build_id: str, into: int = 1) -> Place:
    """The place of a loaded function: as the kernel gives it, a build id and an offset in the file."""
    address = ctypes.cast(function, ctypes.c_void_p).value  # type: ignore[arg-type]
    assert address
    for mapping in procfs.mappings(os.getpid()):
        if mapping.start <= address < mapping.end:
            return Place(
                address + into, build_id, address + into - mapping.start + mapping.file_offset
            )
    raise AssertionError("the function is in no file")


ID = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize("name", ["refuse_here", "refuse_there"])
def test_a_place_has_the_name_of_its_function_and_its_file(
    named: symbols.Symbols, tmp_path: Path, name: str
) -> None:
    built = build(tmp_path, "ours.so", ID)
    where = place(getattr(ctypes.CDLL(str(built)), name), ID)

    named.note(os.getpid(), [where])
    (frame,) = named.frames([where])

    assert (where.address, name, str(built)) == (frame.address, frame.symbol, frame.file)


def test_a_name_is_known_after_the_process_and_its_mappings_are_gone(
    named: symbols.Symbols, tmp_path: Path
) -> None:
    built = build(tmp_path, "ours.so", ID)
    where = place(ctypes.CDLL(str(built)).refuse_here, ID)
    named.note(os.getpid(), [where])

    frames = named.frames([Place(0xDEAD, ID, where.offset)])

    assert "refuse_here" == frames[0].symbol


def test_a_file_that_was_replaced_since_lends_nobody_its_names(
    named: symbols.Symbols, tmp_path: Path
) -> None:
    built = build(tmp_path, "ours.so", ID)
    where = place(ctypes.CDLL(str(built)).refuse_here, ID)
    named.note(os.getpid(), [where])
    built.unlink()
    build(tmp_path, "ours.so", ID[::-1])

    (frame,) = named.frames([where])

    assert (None, str(built)) == (frame.symbol, frame.file)


def test_a_place_outside_every_function_or_file_has_no_name(
    named: symbols.Symbols, tmp_path: Path
) -> None:
    built = build(tmp_path, "ours.so", ID)
    where = place(ctypes.CDLL(str(built)).refuse_here, ID)
    named.note(os.getpid(), [where])

    frames = named.frames([Place(1, ID, 1 << 40), Place(2, "00" * 20, 1), Place(3)])

    assert [None, None, None] == [frame.symbol for frame in frames]
    assert [str(built), None, None] == [frame.file for frame in frames]


def test_the_c_library_is_known_before_anybody_fails(named: symbols.Symbols) -> None:
    libc = ctypes.CDLL(None)
    (path,) = {
        mapping.path
        for mapping in procfs.mappings(os.getpid())
        if os.path.basename(mapping.path).startswith("libc.so")
    }
    build_id = next(known for known, file in named._files.items() if file == path)

    (frame,) = named.frames([place(libc.getpid, build_id)])

    assert (path, True) == (frame.file, "getpid" in (frame.symbol or ""))


def test_a_hostile_file_is_no_crash(named: symbols.Symbols, tmp_path: Path) -> None:
    built = build(tmp_path, "ours.so", ID)
    where = place(ctypes.CDLL(str(built)).refuse_here, ID)
    named.note(os.getpid(), [where])
    image = built.read_bytes()
    built.unlink()  # the mapping stays whole
    for broken in (b"", b"\x7fELF", image[: len(image) // 2], b"\x7fELF" + b"\xff" * 4096):
        built.write_bytes(broken)
        fresh = symbols.Symbols()
        fresh._files.update(named._files)

        assert 1 == len(fresh.frames([where]))


def test_more_files_than_are_kept_open_are_named_all_the_same(
    named: symbols.Symbols, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(symbols, "_OPEN_FILES", 1)
    wheres = []
    for number in range(3):
        build_id = f"{number:040x}"
        built = build(
            tmp_path, f"ours{number}.so", build_id, f"int f{number}(void) {{ return 1; }}"
        )
        wheres.append(place(getattr(ctypes.CDLL(str(built)), f"f{number}"), build_id))
    named.note(os.getpid(), wheres)

    frames = named.frames(wheres)

    assert ["f0", "f1", "f2"] == [frame.symbol for frame in frames]
    assert len(named._open) == 1


def test_without_libdw_callers_are_addresses_and_it_is_said_why() -> None:
    found = symbols.Symbols("libdw-that-is-not-there.so.1")
    somewhere = Place(0x1000, ID, 16)

    found.note(os.getpid(), [somewhere])
    (frame,) = found.frames([somewhere])

    assert "libdw is missing" in (found.why_not or "")
    assert (0x1000, None, None) == (frame.address, frame.symbol, frame.file)


def test_a_process_that_is_gone_teaches_nothing(named: symbols.Symbols) -> None:
    somewhere = Place(0x1000, ID, 16)

    named.note(2**22 + 1, [somewhere])

    assert named.frames([somewhere])[0].file is None
