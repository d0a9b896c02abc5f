"""One ELF file, read piece by piece: segments, build id, symbols. Whoever wrote the file may be hostile.

Nothing is mapped, for a file cut short while it is mapped kills its reader by SIGBUS; and nothing is
read whole, so that the size of a file does not decide how much memory is needed.
"""

from __future__ import annotations

import lzma
import os
import struct
from array import array
from collections.abc import Callable
from contextlib import suppress

from fork_trace import budget as costs
from fork_trace.budget import Budget
from fork_trace.model.dataclass import dataclass
from fork_trace.stacks import arm64
from fork_trace.stacks.runs import Runs

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
_RELA = struct.Struct("<QQq")
_STUB, _PROLOGUE = struct.Struct("<3I"), struct.Struct("<48I")

# What no honest file exceeds by much: libjvm has 42 sections, node a symbol table of 2.6 MB.
_MOST_SEGMENTS, _MOST_SECTIONS = 64, 2048
_MOST_SYMBOL_BYTES = 16 << 20
_MOST_DEBUGDATA_BYTES = 4 << 20
_MOST_DICTIONARY_BYTES = 10 << 20  # xz at its usual level takes 9 MB to unpack
_MOST_NAME_BYTES = 4096
_MOST_NAMES_BYTES = 1 << 20  # looked through for one
_MOST_SECTION_NAME_BYTES = 32
_MOST_NOTE_BYTES = 1 << 16  # of all notes together
_MOST_OVERLAPS = 16
_MOST_FRAMES = 64  # of functions by name
_MOST_RELOCATION_BYTES = 2 << 20
# Read at once of a table; what a read and its entries cost; how much is unpacked at once.
_PIECE_BYTES = _SYMBOL.size << 13
_READ_COST, _SYMBOL_COST, _RELOCATION_COST = 2, 0.7, 0.4
_UNPACKED_BYTES, _UNPACKING_COST = 1 << 16, 1000
_NUMBER_BITS = 24

