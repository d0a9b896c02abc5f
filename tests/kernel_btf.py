"""Copies of the running kernel's BTF in which a type, a field or a value has another name, as if it were not there.

Only names are overwritten: all numbers, sizes and offsets stay those of the running kernel.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

CHECKOUT = Path(__file__).resolve().parents[1]
SOURCE = "/sys/kernel/btf/vmlinux"
GONE = "of_no_kernel"

# include/uapi/linux/btf.h
_HEADER = struct.Struct("<HBBIIIII")
INT, ARRAY, STRUCT, UNION, ENUM, FUNC_PROTO, VAR, DATASEC = 1, 3, 4, 5, 6, 13, 14, 15
DECL_TAG, ENUM64 = 17, 19
POINTER, FUNC = 2, 12
_ALIASES = (8, 9, 10, 11, 18)  # typedef, volatile, const, restrict, type tag
# Kind -> bytes behind a type, and behind it for each of its members.
_BEHIND = {
    INT: (4, 0),
    ARRAY: (12, 0),
    STRUCT: (0, 12),
    UNION: (0, 12),
    ENUM: (0, 8),
    FUNC_PROTO: (0, 8),
    VAR: (4, 0),
    DATASEC: (0, 12),
    DECL_TAG: (4, 0),
    ENUM64: (0, 12),
}

# Kinds of one type alone: pointer, typedef, volatile, const, restrict, function, its prototype,
# variable, declaration tag, type tag.
_REFERRING = (2, 8, 9, 10, 11, 12, FUNC_PROTO, VAR, DECL_TAG, 18)


class _Place(NamedTuple):
    """Where a type lies in the bytes."""

    at: int
    kind: int
    items: int


def shortened(raw: bytes, names: Collection[str]) -> bytes:
    """Leave out the types behind the last of those names, each of which is there, and of what these are made of.

    libbpf goes through all of them, for each that it looks for; it would take long under emulation. What refers to one of these refers to void.
    """
    _, _, _, header, types, type_bytes, text, text_bytes = _HEADER.unpack_from(raw)
    wanted = {raw.index(b"\0" + name.encode() + b"\0", header + text) + 1 for name in names}
    offsets = {at - header - text for at in wanted}
    last, ends, at = 0, [header + types], header + types
    parts: set[int] = set()  # numbers of types that a member of one of them is made of
    while (offsets or last < max(parts, default=0) + 1) and at < header + types + type_bytes:
        name, info = struct.unpack_from("<II", raw, at)
        once, each = _BEHIND.get(info >> 24 & 0x1F, (0, 0))
        at += 12 + once + each * (info & 0xFFFF)
        ends.append(at)
        kind, number = info >> 24 & 0x1F, len(ends) - 1
        is_wanted = name in offsets and kind in (STRUCT, ENUM)
        if is_wanted:
            offsets.remove(name)
        elif name and kind in (STRUCT, UNION):
            parts.discard(number)  # wanted by itself, or not at all
        if is_wanted or number in parts:
            last = len(ends)
            _add_parts(raw, ends, number, parts)
    kept = bytearray(raw[: ends[last - 1]])
    for at in ends[: last - 1]:
        _, info = struct.unpack_from("<II", kept, at)
        kind, count = info >> 24 & 0x1F, info & 0xFFFF
        # The places in it that are numbers of types.
        references = [at + 8] if kind in _REFERRING else []
        references += [at + 12, at + 16] if kind == ARRAY else []
        if kind in (STRUCT, UNION, FUNC_PROTO, DATASEC):
            size = _BEHIND[kind][1]
            first = at + 12 + (0 if kind == DATASEC else 4)
            references += range(first, first + size * count, size)
        for place in references:
            if struct.unpack_from("<I", kept, place)[0] >= last:
                struct.pack_into("<I", kept, place, 0)
    bytes_kept = len(kept) - header - types
    struct.pack_into("<III", kept, 12, bytes_kept, types + bytes_kept, text_bytes)
    return bytes(kept) + raw[header + text : header + text + text_bytes]


def _add_parts(raw: bytes, ends: list[int], number: int, parts: set[int]) -> None:
    """Add what a type is made of, up to its pointers; of what is still to come, only its number."""
    at = ends[number - 1]
    (info,) = struct.unpack_from("<I", raw, at + 4)
    kind, count = info >> 24 & 0x1F, info & 0xFFFF
    if kind in (STRUCT, UNION):
        found = [struct.unpack_from("<I", raw, at + 16 + 12 * each)[0] for each in range(count)]
    elif kind == ARRAY:
        found = [struct.unpack_from("<I", raw, at + 12)[0]]
    else:
        found = [struct.unpack_from("<I", raw, at + 8)[0]] if kind in _ALIASES else []
    for part in found:
        if not part or part in parts:
            continue
        if part < len(ends) and struct.unpack_from("<I", raw, ends[part - 1])[0]:
            inner = struct.unpack_from("<I", raw, ends[part - 1] + 4)[0] >> 24 & 0x1F
            if inner in (STRUCT, UNION):
                continue
        parts.add(part)
        if part < len(ends):
            _add_parts(raw, ends, part, parts)


class KernelBtf:
    """The running kernel's BTF. Each change is undone by `restore`."""

    def __init__(self, raw: bytes) -> None:
        self._raw = bytearray(raw)
        magic, _, _, header, types, type_bytes, text, text_bytes = _HEADER.unpack_from(raw)
        assert magic == 0xEB9F
        self._text, self._text_bytes = header + text, text_bytes
        assert self._text + text_bytes == len(raw)  # so that a name can be added at the end
        self._gone = text_bytes
        self._add(GONE)
        self._places = [_Place(0, 0, 0)]
        self._named: dict[tuple[int, int], list[int]] = {}
        at, end = header + types, header + types + type_bytes
        while at < end:
            name, info = struct.unpack_from("<II", raw, at)
            kind, count = info >> 24 & 0x1F, info & 0xFFFF
            if kind in (STRUCT, ENUM):
                self._named.setdefault((kind, name), []).append(len(self._places))
            self._places.append(_Place(at, kind, count))
            once, each = _BEHIND.get(kind, (0, 0))
            at += 12 + once + each * count
        self._undo: list[tuple[int, bytes]] = []

    def _add(self, name: str) -> int:
        offset: int = self._text_bytes
        self._raw += name.encode() + b"\0"
        self._text_bytes += len(name) + 1
        struct.pack_into("<I", self._raw, 20, self._text_bytes)
        return offset

    def _name(self, at: int) -> str:
        start = self._text + struct.unpack_from("<I", self._raw, at)[0]
        return self._raw[start : self._raw.index(b"\0", start)].decode()

    def _write(self, at: int, value: int) -> None:
        self._undo.append((at, bytes(self._raw[at : at + 4])))
        struct.pack_into("<i", self._raw, at, value)

    def _types(self, kind: int, name: str) -> Iterator[_Place]:
        for (each, offset), numbers in self._named.items():
            start = self._text + offset
            if each == kind and self._raw[start : start + len(name) + 1] == name.encode() + b"\0":
                yield from (self._places[number] for number in numbers)

    def _members(self, place: _Place) -> Iterator[tuple[int, str]]:
        """Find the members of a structure and of those without a name in it, or the values of an enumeration."""
        size = 8 if place.kind == ENUM else 12
        for at in range(place.at + 12, place.at + 12 + size * place.items, size):
            name = self._name(at)
            yield at, name
            if place.kind != ENUM and not name:
                inner = self._places[struct.unpack_from("<I", self._raw, at + 4)[0]]
                if inner.kind in (STRUCT, UNION):
                    yield from self._members(inner)

    def without_type(self, kind: int, name: str) -> bool:
        """Give a type another name; False: there is none."""
        found = list(self._types(kind, name))
        for place in found:
            self._write(place.at, self._gone)
        return bool(found)

    def without_member(self, kind: int, name: str, member: str, new: str | None = None) -> bool:
        """Give a member of a type, or a value of an enumeration, another name; False: there is none."""
        offset = self._gone if new is None else self._add(new)
        found = [
            at
            for place in self._types(kind, name)
            for at, each in self._members(place)
            if each == member
        ]
        for at in found:
            self._write(at, offset)
        return bool(found)

    def with_value(self, name: str, member: str, value: int) -> None:
        """Give a value of an enumeration another number."""
        for place in self._types(ENUM, name):
            for at, each in self._members(place):
                if each == member:
                    self._write(at + 4, value)

    def has(self, kind: int, name: str) -> bool:
        """Say whether there is a type of that name."""
        return any(True for _ in self._types(kind, name))

    def value(self, name: str, member: str) -> int:
        """Return the number of a value of an enumeration."""
        place = next(self._types(ENUM, name))
        at = next(at for at, each in self._members(place) if each == member)
        number: int = struct.unpack_from("<i", self._raw, at + 4)[0]
        return number

    def write(self, path: Path) -> None:
        """Write it as it is by now."""
        path.write_bytes(self._raw)

    def restore(self) -> None:
        """Undo all changes."""
        while self._undo:
            at, before = self._undo.pop()
            self._raw[at : at + 4] = before


