"""User addresses as function names, by elfutils' libdw. The only file that knows libdw.

A place is a build id and an offset in the file; which file that is was learnt from any process that
maps it, so a caller that has exited is named too. Unwinding a stack is not done here.
"""

from __future__ import annotations

import ctypes
import os
from collections import OrderedDict
from collections.abc import Iterable
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass

from fork_trace import procfs
from fork_trace.events import Place
from fork_trace.records import Frame

_PT_LOAD = 1  # elf.h
_OPEN_FILES = 32  # opened for symbols at a time; libc is nearly always one of them

_FindElf = CFUNCTYPE(c_int, c_void_p, c_void_p, c_char_p, c_uint64, c_void_p, c_void_p)
_FindDebug = CFUNCTYPE(
    c_int, c_void_p, c_void_p, c_char_p, c_uint64, c_char_p, c_char_p, c_uint32, c_void_p
)


class _Callbacks(ctypes.Structure):
    # Dwfl_Callbacks, elfutils/libdwfl.h
    _fields_ = [
        ("find_elf", c_void_p),
        ("find_debuginfo", _FindDebug),
        ("section_address", c_void_p),
        ("debuginfo_path", c_void_p),
    ]


class _Phdr(ctypes.Structure):
    # GElf_Phdr, gelf.h
    _fields_ = [
        ("type", c_uint32),
        ("flags", c_uint32),
        ("offset", c_uint64),
        ("vaddr", c_uint64),
        ("paddr", c_uint64),
        ("filesz", c_uint64),
        ("memsz", c_uint64),
        ("align", c_uint64),
    ]


@dataclass(frozen=True)
class _OpenFile:
    dwfl: int
    module: int
    bias: int
    build_id: str | None
    segments: tuple[tuple[int, int, int], ...]  # file offset, size, virtual address

    def address(self, offset: int) -> int | None:
        for start, size, vaddr in self.segments:
            if start <= offset < start + size:
                return self.bias + vaddr + offset - start
        return None


