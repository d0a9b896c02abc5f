"""Names of C++ and Rust functions as people write them. The linker's names can be hostile: all is bounded.

C++ is read by libstdc++'s own function, Rust's older form is C++'s with marks of its own. For Rust's
newer form (RFC 2603) no library is on a host as a matter of course, so its paths are read here.
"""

from __future__ import annotations

import ctypes
import re

_MOST_BYTES = 1024
# A reference repeats what stood before. With this many a name grows to at most a few MB.
_MOST_REFERENCES = 30
_MOST_SHOWN = 2048
_REFERENCE = re.compile(rb"[ST][0-9A-Z]*_")
_LEGACY_HASH = re.compile(r"::h[0-9a-f]{16}$")
_LEGACY_MARKS = {
    **{"SP": "@", "BP": "*", "RF": "&", "LT": "<", "GT": ">", "LP": "(", "RP": ")", "C": ","},
}


class Demangler:
    """Reads names; without libstdc++ those of C++ stay as they are."""

    def __init__(self, library: str = "libstdc++.so.6") -> None:
        self.why_not: str | None = None
        try:
            lib = ctypes.CDLL(library)
            self._cxa = lib["__cxa_demangle"]
            self._cxa.restype = ctypes.c_void_p
            self._cxa.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p]
            self._cxa.argtypes.append(ctypes.POINTER(ctypes.c_int))
            libc = ctypes.CDLL(None)
            self._length = libc.strnlen
            self._length.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
            self._length.restype = ctypes.c_size_t
            self._free = libc.free
            self._free.argtypes = [ctypes.c_void_p]
            self._free.restype = None
        except (OSError, AttributeError) as error:
            self.why_not = f"no libstdc++ ({error}): names of C++ are shown as the linker has them"

    def text(self, raw: bytes) -> str:
        """Return a name as people write it, or as it is."""
        plain = raw.decode("utf-8", "backslashreplace")
        if len(raw) > _MOST_BYTES:
            return plain
        if raw.startswith(b"_R"):
            return rust(plain) or plain
        if not raw.startswith(b"_Z") or len(_REFERENCE.findall(raw)) > _MOST_REFERENCES:
            return plain
        name = self._cplusplus(raw)
        if name is None:
            return plain
        without = _LEGACY_HASH.sub("", name)
        return (without if without == name else _legacy(without))[:_MOST_SHOWN]

    def _cplusplus(self, raw: bytes) -> str | None:
        if self.why_not is not None:
            return None
        status = ctypes.c_int()
        found = self._cxa(raw, None, None, ctypes.byref(status))
        if not found:
            return None
        try:
            # Not more than is shown is copied.
            size = self._length(found, _MOST_SHOWN)
            text = ctypes.string_at(found, size).decode("utf-8", "backslashreplace")
        finally:
            self._free(found)
        return text


def _legacy(name: str) -> str:
    """Rust's older names: what C++ forbids in a name stands between dollar signs."""

    def mark(match: re.Match[str]) -> str:
        code = match[1]
        if code.startswith("u"):
            return chr(int(code[1:], 16))
        return _LEGACY_MARKS.get(code, match[0])

    parts = [part[1:] if part.startswith("_$") else part for part in name.split("::")]
    name = re.sub(r"\$(u[0-9a-f]{1,5}|[A-Z]{1,2})\$", mark, "::".join(parts))
    return name.replace("..", "::")


class _NotRustError(ValueError):
    pass


_BASIC = dict(zip("abcdefhijlmnopstuvxyz", [""] * 21))
_BASIC.update(
    {
        **{"a": "i8", "b": "bool", "c": "char", "d": "f64", "e": "str", "f": "f32", "h": "u8"},
        **{"i": "isize", "j": "usize", "l": "i32", "m": "u32", "n": "i128", "o": "u128"},
        **{"s": "i16", "t": "u16", "u": "()", "v": "...", "x": "i64", "y": "u64", "z": "!"},
        "p": "_",
    }
)


def rust(mangled: str) -> str | None:
    """Read a Rust name of the newer form; None if it is none. Generic arguments are left out."""
    try:
        reader = _Rust(mangled)
        text = reader.path()
    except (_NotRustError, IndexError, RecursionError):
        return None
    return text[:_MOST_SHOWN]


