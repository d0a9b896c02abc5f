"""Registers and a slice of a stack -> the return addresses, innermost first. Pure arithmetic and bounded.

Which rule holds at an address is told by a function that is given: `cfi` reads it from files, and
`symbols` knows which file lies where.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable

from fork_trace.budget import OverBudgetError
from fork_trace.model.dataclass import dataclass
from fork_trace.model.sizes import STACK_CHUNK
from fork_trace.stacks.cfi import EXPRESSION, OFFSET, REGISTER, UNDEFINED, VALUE_OFFSET, Row

MOST_FRAMES = 128
_MOST_OPERATIONS = 256
_MOST_DEPTH = 64
_WORD = (1 << 64) - 1
_EIGHT = struct.Struct("<Q")
# Frame pointer, stack pointer and return address by DWARF's numbers.
_REGISTERS = {"x86_64": (6, 7, 16), "aarch64": (29, 31, 30)}
# glibc ends the entry of clone and clone3 before their system call, for the child's sake (clone3.S,
# "End FDE now"). What held until then still holds for the parent: a byte before that instruction.
_BEFORE_SYSTEM_CALL = {"x86_64": 3, "aarch64": 5}
# Since Armv8.3 an address can carry a signature above its 48 bits, or above its 52 where the kernel has
# that many (its CONFIG_ARM64_VA_BITS). Above 48 lies only what was asked for there (arm64's memory.rst).
_ARM64_BITS = (48, 52)


class LostError(Exception):
    """The stack cannot be followed further."""


@dataclass(frozen=True)
class Memory:
    """A piece of the memory of a process."""

    start: int
    data: bytes
    holes: frozenset[int] = frozenset()  # chunks of it that could not be read

    def word(self, address: int) -> int:
        """Read eight bytes; what is not in the piece is not known."""
        at = address - self.start
        if not 0 <= at <= len(self.data) - 8:
            raise LostError
        if self.holes and not self.holes.isdisjoint((at // STACK_CHUNK, (at + 7) // STACK_CHUNK)):
            raise LostError
        return int.from_bytes(self.data[at : at + 8], "little")

    def last_whole(self) -> int:
        """Say where the last word before the first hole lies, from the start on."""
        return min(len(self.data), *(hole * STACK_CHUNK for hole in self.holes), 1 << 62) - 8


# An address -> its rule; None: it has none, but is code; LookupError: it is no code at all.
Find = Callable[[int], "Row | None"]
# An address without a rule, and the registers -> its return address, and the registers there.
Search = Callable[[int, "dict[int, int]", Memory], "tuple[int, dict[int, int]] | None"]


def unsigned(address: int, stack_pointer: int) -> int:
    """Return an arm64 address without its signature, as addresses are in that process."""
    short, long = _ARM64_BITS
    return address & (1 << (long if stack_pointer >> short else short)) - 1


def walk(
    pc: int,
    registers: dict[int, int],
    memory: Memory,
    find: Find,
    machine: str,
    deadline_s: float | None = None,
    search: Search | None = None,
    trail: list[dict[int, int]] | None = None,
) -> list[int]:
    """Return the program counter and then each return address, as far as the stack can be followed.

    Where a frame has no rule, `search` may find its caller by other means. `trail` gets the registers
    of each.
    """
    frame_pointer, stack_pointer, return_address = _REGISTERS[machine]
    found = [pc]
    trail = [] if trail is None else trail
    trail.append(registers)
    is_exact = True  # this address runs next; a return address lies behind its call
    last = memory.last_whole()
    while len(found) < MOST_FRAMES:
        if deadline_s is not None and time.monotonic() > deadline_s:
            break
        sp = registers[stack_pointer]
        try:
            row = find(pc if is_exact else pc - 1)
            if row is None and len(found) == 1:
                row = find(pc - _BEFORE_SYSTEM_CALL[machine])
            if row is None:
                there = search(pc, registers, memory) if search is not None else None
                if there is not None:
                    pc, registers = there
                else:
                    pc, registers = _by_frame_pointer(
                        registers, memory, frame_pointer, stack_pointer
                    )
                is_signal = False
            else:
                known = row.return_register == return_address and is_exact
                pc, registers = _by_row(row, registers, memory, last, stack_pointer, known)
                is_signal = row.is_signal
        except (LostError, LookupError, OverflowError, OverBudgetError):
            break
        if machine == "aarch64":
            pc = unsigned(pc, sp)
        # A caller's frame lies above. In the first frame nothing may have been pushed yet.
        above = registers.get(stack_pointer)  # none: a rule of its own gave it up
        if pc == 0 or above is None or above < sp + (0 if is_exact else 8):
            break
        if is_exact and above == sp and pc == found[-1]:
            break
        found.append(pc)
        trail.append(registers)
        is_exact = is_signal
    # The last one must be code as well: what is found beyond the end of a broken chain is not.
    while len(found) > 1 and not _is_code(find, found[-1] - 1):
        found.pop()
        trail.pop()
    return found


def _is_code(find: Find, address: int) -> bool:
    try:
        find(address)
    except LookupError:
        return False
    except OverBudgetError:
        pass  # in a file, whose rules are not read that far
    return True


def _cfa(row: Row, registers: dict[int, int], memory: Memory) -> int:
    if isinstance(row.cfa, bytes):
        return _evaluate(row.cfa, registers, memory, None)
    register, offset = row.cfa
    return registers[register] + offset & _WORD


def _by_row(
    row: Row,
    registers: dict[int, int],
    memory: Memory,
    last: int,
    stack_pointer: int,
    keeps_return_address: bool,
) -> tuple[int, dict[int, int]]:
    cfa = _cfa(row, registers, memory)
    caller = dict(registers)
    caller[stack_pointer] = cfa
    is_return_known = False
    data, base = memory.data, cfa - memory.start
    for register, how, what in row.rules:
        is_return_known = is_return_known or register == row.return_register
        if how == OFFSET and isinstance(what, int) and 0 <= base + what <= last:
            (caller[register],) = _EIGHT.unpack_from(data, base + what)  # nearly all of them
            continue
        if how == UNDEFINED:
            if register == row.return_register:
                raise LostError  # the outermost frame says so
            caller.pop(register, None)
            continue
        try:
            caller[register] = _value(how, what, cfa, registers, memory)
        except (LostError, LookupError):
            if register == row.return_register:
                raise
            # A register that nobody needs further up does no harm.
            caller.pop(register, None)
    # On arm64 it is still in its register until it is saved, on x86-64 it always is on the stack.
    if not is_return_known and not keeps_return_address:
        raise LostError
    return caller[row.return_register], caller


def _value(how: int, what: int | bytes, cfa: int, registers: dict[int, int], memory: Memory) -> int:
    if isinstance(what, bytes):
        value = _evaluate(what, registers, memory, cfa)
        return memory.word(value) if how == EXPRESSION else value
    if how == OFFSET:
        return memory.word(cfa + what & _WORD)
    if how == VALUE_OFFSET:
        return cfa + what & _WORD
    assert how == REGISTER
    return registers[what]


def _by_frame_pointer(
    registers: dict[int, int], memory: Memory, frame_pointer: int, stack_pointer: int
) -> tuple[int, dict[int, int]]:
    """Where there is no rule, as in what a JIT compiler made: many of these keep a frame pointer."""
    frame = registers[frame_pointer]
    if frame < registers[stack_pointer] or frame & 7:
        raise LostError
    caller = dict(registers)
    caller[frame_pointer] = memory.word(frame)
    caller[stack_pointer] = frame + 16
    return memory.word(frame + 8), caller


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _evaluate(code: bytes, registers: dict[int, int], memory: Memory, cfa: int | None) -> int:
    """Evaluate a DWARF expression, DWARF 5 section 2.5; the CFA, where there is one, lies on top."""
    stack: list[int] = [] if cfa is None else [cfa]
    at = 0
    for _ in range(_MOST_OPERATIONS):
        if at >= len(code):
            return stack[-1]
        if len(stack) > _MOST_DEPTH:
            break
        at = _operate(code, at, stack, registers, memory)
    raise LostError


_CONSTANTS = {0x08: (1, False), 0x09: (1, True), 0x0A: (2, False), 0x0B: (2, True)}
_CONSTANTS.update({0x0C: (4, False), 0x0D: (4, True), 0x0E: (8, False), 0x0F: (8, True)})
_BINARY: dict[int, Callable[[int, int], int]] = {
    0x1A: lambda a, b: a & b,
    0x1C: lambda a, b: a - b,
    0x1E: lambda a, b: a * b,
    0x21: lambda a, b: a | b,
    0x22: lambda a, b: a + b,
    0x24: lambda a, b: a << b if b < 64 else 0,
    0x25: lambda a, b: a >> b if b < 64 else 0,
    0x26: lambda a, b: _signed(a) >> min(b, 63),
    0x27: lambda a, b: a ^ b,
    0x29: lambda a, b: int(a == b),
    0x2A: lambda a, b: int(_signed(a) >= _signed(b)),
    0x2B: lambda a, b: int(_signed(a) > _signed(b)),
    0x2C: lambda a, b: int(_signed(a) <= _signed(b)),
    0x2D: lambda a, b: int(_signed(a) < _signed(b)),
    0x2E: lambda a, b: int(a != b),
}


def _operate(
    code: bytes, at: int, stack: list[int], registers: dict[int, int], memory: Memory
) -> int:
    """One operation of an expression; returns where the next one is."""
    operation = code[at]
    at += 1
    if operation in _BINARY:
        top = stack.pop()
        stack.append(_BINARY[operation](stack.pop(), top) & _WORD)
    elif 0x30 <= operation <= 0x4F:  # DW_OP_lit
        stack.append(operation - 0x30)
    elif 0x70 <= operation <= 0x8F:  # breg
        value, at = _leb(code, at, is_signed=True)
        stack.append(registers[operation - 0x70] + value & _WORD)
    elif operation == 0x92:  # bregx
        register, at = _leb(code, at)
        value, at = _leb(code, at, is_signed=True)
        stack.append(registers[register] + value & _WORD)
    elif operation in _CONSTANTS:
        size, is_signed = _CONSTANTS[operation]
        if at + size > len(code):
            raise LostError
        raw = code[at : at + size]
        stack.append(int.from_bytes(raw, "little", signed=is_signed) & _WORD)
        at += size
    elif operation in (0x10, 0x11, 0x23):  # constu, consts, plus_uconst
        value, at = _leb(code, at, is_signed=operation == 0x11)
        stack.append((stack.pop() if operation == 0x23 else 0) + value & _WORD)
    elif operation == 0x06:  # deref
        stack.append(memory.word(stack.pop()))
    elif operation in (0x12, 0x14):  # dup, over
        stack.append(stack[-1 if operation == 0x12 else -2])
    elif operation == 0x13:  # drop
        stack.pop()
    elif operation == 0x16:  # swap
        stack[-1], stack[-2] = stack[-2], stack[-1]
    elif operation in (0x1F, 0x20):  # neg, not
        value = stack.pop()
        stack.append((-value if operation == 0x1F else ~value) & _WORD)
    elif operation in (0x28, 0x2F):  # bra, skip
        distance = int.from_bytes(code[at : at + 2], "little", signed=True)
        at += 2
        if operation == 0x2F or stack.pop():
            at += distance
        if not 0 <= at <= len(code):
            raise LostError
    elif operation != 0x96:  # nop
        raise LostError
    return at


def _leb(code: bytes, at: int, is_signed: bool = False) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = code[at]
        value |= (byte & 0x7F) << shift
        shift += 7
        at += 1
        if byte < 0x80:
            return value - (1 << shift) if is_signed and byte & 0x40 else value, at
    raise LostError
