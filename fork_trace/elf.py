"""One ELF file, read piece by piece: segments, build id, symbols. Whoever wrote the file may be hostile.

Nothing is mapped, for a file cut short while it is mapped kills its reader by SIGBUS; and nothing is
read whole, so that the size of a file does not decide how much memory is needed.
"""

from __future__ import annotations

import lzma
import os
import struct
from array import array
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

PT_LOAD, PT_INTERP, PT_NOTE, PT_GNU_EH_FRAME = 1, 3, 4, 0x6474E550  # elf.h
_SHT_SYMTAB, _SHT_DYNSYM, _SHT_NOBITS = 2, 11, 8
_SHF_COMPRESSED = 0x800
_NT_GNU_BUILD_ID = 3
_PF_X = 1
_FUNCTIONS = (0, 2, 10)  # STT_NOTYPE (assembly), STT_FUNC, STT_GNU_IFUNC
_MACHINES = {62: "x86_64", 183: "aarch64"}  # EM_*
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_SHDR = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")

# What no honest file exceeds by much: libjvm has 42 sections, node a symbol table of 2.6 MB.
_MOST_SEGMENTS, _MOST_SECTIONS = 128, 2048
_MOST_SYMBOL_BYTES = 16 << 20
_MOST_DEBUGDATA_BYTES = 8 << 20
_MOST_NAME_BYTES = 4096
_MOST_NOTE_BYTES = 1 << 16
_MOST_OVERLAPS = 16
_MOST_RELOCATION_BYTES = 2 << 20

_RELA = struct.Struct("<QQq")
_BY_NAME = (6, 7)  # R_X86_64_GLOB_DAT, R_X86_64_JUMP_SLOT


class BadElfError(ValueError):
    """It is no ELF file of this kind of machine, or not one that makes sense."""


Reader = Callable[[int, int], bytes]  # size, offset: fewer bytes at the end, as os.pread


@dataclass(frozen=True)
class Segment:
    """One program header."""

    type: int
    flags: int
    offset: int
    vaddr: int
    filesz: int
    memsz: int


@dataclass(frozen=True)
class Section:
    """One section header."""

    name: bytes
    type: int
    flags: int
    vaddr: int
    offset: int
    size: int
    link: int