class Symbols:
    """Names functions by the files they lie in."""

    def __init__(self, name: str = "libdw.so.1") -> None:
        self.why_not: str | None = None
        self._files: dict[str, str] = {}  # build id -> path
        self._open: OrderedDict[str, _OpenFile | None] = OrderedDict()
        self._names: dict[tuple[str, int], str | None] = {}
        try:
            self._dw = ctypes.CDLL(name)
            self._elf = ctypes.CDLL("libelf.so.1")
            self._declare()
        except (OSError, AttributeError) as error:
            self.why_not = f"libdw is missing ({error}): callers are shown as addresses"
            return
        # Most callers share our C library: what it is called is known before anybody exits.
        for path in {mapping.path for mapping in procfs.mappings(os.getpid())}:
            if os.path.basename(path).startswith(("libc.", "libc-", "ld-")):
                self._learn(path)

    def _declare(self) -> None:
        # libdw's own search would ask the net for debug files where DEBUGINFOD_URLS is set.
        self._no_debuginfo = _FindDebug(lambda *_: -1)
        offline = ctypes.cast(self._dw.dwfl_offline_section_address, c_void_p)
        self._callbacks = _Callbacks(None, self._no_debuginfo, offline, None)
        dw, elf = self._dw, self._elf
        dw.dwfl_begin.restype = c_void_p
        dw.dwfl_begin.argtypes = [POINTER(_Callbacks)]
        dw.dwfl_report_offline.restype = c_void_p
        dw.dwfl_report_offline.argtypes = [c_void_p, c_char_p, c_char_p, c_int]
        dw.dwfl_report_end.argtypes = [c_void_p, c_void_p, c_void_p]
        dw.dwfl_module_getelf.restype = c_void_p
        dw.dwfl_module_getelf.argtypes = [c_void_p, POINTER(c_uint64)]
        dw.dwfl_module_build_id.argtypes = [c_void_p, POINTER(c_void_p), POINTER(c_uint64)]
        dw.dwfl_module_addrname.restype = c_char_p
        dw.dwfl_module_addrname.argtypes = [c_void_p, c_uint64]
        dw.dwfl_end.argtypes = [c_void_p]
        elf.elf_getphdrnum.argtypes = [c_void_p, POINTER(c_size_t)]
        elf.gelf_getphdr.restype = c_void_p
        elf.gelf_getphdr.argtypes = [c_void_p, c_int, POINTER(_Phdr)]

    def _load(self, path: str) -> _OpenFile | None:
        dwfl = self._dw.dwfl_begin(ctypes.byref(self._callbacks))
        if not dwfl:
            return None
        raw = os.fsencode(path)
        module = self._dw.dwfl_report_offline(dwfl, raw, raw, -1)
        self._dw.dwfl_report_end(dwfl, None, None)
        bias = c_uint64()
        elf = self._dw.dwfl_module_getelf(module, ctypes.byref(bias)) if module else None
        if not elf:
            self._dw.dwfl_end(dwfl)
            return None
        count = c_size_t()
        segments = []
        if self._elf.elf_getphdrnum(elf, ctypes.byref(count)) == 0:
            for index in range(count.value):
                phdr = _Phdr()
                found = self._elf.gelf_getphdr(elf, index, ctypes.byref(phdr))
                if found and phdr.type == _PT_LOAD:
                    segments.append((phdr.offset, phdr.filesz, phdr.vaddr))
        bits, where = c_void_p(), c_uint64()
        size = self._dw.dwfl_module_build_id(module, ctypes.byref(bits), ctypes.byref(where))
        build_id = ctypes.string_at(bits.value, size).hex() if size > 0 and bits.value else None
        return _OpenFile(dwfl, module, bias.value, build_id, tuple(segments))

    def _opened(self, path: str) -> _OpenFile | None:
        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path]
        while len(self._open) >= _OPEN_FILES:
            _, oldest = self._open.popitem(last=False)
            if oldest:
                self._dw.dwfl_end(oldest.dwfl)
        file = self._open[path] = self._load(path)
        return file

    def _learn(self, path: str) -> None:
        file = self._opened(path)
        if file and file.build_id:
            self._files[file.build_id] = path

    def note(self, pid: int, places: Iterable[Place]) -> None:
        """Learn which files a process maps, while it still runs. Cheap if all are known."""
        unknown = [
            place for place in places if place.build_id and place.build_id not in self._files
        ]
        if not unknown or self.why_not:
            return
        mappings = procfs.mappings(pid)
        for place in unknown:
            for mapping in mappings:
                if mapping.start <= place.address < mapping.end:
                    assert place.build_id is not None
                    self._files[place.build_id] = mapping.path
        if len(self._files) > 10_000:
            self._files.clear()

    def frames(self, places: Iterable[Place]) -> tuple[Frame, ...]:
        """Name the places, as far as their files are known and have symbols."""
        frames = []
        for place in places:
            path = self._files.get(place.build_id) if place.build_id else None
            symbol = None
            if path is not None and place.build_id and place.offset is not None:
                symbol = self._name(path, place.build_id, place.offset)
            shown = None if path is None else os.fsencode(path).decode("utf-8", "backslashreplace")
            frames.append(Frame(place.address, symbol, shown))
        return tuple(frames)

    def _name(self, path: str, build_id: str, offset: int) -> str | None:
        key = (build_id, offset)
        if key not in self._names:
            if len(self._names) >= 20_000:
                self._names.clear()
            file = self._opened(path)
            name = None
            # A file that was replaced since has another build id: its names would be wrong ones.
            if file and file.build_id == build_id:
                address = file.address(offset)
                if address is not None:
                    raw = self._dw.dwfl_module_addrname(file.module, address)
                    name = raw.decode("utf-8", "backslashreplace") if raw else None
            self._names[key] = name
        return self._names[key]
