"""Unwind rules against binutils' reading of the same files, and against hostile ones."""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import time
import tracemalloc
from pathlib import Path

import pytest

from fork_trace import files
from fork_trace.budget import Budget
from fork_trace.stacks import cfi, elf

REGISTERS = {
    **{"rax": 0, "rdx": 1, "rcx": 2, "rbx": 3, "rsi": 4, "rdi": 5, "rbp": 6, "rsp": 7, "ra": 16},
    **{f"r{number}": number for number in range(8, 16)},
}
MOST_ROWS = 3000

x86_64 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="written for x86-64")


def tables(path: str | Path) -> cfi.Tables:
    fd, _ = files.open_regular(str(path))
    # Of a file as much as here is never read at once.
    return cfi.Tables(elf.Elf(lambda size, offset: os.pread(fd, size, offset), Budget(math.inf)))


def as_binutils_says(path: str) -> list[tuple[int, dict[str, str]]]:
    """The rows of `readelf --debug-dump=frames-interp`: an address, and a word for each column."""
    if not shutil.which("readelf"):
        pytest.skip("needs readelf; install binutils to run it")
    version = subprocess.run(["readelf", "--version"], capture_output=True, text=True).stdout
    number = re.search(r" (\d+)\.(\d+)", version)
    if number and (int(number[1]), int(number[2])) < (2, 36):
        pytest.skip("needs readelf 2.36 or newer: older ones lose rules that were remembered")
    listed = subprocess.run(
        ["readelf", "-W", "--debug-dump=frames-interp", path], capture_output=True, text=True
    ).stdout
    rows, columns, end = [], list[str](), 0
    for line in listed.splitlines():
        if re.match(r"[0-9a-f]+ [0-9a-f]+ [0-9a-f]+ (FDE|CIE)", line):
            pc = re.search(r"pc=[0-9a-f]+\.\.([0-9a-f]+)", line)
            end = int(pc[1], 16) if pc else 0
        elif line.split()[:1] == ["LOC"]:
            columns = line.split()[1:]
        elif end and re.match(r"[0-9a-f]{16} ", line):
            address, *words = line.split()
            # A row at the very end is about no address.
            if int(address, 16) < end:
                rows.append((int(address, 16), dict(zip(columns, words))))
    return rows


def as_words(row: cfi.Row, columns: dict[str, str]) -> dict[str, str]:
    """Say a row in binutils' words, for the columns that it has."""
    numbers = {number: name for name, number in REGISTERS.items()}
    words = {"CFA": "exp"}
    if isinstance(row.cfa, tuple):
        words["CFA"] = f"{numbers[row.cfa[0]]}{row.cfa[1]:+d}"
    for register, how, what in row.rules:
        text = {cfi.UNDEFINED: "u", cfi.EXPRESSION: "exp", cfi.VALUE_EXPRESSION: "vexp"}.get(how)
        if text is None:
            assert isinstance(what, int)
            offset = f"{'v' * (how == cfi.VALUE_OFFSET)}c{what:+d}"
            text = numbers[what] if how == cfi.REGISTER else offset
        words[numbers[register]] = text
    return {name: words.get(name, "u" if columns[name] == "u" else "?") for name in columns}


@x86_64
@pytest.mark.parametrize("program", ["/bin/sh", "libc.so.6", "/usr/bin/python3"])
def test_every_rule_is_as_binutils_reads_it(program: str) -> None:
    path = program
    if not program.startswith("/"):
        linked = subprocess.run(["ldd", "/bin/sh"], capture_output=True, text=True).stdout
        path = re.search(rf"{re.escape(program)} => (\S+)", linked)[1]  # type: ignore[index]
    expected = as_binutils_says(os.path.realpath(path))
    step = -(-len(expected) // MOST_ROWS)
    ours = tables(os.path.realpath(path))
    compared = 0
    for address, words in expected[::step]:
        # Its short form of a register that holds another's address has no words of ours.
        if any(word.startswith("(") or re.fullmatch(r"r\d+", word) for word in words.values()):
            continue
        row = ours.row(address)

        assert row is not None, hex(address)
        assert words == as_words(row, words), hex(address)
        compared += 1

    assert compared > 500


HOSTILE = """
	.text
	.globl refused
	.hidden refused
	.type refused,@function
refused:
	ret
	.size refused,.-refused
	.section .eh_frame,"a",@unwind
Lcie:	.long Lcie_end-.-4
	.long 0
	.byte 1
	.asciz "zR"
	.uleb128 1
	.sleb128 -8
	.byte 16
	.uleb128 1
	.byte 0x1b
	.byte 0x0c
	.uleb128 7
	.uleb128 8
	.byte 0x90
	.uleb128 1
	.balign 8
Lcie_end:
Lfde:	.long Lfde_end-.-4
	.long .-Lcie
	.long refused-.
	.long 1
	.uleb128 0
	{program}
	.balign 8
Lfde_end:
"""


def hostile(directory: Path, program: str) -> tuple[Path, int]:
    """A file with one function whose unwind program is the given one."""
    (directory / "hostile.s").write_text(HOSTILE.format(program=program))
    built = directory / "hostile.so"
    subprocess.run(
        ["cc", "-shared", "-nostdlib", "-o", str(built), str(directory / "hostile.s")],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    version = subprocess.run(["readelf", "--version"], capture_output=True, text=True).stdout
    number = re.search(r" (\d+)\.(\d+)", version)
    if number and (int(number[1]), int(number[2])) < (2, 36):
        pytest.skip("needs readelf 2.36 or newer: older ones lose rules that were remembered")
    listed = subprocess.run(["nm", str(built)], capture_output=True, text=True).stdout
    return built, int(re.search(r"([0-9a-f]+) [tT] refused", listed)[1], 16)  # type: ignore[index]


@x86_64
def test_such_a_file_is_read_if_it_is_honest(tmp_path: Path) -> None:
    row = tables((built := hostile(tmp_path, ".byte 0x0e\n\t.uleb128 16"))[0]).row(built[1])

    assert row is not None
    assert (7, 16) == row.cfa


@x86_64
@pytest.mark.parametrize(
    "program",
    [
        ".fill 4000000,1,0x0a",  # saves its state without end: libdw takes 930 MB for this
        ".fill 60000,1,0x0a",
        ".fill 60000,1,0x41",  # moves without end
        ".fill 30000,2,0x0b0a",  # saves and restores
        ".byte 0x05\n\t.fill 9,1,0xff\n\t.byte 0x7f\n\t.uleb128 1",  # an absurd register
        ".byte 0x0f\n\t.fill 9,1,0xff\n\t.byte 0x01",  # an absurd expression
        ".byte 0x0b",  # restores what was never saved
        ".byte 0x3f",  # no instruction
        ".byte 0x0c",  # cut off
    ],
)
def test_a_hostile_program_is_given_up_soon_and_without_much_memory(
    tmp_path: Path, program: str
) -> None:
    built, address = hostile(tmp_path, program)
    ours = tables(built)
    tracemalloc.start()
    began_s = time.monotonic()
    ours.row(address)
    took_s = time.monotonic() - began_s
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert took_s < 2
    assert peak < 4 << 20
