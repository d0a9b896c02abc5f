"""Call frame information, .eh_frame and .debug_frame: which rule finds the caller's frame.

DWARF 5 section 6.4 and the Linux Standard Base's exception frames. Not libdw's: given a file of 4 MB
in which one function saves its state four million times, that takes 930 MB and 2.5 s before it
answers, and a tool for hosts without memory to spare must not. Here every size has a bound.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from contextlib import suppress
from dataclasses import field

from fork_trace.model.dataclass import dataclass
from fork_trace.stacks.elf import PT_GNU_EH_FRAME, BadElfError, Elf, Section

# Honest files stay far below: the longest entry of node has 3,144 bytes and 2,232 instructions.
_MOST_RECORD_BYTES = 1 << 16
_MOST_OPERATIONS = 1 << 13
_MOST_SAVED_STATES = 64
_MOST_REGISTERS = 128
_MOST_EXPRESSION_BYTES = 256
_MOST_SCANNED_BYTES, _SCANNED_AT_ONCE = 2 << 20, 1 << 16
_MOST_SCANNED_RECORDS = 10_000  # 0.03 s, once for a file without a sorted table
_SCANNING_COST, _OPENING_COST = 2, 12  # of an entry in its usual form, and of each other more
_SCANNED_FOR_ONE_PAY = 64
_MOST_CIES, _MOST_CIE_BYTES = 64, 4096  # honest ones have some thirty bytes

# DW_EH_PE_*
_ABSENT, _INDIRECT, _PC_RELATIVE, _DATA_RELATIVE = 0xFF, 0x80, 0x10, 0x30
_FORMATS = {0: "<Q", 2: "<H", 3: "<I", 4: "<Q", 0xA: "<h", 0xB: "<i", 0xC: "<q"}
_SORTED_TABLE = _DATA_RELATIVE | 0xB
_USUAL_ENCODING = _PC_RELATIVE | 0xB
_WORD = (1 << 64) - 1
_HEAD = struct.Struct("<IIii")  # of an entry: its size, how far back its CIE is, start, length

# How a register of the caller is found.
UNDEFINED, OFFSET, VALUE_OFFSET, REGISTER, EXPRESSION, VALUE_EXPRESSION = range(6)
Rule = tuple[int, "int | bytes"]


@dataclass(frozen=True)
class Row:
    """How the frame of the caller is found, for one address."""

    cfa: tuple[int, int] | bytes  # a register and what is added to it, or an expression
    rules: tuple[tuple[int, int, int | bytes], ...]  # register, how, with what
    return_register: int
    is_signal: bool


@dataclass(frozen=True)
class _Cie:
    code_align: int
    data_align: int
    return_register: int
    encoding: int
    is_augmented: bool
    is_signal: bool
    program: bytes


@dataclass
class _State:
    cfa: tuple[int, int] | bytes | None = None
    rules: dict[int, Rule] = field(default_factory=dict)


class _Data:
    """A record, read from its begin to its end."""

    def __init__(self, data: bytes, vaddr: int, at: int = 0) -> None:
        self.data, self.vaddr, self.at = data, vaddr, at

    def take(self, format_: str) -> int:
        (value,) = struct.unpack_from(format_, self.data, self.at)
        self.at += struct.calcsize(format_)
        return int(value)

    def byte(self) -> int:
        value = self.data[self.at]
        self.at += 1
        return value

    def block(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise BadElfError("a block longer than its record")
        self.at += size
        return self.data[self.at - size : self.at]

    def uleb(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
            if shift > 63:
                raise BadElfError("an endless number")

    def sleb(self) -> int:
        begin = self.at
        value = self.uleb()
        bits = 7 * (self.at - begin)
        return value - (1 << bits) if self.data[self.at - 1] & 0x40 else value

    def pointer(self, encoding: int, base: int = 0) -> int:
        if encoding & _INDIRECT:
            raise BadElfError("an indirect pointer")
        where = self.vaddr + self.at
        form, relative = encoding & 0x0F, encoding & 0x70
        if form in (1, 9):
            value = self.uleb() if form == 1 else self.sleb()
        elif form in _FORMATS:
            value = self.take(_FORMATS[form])
        else:
            raise BadElfError("an unknown pointer encoding")
        if relative == _PC_RELATIVE:
            value += where
        elif relative == _DATA_RELATIVE:
            value += base
        elif relative:
            raise BadElfError("an unknown pointer base")
        return value & _WORD

    def rest(self) -> bytes:
        return self.data[self.at :]


class Tables:
    """The unwind tables of one file."""

    def __init__(self, elf: Elf) -> None:
        self._elf = elf
        self._cies: dict[tuple[bool, int], _Cie] = {}
        self._header: tuple[int, int, int] | None = None  # file offset, vaddr, count
        self._scans: dict[bytes, _Scan] = {}
        with suppress(BadElfError, struct.error, IndexError):
            self._header = self._find_header()

    @property
    def kept_bytes(self) -> int:
        """How much memory is taken by what was read of them, about."""
        cies = sum(512 + len(cie.program) for cie in self._cies.values())
        return cies + sum(scan.kept_bytes for scan in self._scans.values())

    def row(self, vaddr: int) -> Row | None:
        """Return the rule at an address; None where there is none that makes sense.

        OverBudgetError: it is not known yet.
        """
        try:
            return self._row(vaddr)
        except (BadElfError, struct.error, IndexError, OSError):
            return None

    def _row(self, vaddr: int) -> Row | None:
        if self._header is not None:
            at = self._search(vaddr)
            if at is not None:
                row = self._entry(at, None, vaddr)
                if row is not None:
                    return row
        names = (b".debug_frame",) if self._header else (b".eh_frame", b".debug_frame")
        for name in names:
            section = self._elf.section(name)
            if section is not None:
                if name not in self._scans:
                    self._scans[name] = _Scan(self, self._elf, section)
                at = self._scans[name].find(vaddr)
                if at is not None:
                    return self._entry(at, section, vaddr)
        return None

    def _find_header(self) -> tuple[int, int, int] | None:
        """The sorted table of all functions, .eh_frame_hdr, where it has the form that linkers make."""
        for each in self._elf.segments:
            if each.type == PT_GNU_EH_FRAME:
                data = _Data(self._elf.upto(each.offset, 64), each.vaddr)
                version, pointer, count, table = (data.byte() for _ in range(4))
                if version != 1 or _ABSENT in (pointer, count) or table != _SORTED_TABLE:
                    return None
                data.pointer(pointer, each.vaddr)
                number = data.pointer(count, each.vaddr)
                if number > each.filesz // 8:
                    raise BadElfError("a table longer than its segment")
                return each.offset + data.at, each.vaddr, number
        return None

    def _search(self, vaddr: int) -> int | None:
        assert self._header is not None
        offset, base, count = self._header
        low, high, found = 0, count, None
        while low < high:
            middle = (low + high) // 2
            start, entry = struct.unpack("<ii", self._elf.read(offset + 8 * middle, 8))
            if base + start <= vaddr:
                low, found = middle + 1, base + entry
            else:
                high = middle
        return found

    def _record(self, at: int, section: Section | None) -> _Data | None:
        """The record at an address, or at an offset in a section; None at the end of them."""
        if section is None:
            offset = self._elf.offset(at)
            if offset is None:
                raise BadElfError("an entry outside the file")
        else:
            offset = section.offset + at
        (size,) = struct.unpack("<I", self._elf.read(offset, 4))
        if size == 0:
            return None
        if size > _MOST_RECORD_BYTES:
            raise BadElfError("an absurd entry")
        vaddr = at if section is None else section.vaddr + at
        return _Data(self._elf.read(offset + 4, size), vaddr + 4)

    def _cie(self, at: int, section: Section | None) -> _Cie:
        key = (section is None, at)
        if key not in self._cies:
            if len(self._cies) >= _MOST_CIES:
                self._cies.clear()
            self._cies[key] = self._read_cie(at, section)
        return self._cies[key]

    def _read_cie(self, at: int, section: Section | None) -> _Cie:
        data = self._record(at, section)
        is_debug = section is not None and section.name == b".debug_frame"
        if data is None or data.take("<I") != (0xFFFFFFFF if is_debug else 0):
            raise BadElfError("not what an entry refers to")
        version = data.byte()
        end = data.data.index(b"\0", data.at) if b"\0" in data.data[data.at :] else data.at
        augmentation = data.block(end - data.at)
        data.byte()
        if version not in (1, 3, 4) or (augmentation and augmentation[:1] != b"z"):
            raise BadElfError("an unknown kind of entry")
        if version == 4 and (data.byte(), data.byte()) != (8, 0):
            raise BadElfError("another size of addresses")
        code_align, data_align = data.uleb(), data.sleb()
        return_register = data.byte() if version == 1 else data.uleb()
        encoding, is_signal = 0, False
        program_at = data.at
        if augmentation:
            size = data.uleb()
            program_at = data.at + size
            for letter in augmentation[1:]:
                if letter == ord("R"):
                    encoding = data.byte()
                elif letter == ord("P"):
                    data.pointer(data.byte() & ~_INDIRECT)
                elif letter == ord("L"):
                    data.byte()
                elif letter == ord("S"):
                    is_signal = True
                elif letter != ord("B"):  # arm64: signed with the other key
                    break
        program = data.data[program_at:]
        if len(program) > _MOST_CIE_BYTES:
            raise BadElfError("an absurd program")
        return _Cie(
            code_align,
            data_align,
            return_register,
            encoding,
            bool(augmentation),
            is_signal,
            program,
        )

    def open(
        self, at: int, section: Section | None
    ) -> tuple[_Cie, int, int, _Data, tuple[bool, int]] | None:
        """Read an entry up to its program: its CIE, and the addresses that it is about."""
        data = self._record(at, section)
        if data is None:
            return None
        is_debug = section is not None and section.name == b".debug_frame"
        pointer = data.take("<I")
        if pointer == (0xFFFFFFFF if is_debug else 0):
            raise BadElfError("no entry")
        cie_at = pointer if is_debug else at + 4 - pointer
        cie = self._cie(cie_at, section)
        start = data.pointer(cie.encoding)
        size = data.pointer(cie.encoding & 0x0F)
        if cie.is_augmented:
            data.block(data.uleb())
        return cie, start, start + size, data, (section is None, cie_at)

    def _entry(self, at: int, section: Section | None, vaddr: int) -> Row | None:
        opened = self.open(at, section)
        if opened is None:
            return None
        cie, start, end, data, _ = opened
        if not start <= vaddr < end:
            return None
        # About an instruction each.
        self._elf.budget.pay(len(cie.program) + len(data.data) - data.at)
        initial = _run(cie, cie.program, _State(), None, 0, 1 << 64)
        state = _run(cie, data.rest(), _copy(initial), initial, start, vaddr)
        if state.cfa is None:
            return None
        rules = tuple((register, how, what) for register, (how, what) in state.rules.items())
        return Row(state.cfa, rules, cie.return_register, cie.is_signal)

    def is_usual(self, cie_at: int, section: Section) -> bool:
        """Say whether the entries of a CIE have the form that nearly all have: four words before their program."""
        cie = self._cies.get((False, cie_at))
        return cie is not None and cie.encoding == _USUAL_ENCODING and section.name == b".eh_frame"


class _Scan:
    """A walk through a section without a sorted table: start, end and place of each entry."""

    def __init__(self, tables: Tables, elf: Elf, section: Section) -> None:
        self._tables, self._elf, self._section = tables, elf, section
        self._at, self._end = 0, min(section.size, _MOST_SCANNED_BYTES)
        self._ahead, self._ahead_at = b"", 0
        self._found: list[tuple[int, int, int]] = []
        # By where its CIE is, once an entry of it was read whole: has it the usual form?
        self._usual: dict[int, bool] = {}
        self._columns = (array("Q"), array("Q"), array("Q"))

    @property
    def kept_bytes(self) -> int:
        return 24 * len(self._columns[0]) + 160 * len(self._found) + len(self._ahead)

    def find(self, vaddr: int) -> int | None:
        """Return where the entry of an address is; OverBudgetError: the walk has not ended yet."""
        while self._at + 4 <= self._end:
            self._elf.budget.pay(_SCANNING_COST * _SCANNED_FOR_ONE_PAY)
            if not self._steps():
                self._end = 0
        if self._found:
            self._found.sort()
            for column, values in zip(self._columns, zip(*self._found)):
                most = max(values)
                column.extend(values if most <= _WORD else [min(each, _WORD) for each in values])
            self._found, self._ahead = [], b""
        starts, ends, places = self._columns
        index = bisect_right(starts, vaddr) - 1
        return places[index] if index >= 0 and vaddr < ends[index] else None

    def _steps(self) -> bool:
        """Read some entries; say whether there may be more."""
        at, ahead, found, is_usual = self._at, self._ahead, self._found, self._usual.get
        base, limit, last = self._section.vaddr + 8, self._section.size, len(ahead) - _HEAD.size
        try:
            for _ in range(min(_SCANNED_FOR_ONE_PAY, _MOST_SCANNED_RECORDS - len(found))):
                place = at - self._ahead_at
                if place > last:
                    ahead, place = self._read_ahead(at), 0
                    last = len(ahead) - _HEAD.size
                    if last < 0:
                        return False
                size, back, start, length = _HEAD.unpack_from(ahead, place)
                if not 0 < size <= limit or at + 4 > self._end:
                    return False
                if length >= 0 and is_usual(at + 4 - back) and size + 4 >= _HEAD.size:
                    start = base + at + start & _WORD
                    found.append((start, start + length, at))
                else:
                    self._open(at)
                at += 4 + size
        finally:
            self._at = at
        return len(found) < _MOST_SCANNED_RECORDS

    def _read_ahead(self, at: int) -> bytes:
        ahead = self._elf.upto(self._section.offset + at, _SCANNED_AT_ONCE)
        if len(ahead) < _SCANNED_AT_ONCE:
            ahead += bytes(_HEAD.size - 4)  # the file's last entry can be shorter than a head
        self._ahead, self._ahead_at = ahead, at
        return ahead

    def _open(self, at: int) -> None:
        """Read a CIE, the first entry of one, or what makes no sense."""
        self._elf.budget.pay(_OPENING_COST)
        with suppress(BadElfError, struct.error, IndexError):
            opened = self._tables.open(at, self._section)
            if opened is not None:
                self._found.append((opened[1], opened[2], at))
                cie_at = opened[4][1]
                self._usual[cie_at] = self._tables.is_usual(cie_at, self._section)


def _copy(state: _State) -> _State:
    return _State(state.cfa, dict(state.rules))


def _run(
    cie: _Cie, program: bytes, state: _State, initial: _State | None, location: int, stop: int
) -> _State:
    """Run a program of call frame instructions up to an address."""
    data = _Data(program, 0)
    saved: list[_State] = []
    for _ in range(_MOST_OPERATIONS):
        if data.at >= len(program):
            return state
        code = data.byte()
        high, low = code & 0xC0, code & 0x3F
        if high == 0x40:  # DW_CFA_advance_loc
            location += low * cie.code_align
        elif high == 0x80:  # offset
            _set(state, low, OFFSET, data.uleb() * cie.data_align)
        elif high == 0xC0:  # restore
            _restore(state, initial, low)
        elif code in _ADVANCES:
            location += data.take(_ADVANCES[code]) * cie.code_align
        elif code == 0x01:  # set_loc
            location = data.pointer(cie.encoding)
        elif code == 0x0A:  # remember_state
            if len(saved) >= _MOST_SAVED_STATES:
                raise BadElfError("too many states")
            saved.append(_copy(state))
        elif code == 0x0B:  # restore_state
            if not saved:
                raise BadElfError("no state to restore")
            state = saved.pop()
        else:
            _other(cie, data, code, state, initial)
        if location > stop:
            return state
    raise BadElfError("an absurd program")


_ADVANCES = {0x02: "<B", 0x03: "<H", 0x04: "<I"}  # advance_loc1, 2, 4


def _other(cie: _Cie, data: _Data, code: int, state: _State, initial: _State | None) -> None:
    """One instruction that moves no address."""
    if code == 0x00:  # nop
        return
    if code == 0x0C:  # def_cfa
        state.cfa = (data.uleb(), data.uleb())
    elif code == 0x12:  # def_cfa_sf
        state.cfa = (data.uleb(), data.sleb() * cie.data_align)
    elif code in (0x0D, 0x0E, 0x13):  # def_cfa_register, def_cfa_offset, def_cfa_offset_sf
        if not isinstance(state.cfa, tuple):
            raise BadElfError("no register to change")
        register, offset = state.cfa
        if code == 0x0D:
            register = data.uleb()
        else:
            offset = data.uleb() if code == 0x0E else data.sleb() * cie.data_align
        state.cfa = (register, offset)
    elif code == 0x0F:  # def_cfa_expression
        state.cfa = _expression(data)
    elif code in (0x05, 0x11, 0x2F):  # offset_extended, its signed form, GNU's negative one
        register = data.uleb()
        value = data.sleb() if code == 0x11 else data.uleb()
        _set(state, register, OFFSET, (-value if code == 0x2F else value) * cie.data_align)
    elif code in (0x14, 0x15):  # val_offset, val_offset_sf
        register = data.uleb()
        value = data.uleb() if code == 0x14 else data.sleb()
        _set(state, register, VALUE_OFFSET, value * cie.data_align)
    elif code == 0x06:  # restore_extended
        _restore(state, initial, data.uleb())
    elif code == 0x07:  # undefined
        _set(state, data.uleb(), UNDEFINED, 0)
    elif code == 0x08:  # same_value
        state.rules.pop(data.uleb(), None)
    elif code == 0x09:  # register
        register = data.uleb()
        _set(state, register, REGISTER, data.uleb())
    elif code in (0x10, 0x16):  # expression, val_expression
        register = data.uleb()
        how = EXPRESSION if code == 0x10 else VALUE_EXPRESSION
        _set(state, register, how, _expression(data))
    elif code == 0x2E:  # GNU_args_size
        data.uleb()
    elif code != 0x2D:  # AARCH64_negate_ra_state: addresses are stripped of signatures anyway
        raise BadElfError("an unknown instruction")


def _set(state: _State, register: int, how: int, what: int | bytes) -> None:
    if register < _MOST_REGISTERS:
        state.rules[register] = (how, what)


def _restore(state: _State, initial: _State | None, register: int) -> None:
    rule = initial.rules.get(register) if initial else None
    if rule is None:
        state.rules.pop(register, None)
    else:
        state.rules[register] = rule


def _expression(data: _Data) -> bytes:
    size = data.uleb()
    if size > _MOST_EXPRESSION_BYTES:
        raise BadElfError("an absurd expression")
    return data.block(size)