_BY_NAME = {"x86_64": (6, 7), "aarch64": (1025, 1026)}  # R_*_GLOB_DAT, R_*_JUMP_SLOT
_RELOCATIONS = (b".rela.plt", b".rela.dyn")
_NAMED = frozenset((*_RELOCATIONS, b".gnu_debugdata", b".eh_frame", b".debug_frame", b".PyRuntime"))


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
    """A 64-bit little-endian ELF file.

    Whatever it is asked can raise OverBudgetError: then the answer is not known yet, nor that there is none.
    """

    def __init__(self, read: Reader, budget: Budget | None = None) -> None:
        self._read = read
        self.budget = budget or costs.of_a_file()
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
        self._sections: dict[bytes, Section] | None = None  # those of _NAMED
        self._linked: dict[int, tuple[Section, Section]] = {}  # type -> a symbol table, its names
        self._tables: list[_Symbols] | None = None
        self._packed: _Packed | None = None
        self._other: Elf | None = None  # the separate debug file
        self._has_asked = False
        self._slots: _Slots | None = None
        self._frames: dict[bytes, arm64.Frame | None] = {}

    @property
    def kept_bytes(self) -> int:
        """How much memory is taken by what was read of it, about."""
        size = 4096 + 512 * len(self.segments) + sum(each.kept_bytes for each in self._tables or ())
        size += self._packed.kept_bytes if self._packed else 0
        return size + (self._slots.kept_bytes if self._slots else 0)

    def read(self, offset: int, size: int) -> bytes:
        """Read exactly that much; BadElfError if the file is shorter."""
        if not 0 <= offset < 1 << 62:
            raise BadElfError("an offset outside the file")
        self.budget.pay(_READ_COST, size)
        data = self._read(size, offset)
        if len(data) != size:
            raise BadElfError("the file is cut short")
        return data

    def upto(self, offset: int, size: int) -> bytes:
        """Read that much or what there is of it."""
        self.budget.pay(_READ_COST, size)
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
        left = _MOST_NOTE_BYTES
        for each in self.segments:
            if each.type != PT_NOTE or each.filesz > left:
                continue
            left -= each.filesz
            data, at = self.upto(each.offset, each.filesz), 0
            self.budget.pay(len(data) // 12)
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
        """Find a section that is in the file and not compressed: one of those that are of use here."""
        if self._sections is None:
            sections: dict[bytes, Section] = {}
            linked: dict[int, tuple[Section, Section]] = {}
            # Else the headers are stripped, or make no sense.
            with suppress(BadElfError, struct.error):
                self._read_sections(sections, linked)
            self._sections, self._linked = sections, linked
        return self._sections.get(name)

    def _read_sections(
        self, sections: dict[bytes, Section], linked: dict[int, tuple[Section, Section]]
    ) -> None:
        """Find the first section of each kind; of the others nothing is kept."""
        if self._shentsize != _SHDR.size or not 0 < self._shnum <= _MOST_SECTIONS:
            return
        self.budget.pay(self._shnum)
        raw = self.read(self._shoff, self._shentsize * self._shnum)
        headers = list(_SHDR.iter_unpack(raw))
        if self._shstrndx >= len(headers):
            return
        names_at, names_size = headers[self._shstrndx][4:6]
        names = self.upto(names_at, min(names_size, 1 << 16))
        for header in headers:
            at, type_, flags, _, _, _, link, *_ = header
            name = names[at : at + _MOST_SECTION_NAME_BYTES].split(b"\0", 1)[0]
            if type_ in (_SHT_SYMTAB, _SHT_DYNSYM) and type_ not in linked and link < len(headers):
                linked[type_] = (_section(name, header), _section(b"", headers[link]))
            is_there = type_ != _SHT_NOBITS and not flags & _SHF_COMPRESSED
            if name in _NAMED and name not in sections and is_there:
                sections[name] = _section(name, header)

    def symbol(self, vaddr: int, debug: Callable[[], Elf | None] | None = None) -> bytes | None:
        """Name the function that an address lies in; None rather than a neighbour's name.

        `debug` finds the separate debug file; it is asked once.
        """
        for table in self._all_tables(debug):
            try:
                name = table.find(vaddr)
            except (BadElfError, struct.error):
                continue
            if name:
                return name
        return None

    def _all_tables(self, debug: Callable[[], Elf | None] | None) -> list[_Symbols]:
        if self._tables is None:
            tables = self._own_tables()
            if not self._has_asked:
                self._other = debug() if debug else None
                self._has_asked = True
            if self._other is not None:
                tables += self._other._own_tables()
            self._tables = tables
        return self._tables

    def called(self, vaddr: int) -> bytes | None:
        """Name the function that a call returns from to this address; None: no call, or unknown."""
        try:
            return (
                self._called_on_arm64(vaddr) if self.machine == "aarch64" else self._called(vaddr)
            )
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

    def _called_on_arm64(self, vaddr: int) -> bytes | None:
        word = int.from_bytes(self._code(vaddr - 4, 4), "little")
        target = arm64.call_target(word, vaddr - 4)
        if target is None:
            return None
        slot = arm64.stub_slot(_STUB.unpack(self._code(target, _STUB.size)), target)
        return self.symbol(target) if slot is None else self._slot(slot)

    def frame(self, name: bytes) -> arm64.Frame | None:
        """Read what a function, which others link to by name, does to the stack; None: unknown. Of arm64 only."""
        if name not in self._frames and len(self._frames) < _MOST_FRAMES:
            found = None
            self.section(b"")  # finds the tables
            if self.machine == "aarch64" and _SHT_DYNSYM in self._linked:
                with suppress(BadElfError, struct.error):
                    start = _Symbols(self, *self._linked[_SHT_DYNSYM]).start(name)
                    if start is not None:
                        found = arm64.frame(_PROLOGUE.unpack(self._code(start, _PROLOGUE.size)))
            self._frames[name] = found
        return self._frames.get(name)

    def _code(self, vaddr: int, size: int) -> bytes:
        offset = self.offset(vaddr)
        if offset is None:
            raise BadElfError("an address outside the file")
        return self.read(offset, size)

    def _slot(self, vaddr: int) -> bytes | None:
        """The name that the dynamic linker resolves at an address."""
        if self._slots is None:
            found = [self.section(name) for name in _RELOCATIONS]
            self._slots = _Slots(self, [section for section in found if section])
        number = self._slots.number(vaddr)
        symbols = self._linked.get(_SHT_DYNSYM)
        if number is None or symbols is None:
            return None
        raw = self.read(symbols[0].offset + number * _SYMBOL.size, _SYMBOL.size)
        return self._text(symbols[1], _SYMBOL.unpack(raw)[0])

    def _text(self, names: Section, at: int) -> bytes | None:
        """Read a name of a string table."""
        if at >= names.size:
            return None
        raw = self.upto(names.offset + at, 256)
        if b"\0" not in raw:
            raw = self.upto(names.offset + at, _MOST_NAME_BYTES)
        text, end, _ = raw.partition(b"\0")
        return text if text and end else None

    def _own_tables(self) -> list[_Symbols]:
        """The symbol tables, best first. .dynsym holds nothing that .symtab has not."""
        packed = self.section(b".gnu_debugdata")
        tables = []
        for type_ in (_SHT_SYMTAB, _SHT_DYNSYM):
            if type_ in self._linked:
                tables.append(_Symbols(self, *self._linked[type_]))
                break
        if packed is not None and self._packed is None:
            self._packed = _Packed(self, packed)
        inner = self._packed.elf() if self._packed else None
        return tables + (inner._own_tables() if inner else [])


def _section(name: bytes, header: tuple[int, ...]) -> Section:
    _, type_, flags, vaddr, offset, size, link, *_ = header
    return Section(name, type_, flags, vaddr, offset, size, link)


class _Packed:
    """The small ELF file, packed, in which some distributions keep the symbols."""

    def __init__(self, elf: Elf, section: Section) -> None:
        self._elf = elf
        self._at, self._end = section.offset, section.offset + section.size
        self._unpacker: lzma.LZMADecompressor | None = None
        if section.size <= _MOST_DEBUGDATA_BYTES:
            self._unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MOST_DICTIONARY_BYTES)
        self._image = bytearray()
        self._inner: Elf | None = None

    @property
    def kept_bytes(self) -> int:
        return len(self._image) + (_MOST_DICTIONARY_BYTES if self._unpacker else 0)

    def elf(self) -> Elf | None:
        """Return the file within, or None; OverBudgetError: it is not unpacked yet."""
        if self._unpacker is not None:
            try:
                self._unpack(self._unpacker)
                inner = Elf(self._read, self._elf.budget)
                # It holds none within itself.
                self._inner = None if inner.section(b".gnu_debugdata") else inner
            except (BadElfError, lzma.LZMAError, struct.error, MemoryError, EOFError):
                pass
            self._unpacker = None
            if self._inner is None:
                self._image = bytearray()
        return self._inner

    def _unpack(self, unpacker: lzma.LZMADecompressor) -> None:
        while not unpacker.eof:
            size = min(_UNPACKED_BYTES, self._end - self._at) if unpacker.needs_input else 0
            # What is hard to unpack is long.
            self._elf.budget.pay(_UNPACKING_COST + size / 32)
            data = self._elf.read(self._at, size)
            if unpacker.needs_input and not data:
                raise BadElfError("what is packed is cut short")
            self._at += len(data)
            self._image += unpacker.decompress(data, _UNPACKED_BYTES)
            if len(self._image) > _MOST_DEBUGDATA_BYTES:
                raise BadElfError("an absurd file within")

    def _read(self, size: int, offset: int) -> bytes:
        return bytes(self._image[offset : offset + size])


