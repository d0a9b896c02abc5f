"""Addresses as frames: the files they lie in and what the functions there are called."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from fork_trace.budget import Budget, Kept, OverBudgetError
from fork_trace.escape import cut
from fork_trace.host.procfs import Mapping
from fork_trace.model.events import Place
from fork_trace.model.records import Frame
from fork_trace.mounts import OwnMounts
from fork_trace.stacks.demangle import Demangler
from fork_trace.stacks.layouts import Caller, Layout
from fork_trace.stacks.perfmap import PerfMaps
from fork_trace.stacks.symbol_files import File, SymbolFiles

_NAMES_BYTES = 1 << 20
_STACKS_BYTES, _FRAME_BYTES = 1 << 18, 400
_LATE = "not looked up: the run was told to end"


class Names:
    """Names functions; what it looked up is kept."""

    def __init__(self, files: SymbolFiles, work: Budget, mounts: OwnMounts) -> None:
        self.demangler = Demangler()
        self._files, self._work = files, work
        self._perf_maps = PerfMaps(mounts, above=work)
        self._names: Kept[tuple[str, int], str | None] = Kept(_NAMES_BYTES)
        # Whole stacks, for who fails again and again in the same place.
        self._stacks: Kept[tuple[object, ...], tuple[float, tuple[Frame, ...]]] = Kept(
            _STACKS_BYTES
        )

    @property
    def kept_bytes(self) -> int:
        """How much memory is taken by what is kept, about."""
        return self._names.size + self._stacks.size + self._perf_maps.kept_bytes

    def frames(
        self,
        addresses: tuple[int, ...],
        layout: Layout | None,
        caller: Caller,
        places: tuple[Place, ...],
        is_late: Callable[[], bool],
    ) -> tuple[Frame, ...]:
        """Name the addresses of a stack, innermost first; again as before, until the mappings are read anew.

        `places`: what the kernel knew of some of them. What is not known yet once `is_late` stays
        without a name.
        """
        key = (caller, addresses, places)
        known = self._stacks.get(key)
        if known is not None and layout is not None and known[0] == layout.read_s:
            return known[1]
        refusals = Budget.refusals
        by_address = {place.address: place for place in places}
        frames = self._named(addresses, layout, caller, by_address, is_late)
        # What has no file may get a name from a perf map, and what was not read from its file.
        is_whole = all(frame.file is not None and frame.note is None for frame in frames)
        if layout is not None and is_whole and Budget.refusals == refusals:
            self._stacks.put(key, (layout.read_s, frames), _FRAME_BYTES * len(frames))
        return frames

    def _named(
        self,
        addresses: Sequence[int],
        layout: Layout | None,
        caller: Caller,
        places: dict[int, Place],
        is_late: Callable[[], bool],
    ) -> tuple[Frame, ...]:
        def hurry() -> bool:
            has_to = is_late()
            if has_to:
                self._work.within(0)  # from here on only what is known already
            return has_to

        # What goes with the process comes first: a large symbol table takes a while.
        compiled = {
            address: None if hurry() else self._compiled(address, layout, caller)
            for address in addresses
        }
        frames: list[Frame] = []
        for index, address in enumerate(addresses):
            hurries = hurry()
            # A call that never returns is the last thing in its function: look at the call itself.
            frame = self._frame(address, int(index > 0), layout, caller, places.get(address))
            if compiled[address] is not None:
                frame = replace(frame, symbol=compiled[address])
            if hurries and frame.symbol is None and frame.note is None:
                frame = replace(frame, note=_LATE)
            frames.append(frame)
            if index and frames[index - 1].symbol is None and frame.file != frames[index - 1].file:
                # What has no name of its own, or jumped on from it, has the one it was called by.
                mapping = layout.find(address - 1) if layout is not None else None
                if mapping is not None and mapping.path and frames[index - 1].file is not None:
                    name = self.called(mapping, address, caller)
                    if name is not None:
                        frames[index - 1] = replace(frames[index - 1], symbol=name, note=None)
        return tuple(frames)

    def called(self, mapping: Mapping, address: int, caller: Caller) -> str | None:
        """Name the function that returns to an address, by the call before it."""
        try:
            file = self._files.mapped(mapping, caller.pid)
            if file is None:
                return None
            vaddr = file.elf.vaddr(address - mapping.start + mapping.file_offset)
            name = None if vaddr is None else file.elf.called(vaddr)
            return None if name is None else self._readable(name)
        except OverBudgetError:
            return None

    def _readable(self, name: bytes) -> str:
        self._work.pay(10 + len(name))
        return cut(self.demangler.text(name))

    def _compiled(self, address: int, layout: Layout | None, caller: Caller) -> str | None:
        """Name what a JIT compiler made: code that is in no file. A byte before is the call itself."""
        mapping = layout.find(address - 1) if layout is not None else None
        if mapping is None or mapping.path:
            return None
        return self._perf_maps.name(caller.pid, caller.uid, address - 1)

    def _frame(
        self,
        address: int,
        back: int,
        layout: Layout | None,
        caller: Caller,
        place: Place | None,
    ) -> Frame:
        mapping = layout.find(address - back) if layout is not None else None
        if mapping is not None and mapping.path:
            build_id = None if place is None else place.build_id
            return self._mapped_frame(address, back, mapping, caller, build_id)
        if mapping is not None or place is None or place.build_id is None or place.offset is None:
            return Frame(address, None, None)
        with suppress(OverBudgetError):
            file = self._files.by_build_id(place.build_id)
            if file is not None:
                return self._in_file(address, file, place.offset, back)
        known = self._files.path_of(place.build_id)
        symbol = self._names.get((place.build_id, place.offset - back))
        return Frame(address, symbol, known and _shown(known), place.offset, place.build_id)

    def _mapped_frame(
        self, address: int, back: int, mapping: Mapping, caller: Caller, build_id: str | None
    ) -> Frame:
        offset, note = address - mapping.start + mapping.file_offset, None
        with suppress(OverBudgetError):
            file = self._files.mapped(mapping, caller.pid)
            # What the kernel read at the refusal tells another file that lies there by now.
            if file is not None and (build_id is None or _is_of(file, build_id)):
                return self._in_file(address, file, offset, back)
            note = self._files.why_lost(mapping, caller.pid) if file is None else None
        return Frame(address, None, _shown(mapping.path or ""), offset, build_id, note)

    def _in_file(self, address: int, file: File, offset: int, back: int) -> Frame:
        symbol = None
        with suppress(OverBudgetError):
            symbol = self._name(file, offset - back)
        return Frame(address, symbol, _shown(file.path), offset, file.elf.build_id)

    def _name(self, file: File, offset: int) -> str | None:
        key = (file.name, offset)
        if key in self._names:
            return self._names.get(key)
        vaddr = file.elf.vaddr(offset)
        raw = None if vaddr is None else file.elf.symbol(vaddr, lambda: self._files.debug(file))
        name = None if raw is None else self._readable(raw)
        self._names.put(key, name, 300 + (sys.getsizeof(name) if name else 0))
        return name


def _is_of(file: File, build_id: str) -> bool:
    # The kernel fills a shorter one up with zeros (lib/buildid.c).
    return (file.elf.build_id or "").ljust(len(build_id), "0") == build_id


def _shown(path: str) -> str:
    return cut(os.fsencode(path).decode("utf-8", "backslashreplace"))