class _Rust:
    # Reads each part of a path once; references go back, so the number of steps is bounded.

    def __init__(self, mangled: str) -> None:
        self.text = mangled[2:].partition(".")[0]
        self.at = 0
        self.steps = 0

    def _take(self) -> str:
        self.steps += 1
        if self.steps > 4096:
            raise _NotRustError
        self.at += 1
        return self.text[self.at - 1]

    def _peek(self) -> str:
        return self.text[self.at] if self.at < len(self.text) else ""

    def _base62(self) -> int:
        value = 0
        if self._peek() == "_":
            self.at += 1
            return 0
        while (char := self._take()) != "_":
            digit = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ".find(char)
            if digit < 0:
                raise _NotRustError
            value = value * 62 + digit
        return value + 1

    def _disambiguator(self) -> int:
        if self._peek() != "s":
            return 0
        self.at += 1
        return self._base62() + 1

    def _identifier(self) -> tuple[str, int]:
        number = self._disambiguator()
        is_unicode = self._peek() == "u"
        self.at += is_unicode
        digits = ""
        while self._peek().isdigit() and self._peek().isascii():
            digits += self._take()
            if digits == "0":
                break
        if not digits or len(digits) > 4:
            raise _NotRustError
        self.at += self._peek() == "_"
        size = int(digits)
        if self.at + size > len(self.text):
            raise _NotRustError
        name = self.text[self.at : self.at + size]
        self.at += size
        if is_unicode:
            ascii_part, _, rest = name.rpartition("_")
            try:
                name = f"{ascii_part}-{rest}".lstrip("-").encode("ascii").decode("punycode")
            except (UnicodeError, ValueError):
                raise _NotRustError from None
        return name, number

    def _back(self, read: str) -> str:
        begin = self.at - 1
        target = self._base62()
        if target >= begin:
            raise _NotRustError
        here, self.at = self.at, target
        found = self.path() if read == "path" else self._type()
        self.at = here
        if len(found) > _MOST_SHOWN:
            raise _NotRustError
        return found

    def path(self) -> str:
        tag = self._take()
        if tag == "C":
            return self._identifier()[0]
        if tag == "B":
            return self._back("path")
        if tag in "MX":
            self._disambiguator()
            self.path()
            own = self._type()
            return f"<{own}>" if tag == "M" else f"<{own} as {self.path()}>"
        if tag == "Y":
            own = self._type()
            return f"<{own} as {self.path()}>"
        if tag == "N":
            space = self._take()
            inside = self.path()
            name, number = self._identifier()
            if space.isupper():
                kind = {"C": "closure", "S": "shim"}.get(space, space)
                return f"{inside}::{{{kind}{':' + name if name else ''}#{number}}}"
            return f"{inside}::{name}" if name else inside
        if tag == "I":
            inside = self.path()
            while self._peek() != "E":
                self._argument()
            self.at += 1
            return inside
        raise _NotRustError

    def _argument(self) -> None:
        if self._peek() == "L":
            self.at += 1
            self._base62()
        elif self._peek() == "K":
            self.at += 1
            self._constant()
        else:
            self._type()

    def _constant(self) -> None:
        tag = self._take()
        if tag == "B":
            self._base62()
        elif tag != "p":
            while self._take() != "_":
                pass

    def _type(self) -> str:
        tag = self._peek()
        if tag in _BASIC and tag:
            self.at += 1
            return _BASIC[tag]
        if tag in ("C", "M", "X", "Y", "N", "I"):
            return self.path()
        self._take()
        if tag == "B":
            return self._back("type")
        if tag in ("R", "Q"):
            if self._peek() == "L":
                self.at += 1
                self._base62()
            return f"&{'mut ' if tag == 'Q' else ''}{self._type()}"
        if tag in ("P", "O"):
            return f"*{'const' if tag == 'P' else 'mut'} {self._type()}"
        if tag == "S":
            return f"[{self._type()}]"
        if tag == "A":
            inner = self._type()
            self._constant()
            return f"[{inner}; _]"
        if tag == "T":
            parts = []
            while self._peek() != "E":
                parts.append(self._type())
            self.at += 1
            return f"({', '.join(parts)})"
        if tag == "F":
            return self._function()
        if tag == "D":
            return self._dyn()
        raise _NotRustError

    def _function(self) -> str:
        if self._peek() == "G":
            self.at += 1
            self._base62()
        self.at += self._peek() == "U"
        if self._peek() == "K":
            self.at += 1
            if self._peek() == "C":
                self.at += 1
            else:
                self._identifier()
        parts = []
        while self._peek() != "E":
            parts.append(self._type())
        self.at += 1
        returned = self._type()
        arrow = "" if returned == "()" else f" -> {returned}"
        return f"fn({', '.join(parts)}){arrow}"

    def _dyn(self) -> str:
        if self._peek() == "G":
            self.at += 1
            self._base62()
        traits = []
        while self._peek() != "E":
            traits.append(self.path())
            while self._peek() == "p":
                self.at += 1
                self._identifier()
                self._type()
        self.at += 1
        if self._take() != "L":
            raise _NotRustError
        self._base62()
        return f"dyn {' + '.join(traits)}"