def widths(raw: bytes, names: Collection[str]) -> dict[str, tuple[int, ...]]:
    """Return the bytes of each parameter of these functions and, last, of what they return; 0: nothing."""
    _, _, _, header, types, type_bytes, text, _ = _HEADER.unpack_from(raw)
    places, functions = [0], dict[str, int]()
    wanted = {name.encode(): name for name in names}
    at, end = header + types, header + types + type_bytes
    while at < end:
        name, info = struct.unpack_from("<II", raw, at)
        places.append(at)
        once, each = _BEHIND.get(info >> 24 & 0x1F, (0, 0))
        if info >> 24 & 0x1F == FUNC:
            start = header + text + name
            found = wanted.get(raw[start : raw.index(b"\0", start)])
            if found:
                functions[found] = struct.unpack_from("<I", raw, at + 8)[0]
        at += 12 + once + each * (info & 0xFFFF)

    def size(number: int) -> int:
        info, of = struct.unpack_from("<II", raw, places[number] + 4) if number else (0, 0)
        kind = info >> 24 & 0x1F
        if kind in _ALIASES:
            return size(of)
        return 8 if kind == POINTER else int(of)

    found_widths = {}
    for function, number in functions.items():
        info, returned = struct.unpack_from("<II", raw, places[number] + 4)
        parameters = struct.unpack_from(f"<{2 * (info & 0xFFFF)}I", raw, places[number] + 12)[1::2]
        found_widths[function] = (*map(size, parameters), size(returned))
    return found_widths


def read_by_the_programs() -> dict[tuple[int, str], tuple[str, ...]]:
    """Return what bpf/kernel_types.h names of the kernel: (kind, type) -> members, without the flavours."""
    text = (CHECKOUT / "bpf" / "kernel_types.h").read_text()
    text = re.sub(r"/\*.*?\*/", "", text[text.index("#pragma clang attribute push") :], flags=re.S)
    found: dict[tuple[int, str], tuple[str, ...]] = {}
    for word, name, body in re.findall(r"^(struct|enum) (\w+) \{\n(.*?)^\};", text, re.M | re.S):
        if "___" in name:
            continue
        if word == "enum":
            members = re.findall(r"^\t(\w+)", body, re.M)
        else:
            members = re.findall(r"(\w+)(?:\[\d+\])?(?: : 1)?;", body)
        found[ENUM if word == "enum" else STRUCT, name] = tuple(members)
    return found
