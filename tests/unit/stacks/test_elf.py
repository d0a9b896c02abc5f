"""One ELF file: what it tells of itself, and what hostile ones do not do."""

from __future__ import annotations

import lzma
import os
import random
import struct
import subprocess
import time
from pathlib import Path

import building
import pytest
from building import ID

from fork_trace.stacks import cfi, elf

SOURCE = """
int refuse_here(int x) { return x * 3 + 1; }
int __refuse_here(int x) __attribute__((alias("refuse_here")));
static __attribute__((noinline)) int hidden(int x) { return x * 7; }
int refuse_there(int x) { return hidden(x) * 5 + 2; }
"""


def build(directory: Path, name: str, *options: str, source: str = SOURCE) -> Path:
    return building.library(directory, name, *options, source=source)


def parse(image: bytes) -> elf.Elf:
    return elf.Elf(lambda size, offset: image[offset : offset + size])


def address_of(path: Path, name: str) -> int:
    listed = subprocess.run(["nm", str(path)], capture_output=True, text=True, check=True).stdout
    return next(int(line.split()[0], 16) for line in listed.splitlines() if line.endswith(name))


def test_a_file_tells_its_build_id_and_where_its_code_lies(tmp_path: Path) -> None:
    found = parse(build(tmp_path, "ours.so").read_bytes())

    assert ID == found.build_id
    (code,) = found.code()
    assert code.vaddr == found.vaddr(code.offset)
    assert code.offset == found.offset(code.vaddr)
    assert found.vaddr(1 << 40) is None


def test_a_function_has_the_name_that_people_write(tmp_path: Path) -> None:
    built = build(tmp_path, "ours.so")
    found = parse(built.read_bytes())

    assert b"refuse_here" == found.symbol(address_of(built, " refuse_here") + 1)
    assert b"hidden" == found.symbol(address_of(built, " hidden"))


def test_no_function_lends_its_name_to_a_neighbour_without_one(tmp_path: Path) -> None:
    built = build(tmp_path, "ours.so")
    hidden = address_of(built, " hidden")
    subprocess.run(["strip", str(built)], check=True)

    assert parse(built.read_bytes()).symbol(hidden) is None


def test_small_symbols_that_a_distribution_packed_are_read(tmp_path: Path) -> None:
    built = build(tmp_path, "ours.so")
    hidden = address_of(built, " hidden")
    (tmp_path / "packed").write_bytes(lzma.compress(built.read_bytes(), lzma.FORMAT_XZ))
    subprocess.run(["strip", str(built)], check=True)
    subprocess.run(
        ["objcopy", "--add-section", f".gnu_debugdata={tmp_path / 'packed'}", str(built)],
        check=True,
    )

    assert b"hidden" == parse(built.read_bytes()).symbol(hidden)


def test_packed_symbols_that_grow_without_end_are_left(tmp_path: Path) -> None:
    built = build(tmp_path, "ours.so", "-s")
    (tmp_path / "packed").write_bytes(lzma.compress(bytes(1 << 27), lzma.FORMAT_XZ))
    subprocess.run(
        ["objcopy", "--add-section", f".gnu_debugdata={tmp_path / 'packed'}", str(built)],
        check=True,
    )

    assert parse(built.read_bytes()).symbol(0x1000) is None


def test_a_separate_file_gives_what_the_program_itself_lacks(tmp_path: Path) -> None:
    built = build(tmp_path, "ours.so")
    hidden = address_of(built, " hidden")
    whole = parse(built.read_bytes())
    subprocess.run(["strip", str(built)], check=True)
    asked = []

    def debug() -> elf.Elf:
        asked.append(1)
        return whole

    found = parse(built.read_bytes())

    assert [b"hidden"] * 2 == [found.symbol(hidden, debug) for _ in range(2)]
    assert 1 == len(asked)


CALLS = """
#include <stdio.h>
#include <stdlib.h>
int answer(void);
__attribute__((noinline)) int own(int x) { return x + 1; }
int main(int argc, char **argv) {
    int n = system("true") + own(argc);
    return pclose(popen("true", "r")) + n;
}
"""


# How a function of another file is called; and how such a call reads.
WAYS: dict[str, tuple[str, tuple[tuple[str, ...], ...]]] = {
    "x86_64": ("\tcall", ((), ("-fno-plt",), ("-fcf-protection=full",))),
    "aarch64": ("\tbl\t", ((), ("-mbranch-protection=standard", "-Wl,-z,force-bti"))),
}
CALL, WAYS_TO_CALL = WAYS.get(os.uname().machine, ("", ()))


@pytest.mark.skipif(not CALL, reason="calls are read on x86-64 and arm64 only")
@pytest.mark.parametrize("options", WAYS_TO_CALL)
def test_a_call_tells_what_was_called(tmp_path: Path, options: tuple[str, ...]) -> None:
    built = build(tmp_path, "ours", *options, source=CALLS)
    listed = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", str(built)], capture_output=True, text=True
    ).stdout.partition("<main>:")[2]
    found, calls = parse(built.read_bytes()), []
    lines = listed.split("\n\n")[0].splitlines()
    for line, following in zip(lines, lines[1:]):
        if CALL in line:
            calls.append(found.called(int(following.split(":")[0], 16)))

    assert {b"system", b"popen", b"pclose"} <= set(calls)
    assert found.called(address_of(built, " main") + 4) is None


def test_what_is_no_such_file_is_refused() -> None:
    for image in (b"", b"\x7fELF", b"#!/bin/sh\n" * 100, b"\x7fELF\x01" + bytes(100)):
        with pytest.raises((elf.BadElfError, struct.error)):
            parse(image)


def look_at_everything(image: bytes) -> None:
    """Ask all that a stack can make us ask of a file."""
    try:
        found = parse(image)
    except (elf.BadElfError, struct.error):
        return
    tables = cfi.Tables(found)
    for vaddr in (0, 0x1000, 0x1040, 0x1139, 0x2000, (1 << 64) - 1):
        tables.row(vaddr)
        found.symbol(vaddr)
        found.called(vaddr)
        found.vaddr(vaddr)
    found.interpreter()


SEED = 20261121
FUZZED = 1500


def test_no_file_crashes_hangs_or_takes_much(tmp_path: Path) -> None:
    """Files cut short, with bytes changed, and with absurd sizes in the places that count."""
    chance = random.Random(SEED)
    whole = build(tmp_path, "ours.so").read_bytes()
    slowest_s = 0.0
    for number in range(FUZZED):
        image = bytearray(whole)
        kind = number % 3
        if kind == 0:
            del image[chance.randrange(len(image)) :]
        for _ in range(1 + kind * chance.randrange(1, 30)):
            if not image:
                break
            # Mostly where the headers and tables are.
            at = chance.randrange(len(image) if chance.random() < 0.5 else min(len(image), 1024))
            if kind == 2 and at + 8 <= len(image):
                image[at : at + 8] = chance.choice(
                    [b"\xff" * 8, b"\0" * 8, struct.pack("<Q", 1 << 62), struct.pack("<Q", 1 << 31)]
                )
            else:
                image[at] = chance.randrange(256)
        began_s = time.monotonic()
        look_at_everything(bytes(image))
        slowest_s = max(slowest_s, time.monotonic() - began_s)

    assert slowest_s < 5