class _Slots:
    """Where the dynamic linker puts addresses -> the number of the dynamic symbol."""

    def __init__(self, elf: Elf, sections: list[Section]) -> None:
        self._elf = elf
        self._places = [
            (each.offset, each.offset + min(each.size, _MOST_RELOCATION_BYTES)) for each in sections
        ]
        self._runs = Runs(_NUMBER_BITS)

    @property
    def kept_bytes(self) -> int:
        return self._runs.size

    def number(self, vaddr: int) -> int | None:
        """Return the number of a symbol; OverBudgetError: it is not read that far yet."""
        while self._places:
            at, end = self._places[-1]
            size = min(_PIECE_BYTES, end - at) // _RELA.size * _RELA.size
            if size <= 0:
                self._places.pop()
                continue
            self._elf.budget.pay(size / _RELA.size * _RELOCATION_COST)
            raw = self._elf.upto(at, size)
            self._runs.add(
                place << _NUMBER_BITS | info >> 32
                for place, info, _ in _RELA.iter_unpack(raw[: len(raw) // _RELA.size * _RELA.size])
                if info & 0xFFFFFFFF in _BY_NAME[self._elf.machine]
                and info >> 32 < 1 << _NUMBER_BITS
            )
            self._places[-1] = (at + size, end)
            if len(raw) < size:
                self._places.pop()
        return self._runs.latest(vaddr)


class _Symbols:
    """One symbol table: where the functions begin; their names and sizes stay in the file."""

    def __init__(self, elf: Elf, table: Section, names: Section) -> None:
        self._elf, self._table, self._names = elf, table, names
        # Of an absurd table nothing is read.
        self._end = 0 if table.size > _MOST_SYMBOL_BYTES else table.size // _SYMBOL.size
        self._next = 0  # the first one that is not read yet
        self._runs = Runs(_NUMBER_BITS)

    @property
    def kept_bytes(self) -> int:
        return self._runs.size

    def _load(self) -> None:
        while self._next < self._end:
            count = min(_PIECE_BYTES // _SYMBOL.size, self._end - self._next)
            self._elf.budget.pay(count * _SYMBOL_COST)
            try:
                raw = self._elf.read(
                    self._table.offset + self._next * _SYMBOL.size, count * _SYMBOL.size
                )
            except BadElfError:
                self._end = self._next = 0
                self._runs = Runs(_NUMBER_BITS)
                raise
            words = array("Q", raw)
            # Elf64_Sym in three words: name, type and section; address; size.
            self._runs.add(
                [
                    address << _NUMBER_BITS | number
                    for number, (head, address) in enumerate(
                        zip(words[0::3], words[1::3]), self._next
                    )
                    if head >> 48 and (head >> 32 & 15) in _FUNCTIONS
                ]
            )
            self._next += count

    def find(self, vaddr: int) -> bytes | None:
        """Name the innermost function that covers an address, by the name that people write."""
        self._load()
        found: bytes | None = None
        found_at = -1
        for at, number in self._runs.before(vaddr, _MOST_OVERLAPS):
            if at < found_at:
                break
            raw = self._elf.read(self._table.offset + number * _SYMBOL.size, _SYMBOL.size)
            name, _, _, _, start, size = _SYMBOL.unpack(raw)
            if not start == at <= vaddr < start + size:
                continue
            text = self._elf._text(self._names, name)
            if text is None:
                continue
            # Of aliases the one that people write: fork, not __libc_fork.
            if found is None or _plainness(text) < _plainness(found):
                found, found_at = text, at
        return found

    def start(self, name: bytes) -> int | None:
        """Return where the function of a name begins."""
        names = self._elf.upto(self._names.offset, min(self._names.size, _MOST_NAMES_BYTES))
        # One name can be the end of another: fork that of vfork.
        places, at = set(), names.find(name + b"\0")
        while at >= 0:
            places.add(at)
            at = names.find(name + b"\0", at + 1)
        for first in range(0, self._end if places else 0, _PIECE_BYTES // _SYMBOL.size):
            count = min(_PIECE_BYTES // _SYMBOL.size, self._end - first)
            self._elf.budget.pay(count * _SYMBOL_COST)
            at = self._table.offset + first * _SYMBOL.size
            for text, info, _, section, start, _ in _SYMBOL.iter_unpack(
                self._elf.read(at, count * _SYMBOL.size)
            ):
                if text in places and section and info & 15 in _FUNCTIONS:
                    return int(start)
        return None


def _plainness(name: bytes) -> tuple[bool, int, bytes]:
    return name.startswith(b"_"), len(name), name