class Elf:
    """A 64-bit little-endian ELF file."""

    def __init__(self, read: Reader) -> None:
        self._read = read
        head = self.read(0, _HEADER.size)
        ident, _, machine, *_ = fields = _HEADER.unpack(head)
        if ident[:6] != b"\x7fELF\x02\x01" or machine not in _MACHINES:
            raise BadElfError("not a 64-bit little-endian ELF file of a known machine")
        self.machine = _MACHINES[machine]
        segments, self._shoff = fields[5], fields[6]
        size, count, self._shentsize, self._shnum, self._shstrndx = fields[9:14]
        if size != _PHDR.size or not 0 < count <= _MOST_SEGMENTS:
            raise BadElfError("no program headers, or absurd ones")
        self.segments = tuple(
            Segment(type_, flags, offset, vaddr, filesz, memsz)
            for type_, flags, offset, vaddr, _, filesz, memsz, _ in _PHDR.iter_unpack(
                self.read(segments, size * count)
            )
        )
        self.loads = tuple(each for each in self.segments if each.type == PT_LOAD)
        self.build_id = self._find_build_id()
        self._sections: tuple[Section, ...] | None = None
        self._symbols: list[_Symbols] | None = None
        self._slots: dict[int, int] | None = None  # address -> number of a dynamic symbol

    def read(self, offset: int, size: int) -> bytes:
        """Read exactly that much; BadElfError if the file is shorter."""
        if not 0 <= offset < 1 << 62:
            raise BadElfError("an offset outside the file")
        data = self._read(size, offset)
        if len(data) != size:
            raise BadElfError("the file is cut short")
        return data

    def upto(self, offset: int, size: int) -> bytes:
        """Read that much or what there is of it."""
        return self._read(size, offset) if 0 <= offset < 1 << 62 else b""

    def vaddr(self, offset: int) -> int | None:
        """Return the address that a place in the file is linked at."""
        for each in self.loads:
            if each.offset <= offset < each.offset + each.filesz:
                return each.vaddr + offset - each.offset
        return None

    def offset(self, vaddr: int) -> int | None:
        """Return where in the file an address is."""
        for each in self.loads:
            if each.vaddr <= vaddr < each.vaddr + each.filesz:
                return each.offset + vaddr - each.vaddr
        return None

    def code(self) -> tuple[Segment, ...]:
        """Return the segments that can be executed."""
        return tuple(each for each in self.loads if each.flags & _PF_X)

    def _find_build_id(self) -> str | None:
        for each in self.segments:
            if each.type != PT_NOTE or each.filesz > _MOST_NOTE_BYTES:
                continue
            data, at = self.upto(each.offset, each.filesz), 0
            while at + 12 <= len(data):
                name_size, size, type_ = struct.unpack_from("<III", data, at)
                name = at + 12
                content = name + (name_size + 3 & ~3)
                if type_ == _NT_GNU_BUILD_ID and data[name : name + name_size] == b"GNU\0":
                    found = data[content : content + size]
                    return found.hex() if 0 < len(found) == size <= 64 else None
                at = content + (size + 3 & ~3)
        return None

    def interpreter(self) -> str | None:
        """Return the dynamic linker that the file asks for."""
        for each in self.segments:
            if each.type == PT_INTERP:
                raw = self.upto(each.offset, min(each.filesz, _MOST_NAME_BYTES))
                return os.fsdecode(raw.split(b"\0", 1)[0]) or None
        return None

    def section(self, name: bytes) -> Section | None:
        """Find a section that is in the file and not compressed."""
        for each in self.sections():
            if each.name == name and each.type != _SHT_NOBITS and not each.flags & _SHF_COMPRESSED:
                return each
        return None

    def sections(self) -> tuple[Section, ...]:
        """Return the sections; none where the headers are stripped or make no sense."""
        if self._sections is None:
            try:
                self._sections = self._read_sections()
            except (BadElfError, struct.error):
                self._sections = ()
        return self._sections

    def _read_sections(self) -> tuple[Section, ...]:
        if self._shentsize != _SHDR.size or not 0 < self._shnum <= _MOST_SECTIONS:
            return ()
        raw = self.read(self._shoff, self._shentsize * self._shnum)
        headers = list(_SHDR.iter_unpack(raw))
        if self._shstrndx >= len(headers):
            return ()
        names_at, names_size = headers[self._shstrndx][4:6]
        names = self.upto(names_at, min(names_size, 1 << 16))
        found = []
        for name, type_, flags, vaddr, offset, size, link, *_ in headers:
            end = names.find(b"\0", name)
            found.append(Section(names[name:end], type_, flags, vaddr, offset, size, link))
        return tuple(found)

    def symbol(self, vaddr: int, debug: Callable[[], Elf | None] | None = None) -> bytes | None:
        """Name the function that an address lies in; None rather than a neighbour's name.

        `debug` finds the separate debug file; it is asked once.
        """
        if self._symbols is None:
            self._symbols = self._tables()
            other = debug() if debug else None
            if other is not None:
                self._symbols += other._tables()
        for table in self._symbols:
            try:
                name = table.find(vaddr)
            except (BadElfError, struct.error):
                continue
            if name:
                return name
        return None

    def called(self, vaddr: int) -> bytes | None:
        """Name the function that a call returns from to this address; None: no call, or unknown."""
        if self.machine != "x86_64":
            return None
        try:
            return self._called(vaddr)
        except (BadElfError, struct.error):
            return None

    def _called(self, vaddr: int) -> bytes | None:
        code = self._code(vaddr - 6, 6)
        if code[:2] == b"\xff\x15":  # call *slot(%rip)
            return self._slot(vaddr + int.from_bytes(code[2:], "little", signed=True))
        if code[1] != 0xE8:  # call
            return None
        target = vaddr + int.from_bytes(code[2:], "little", signed=True)
        stub = self._code(target, 11)
        at = 4 if stub.startswith(b"\xf3\x0f\x1e\xfa") else 0  # endbr64
        at += stub[at] == 0xF2  # bnd
        if stub[at : at + 2] == b"\xff\x25":  # jmp *slot(%rip), of the procedure linkage table
            distance = int.from_bytes(stub[at + 2 : at + 6], "little", signed=True)
            return self._slot(target + at + 6 + distance)
        return self.symbol(target)

    def _code(self, vaddr: int, size: int) -> bytes:
        offset = self.offset(vaddr)
        if offset is None:
            raise BadElfError("an address outside the file")
        return self.read(offset, size)

    def _slot(self, vaddr: int) -> bytes | None:
        """The name that the dynamic linker resolves at an address."""
        if self._slots is None:
            self._slots = {}
            for section in self.sections():
                if section.name in (b".rela.plt", b".rela.dyn"):
                    size = min(section.size, _MOST_RELOCATION_BYTES) // _RELA.size * _RELA.size
                    for place, info, _ in _RELA.iter_unpack(self.read(section.offset, size)):
                        if info & 0xFFFFFFFF in _BY_NAME:
                            self._slots[place] = info >> 32
        symbols = self._section_of(_SHT_DYNSYM)
        if vaddr not in self._slots or symbols is None:
            return None
        raw = self.read(symbols.offset + self._slots[vaddr] * _SYMBOL.size, _SYMBOL.size)
        return self._text(self.sections()[symbols.link], _SYMBOL.unpack(raw)[0])

    def _section_of(self, type_: int) -> Section | None:
        for each in self.sections():
            if each.type == type_ and each.link < len(self.sections()):
                return each
        return None

    def _text(self, names: Section, at: int) -> bytes | None:
        """Read a name of a string table."""
        if at >= names.size:
            return None
        raw = self.upto(names.offset + at, 256)
        if b"\0" not in raw:
            raw = self.upto(names.offset + at, _MOST_NAME_BYTES)
        text, end, _ = raw.partition(b"\0")
        return text if text and end else None

    def _tables(self) -> list[_Symbols]:
        """The symbol tables, best first. .dynsym holds nothing that .symtab has not."""
        tables = []
        for type_ in (_SHT_SYMTAB, _SHT_DYNSYM):
            found = self._section_of(type_)
            if found is not None:
                try:
                    table = _Symbols(self, found, self.sections()[found.link])
                except (BadElfError, struct.error):
                    continue
                tables.append(table)
                break
        inner = self._debugdata()
        return tables + (inner._tables() if inner else [])

    def _debugdata(self) -> Elf | None:
        """The small ELF file, packed, in which some distributions keep the symbols."""
        section = self.section(b".gnu_debugdata")
        if section is None or section.size > _MOST_DEBUGDATA_BYTES:
            return None
        try:
            unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=64 << 20)
            image = unpacker.decompress(
                self.read(section.offset, section.size), _MOST_DEBUGDATA_BYTES
            )
            inner = Elf(lambda size, offset: image[offset : offset + size])
        except (BadElfError, lzma.LZMAError, struct.error, MemoryError):
            return None
        # It holds none within itself.
        return None if inner.section(b".gnu_debugdata") else inner


