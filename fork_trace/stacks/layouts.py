"""Where the code of a process lies: as its mappings were read, or once it is gone as its stack tells."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import field

from fork_trace.budget import Kept, OverBudgetError
from fork_trace.host import procfs
from fork_trace.host.procfs import Mapping
from fork_trace.model.dataclass import dataclass
from fork_trace.model.events import Place, Stack
from fork_trace.stacks import pythons
from fork_trace.stacks.cfi import Row
from fork_trace.stacks.symbol_files import File, SymbolFiles

_LAYOUTS_BYTES = 2 << 20
_MAPPING_BYTES = 320  # what one takes in memory, about
_MOST_LAYOUT_BYTES = 1 << 20  # 3,000 mappings of code: no honest process has as many
_FRESH_S = 1.0  # how long mappings are taken to be as they were read
_LEAST_FRESH_S = 0.05  # the same, where something is missing
_MOST_SHARE = 0.05  # of the time, for reading the mappings of one process


@dataclass(frozen=True)
class Caller:
    """Who failed to fork: as much as it takes to look at its files."""

    pid: int | None  # None: its pid is of no use in our /proc
    uid: int


@dataclass(frozen=True)
class Layout:
    """Where the code of one process lies."""

    mappings: tuple[Mapping, ...]
    starts: tuple[int, ...]
    read_s: float
    cost_s: float
    python: Mapping | None = None  # the first of an interpreter whose functions can be read
    rows: dict[int, Row] = field(default_factory=dict, compare=False)  # by address, those looked up

    @property
    def size(self) -> int:
        """How much memory it takes, about: mappings of one file share its path."""
        paths = sum(map(len, {mapping.path for mapping in self.mappings if mapping.path}))
        return 256 + _MAPPING_BYTES * len(self.mappings) + 2 * paths

    def find(self, address: int) -> Mapping | None:
        """Return the mapping that an address lies in."""
        index = bisect_right(self.starts, address) - 1
        if index < 0 or address >= self.mappings[index].end:
            return None
        return self.mappings[index]


def _layout(mappings: Iterable[Mapping], cost_s: float = 0.0) -> Layout:
    ordered = tuple(sorted(mappings, key=lambda mapping: mapping.start))
    starts = tuple(mapping.start for mapping in ordered)
    return Layout(ordered, starts, time.monotonic(), cost_s, pythons.interpreter(ordered))


class Layouts:
    """Where the code of processes lies: by their mappings, or once they are gone by what is known of their files."""

    def __init__(self, files: SymbolFiles) -> None:
        self._files = files
        self.kept: Kept[int, Layout] = Kept(_LAYOUTS_BYTES)

    def refreshed(self, pid: int, address: int | None) -> Layout | None:
        """Return where the code of a process lies; read again if that is old, or lacks an address."""
        known = self.kept.get(pid)
        now_s = time.monotonic()
        if known is not None:
            has_it = address is None or known.find(address) is not None
            fresh_s = max(_FRESH_S if has_it else _LEAST_FRESH_S, known.cost_s / _MOST_SHARE)
            if now_s - known.read_s < fresh_s:
                return known
        mappings = procfs.mappings(pid)
        if not mappings:
            return known
        layout = _layout(mappings, time.monotonic() - now_s)
        if layout.size > _MOST_LAYOUT_BYTES:
            layout = _layout((), layout.cost_s)
        self.kept.put(pid, layout, layout.size)
        return layout

    def of(self, caller: Caller, places: Sequence[Place], stack: Stack | None) -> Layout | None:
        """Return where the code of a caller lay, as it was read or as its stack tells."""
        layout = self.kept.get(caller.pid) if caller.pid is not None else None
        if stack is None:
            return layout
        # By now the number can be another process', or it has run another program.
        if layout is not None and stack.code_end is not None:
            last = layout.find(stack.code_end - 1)
            if last is None or not last.path:
                layout = None
        if layout is None:
            pieces = []
            with suppress(OverBudgetError):
                pieces = self._program_of(stack)
                pieces = [*self._library_of(places, stack), *pieces]
            layout = _layout(pieces) if pieces else None
        return layout

    def _library_of(self, places: Sequence[Place], stack: Stack) -> list[Mapping]:
        """Where the file of the innermost frame lies: its build id and one offset tell."""
        for place in places[:1]:
            if place.build_id is not None and not self._files.knows(place.build_id):
                program = self._files.program(stack)
                if program is not None:
                    self._files.look_beside(program, place.build_id)
            file = self._files.by_build_id(place.build_id)
            vaddr = file.elf.vaddr(place.offset or 0) if file else None
            if file and vaddr is not None:
                return self._laid(file, place.address - vaddr)
        return []

    def _program_of(self, stack: Stack) -> list[Mapping]:
        """Where the program of a process that is gone lay, by the end of its code."""
        file = self._files.program(stack)
        if file is None or stack.code_end is None or not file.elf.code():
            return []
        last = max(each.vaddr + each.filesz for each in file.elf.code())
        bias = stack.code_end - last
        # Not the file that ran, if it would not lie on a page.
        return self._laid(file, bias) if bias >= 0 and bias % 4096 == 0 else []

    @staticmethod
    def _laid(file: File, bias: int) -> list[Mapping]:
        # Under what it is kept: on overlay its own numbers are not those of a mapping.
        return [
            Mapping(
                each.vaddr + bias,
                each.vaddr + bias + each.filesz,
                each.offset,
                *file.key,
                file.path,
            )
            for each in file.elf.code()
        ]
