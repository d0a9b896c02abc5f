"""Files that were made to cost their reader dearly: for unit tests, the fuzzer and live tests alike."""

from __future__ import annotations

import lzma
import struct

_LOAD = 1
SHT_PROGBITS, SHT_SYMTAB, SHT_STRTAB, SHT_RELA, SHT_DYNSYM = 1, 2, 3, 4, 11
CODE = 0x10000  # where the code of such a file is linked
CODE_AT = 0x1000  # and where it lies in the file
CALLED = CODE + 21  # where a call in it returns to


def section(
    name: int, type_: int, offset: int, size: int, link: int = 0, vaddr: int = 0
) -> tuple[int, ...]:
    """A section header's fields."""
    return (name, type_, 0, vaddr, offset, size, link, 0, 8, 0)


def image(
    body: bytes, sections: list[tuple[int, ...]], names: tuple[int, int], segments: int = 1
) -> bytes:
    """An ELF file with this body at 0x2000, these sections and a section of names at (offset, size)."""
    count = len(sections) + 1
    shoff = 0x2000 + len(body)
    head = struct.pack(
        *("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 3, 62, 1, CODE, 64, shoff),
        *(0, 64, 56, segments, 64, count, count - 1),
    )
    load = struct.pack("<IIQQQQQQ", _LOAD, 5, CODE_AT, CODE, CODE, 4096, 4096, 4096)
    # A call, and the stub of the procedure linkage table that it calls.
    code = b"\x90" * 16 + b"\xe8\x0b\0\0\0" + b"\x90" * 11 + b"\xff\x25\0\x10\0\0"
    start = (head + load * segments).ljust(CODE_AT, b"\0") + code.ljust(0x1000, b"\x90")
    table = [*sections, section(0, SHT_STRTAB, *names)]
    return start + body + b"".join(struct.pack("<IIQQQQIIQQ", *each) for each in table)


def many_relocations() -> bytes:
    """2,046 sections, all named .rela.dyn, all over the same 2 MiB: 29.9 s once."""
    names = b"\0.rela.dyn\0"
    body = names.ljust(64, b"\0") + struct.pack("<QQq", 1, 7, 0) * (2 << 20 >> 4)
    return image(body, [section(1, SHT_RELA, 0x2040, 2 << 20)] * 2045, (0x2000, 11))


def endless_names() -> bytes:
    """2,046 sections whose names have no end: 64 KB of text each."""
    body = b"x" * (1 << 16)
    return image(body, [section(n, SHT_PROGBITS, 0, 0) for n in range(2045)], (0x2000, len(body)))


def many_symbols(size: int = 16 << 20) -> bytes:
    """A symbol table of that size, all over the same addresses and each with its own name."""
    one = struct.pack("<IBBHQQ", 1, 2, 0, 1, CODE, 4096)
    body = b"\0long" + b"y" * 4000 + b"\0\0" + bytes(89)
    body += one * (size // 24)
    sections = [
        section(0, SHT_SYMTAB, 0x2000 + 4096, size // 24 * 24, 1),
        section(0, SHT_STRTAB, 0x2000, 4096),
    ]
    return image(body, sections, (0x2000, 1))


def packed_bomb(size: int = 24 << 20) -> bytes:
    """Packed symbols of a few KB that grow to that size."""
    packed = lzma.compress(bytes(size), lzma.FORMAT_XZ)
    names = b"\0.gnu_debugdata\0".ljust(64, b"\0")
    return image(
        names + packed, [section(1, SHT_PROGBITS, 0x2040, len(packed))], (0x2000, len(names))
    )


def many_entries(count: int = 1 << 16) -> bytes:
    """Unwind entries without a sorted table, none of them in a form that is read quickly."""
    one = struct.pack("<II", 28, 8) + bytes(24)
    names = b"\0.eh_frame\0".ljust(64, b"\0")
    return image(
        names + one * count,
        [section(1, SHT_PROGBITS, 0x2040, len(one) * count, vaddr=0x20000)],
        (0x2000, len(names)),
    )


def long_entries(count: int = 60) -> bytes:
    """A CIE and entries over the code whose programs are as long as may be, all of the same code."""
    cie = (
        struct.pack("<I", 0) + b"\x01zR\0\x01\x78\x10\x01\x00" + b"\x0c\x07\x08\x90\x01" + bytes(2)
    )
    cie = struct.pack("<I", len(cie)) + cie
    entries, at = b"", len(cie)
    for _ in range(count):
        program = b"\x0a\x0b" * 32000
        entry = struct.pack("<IQQ", at + 4, CODE, 4096) + b"\0" + program
        entry += bytes(-len(entry) % 4)
        entries += struct.pack("<I", len(entry)) + entry
        at += 4 + len(entry)
    names = b"\0.eh_frame\0".ljust(64, b"\0")
    body = names + cie + entries
    return image(
        body,
        [section(1, SHT_PROGBITS, 0x2040, len(cie) + len(entries), vaddr=0x20000)],
        (0x2000, len(names)),
    )


def many_notes() -> bytes:
    """As many segments as may be, all of them notes over the same 64 KB."""
    whole = bytearray(image(bytes(1 << 16), [], (0, 1), segments=60))
    for number in range(1, 60):
        struct.pack_into(
            *("<IIQQQQQQ", whole, 64 + 56 * number, 4, 4, 0x2000, 0, 0, 1 << 16, 1 << 16, 4)
        )
    return bytes(whole)


ELFS = {
    "relocations": many_relocations,
    "names": endless_names,
    "symbols": many_symbols,
    "packed": packed_bomb,
    "entries": many_entries,
    "programs": long_entries,
    "notes": many_notes,
}


def perf_map(lines: int) -> bytes:
    """A perf map of that many short lines."""
    return b"".join(b"%x 1 a\n" % (0x10000 + number) for number in range(lines))