class _Symbols:
    """One symbol table: the functions by address; names and sizes stay in the file."""

    def __init__(self, elf: Elf, table: Section, names: Section) -> None:
        if table.size > _MOST_SYMBOL_BYTES:
            raise BadElfError("an absurd symbol table")
        self._elf, self._table, self._names = elf, table, names
        count = table.size // _SYMBOL.size
        words = array("Q", elf.read(table.offset, count * _SYMBOL.size))
        # Elf64_Sym in three words: name, type and section; address; size.
        starts = [
            (address << 24 | number)
            for number, (head, address) in enumerate(zip(words[0::3], words[1::3]))
            if head >> 48 and (head >> 32 & 15) in _FUNCTIONS
        ]
        starts.sort()
        self._starts = array("Q", (each >> 24 for each in starts))
        self._numbers = array("I", (each & 0xFFFFFF for each in starts))

    def find(self, vaddr: int) -> bytes | None:
        names: list[bytes] = []
        found_at = None
        index = bisect_right(self._starts, vaddr) - 1
        for at in range(index, max(-1, index - _MOST_OVERLAPS), -1):
            if found_at is not None and self._starts[at] != found_at:
                break
            raw = self._elf.read(
                self._table.offset + self._numbers[at] * _SYMBOL.size, _SYMBOL.size
            )
            name, _, _, _, start, size = _SYMBOL.unpack(raw)
            text = None
            if start <= vaddr < start + size:
                text = self._elf._text(self._names, name)
            if text is not None:
                names.append(text)
                found_at = start
        # Of aliases the one that people write: fork, not __libc_fork.
        return min(names, key=lambda name: (name.startswith(b"_"), len(name), name), default=None)
