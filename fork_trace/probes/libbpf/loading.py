"""The CO-RE object: opened with its settings, loaded, attached, and why the kernel refuses a part of it.

Nothing here forks, starts a thread or runs a program: it has to work when the host refuses all three.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from ctypes import c_size_t, c_uint32, c_uint64, c_void_p
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

from fork_trace.errors import ForkTraceError
from fork_trace.model.steps import EXECVE, told_by
from fork_trace.probes.backend import AttachRefusedError, Filter
from fork_trace.probes.config import Config
from fork_trace.probes.kprobe_events import KprobeEvents
from fork_trace.probes.libbpf import gaps
from fork_trace.probes.libbpf.bindings import (
    AttachFn,
    HandlerOptions,
    Library,
    LoadOptions,
    OpenOptions,
    PrepareFn,
)
from fork_trace.probes.libbpf.btf import FUNCTION_IDS, function_params
from fork_trace.probes.libbpf.counting import Counting
from fork_trace.probes.libbpf.rings import Rings
from fork_trace.probes.plan import Missing, Plan, Probe
from fork_trace.probes.settings import fill

_BPF_PROG_TYPE_TRACING = 26  # include/uapi/linux/bpf.h
# Sections of programs on a function's entry and exit -> their way of attaching.
_TRACES = {"fentry/": 24, "fexit/": 25}
# Of the ring of user stacks: 54 of the default size, ten times a second.
FEW_STACKS_BYTES = 1 << 19
# Where the kernel's types are.
KERNEL_BTF = "/sys/kernel/btf/vmlinux"
_Settings = TypeVar("_Settings", bound=ctypes.Structure)


class _TraceHandler:
    """How libbpf shall treat programs on entries and exits: by itself it goes through all types for each."""

    # Once in a process, for 1.1 does not survive taking the last such handler back.
    _registered: ClassVar[_TraceHandler | None] = None

    def __init__(self, library: Library) -> None:
        self._library = library
        self._options = HandlerOptions(
            size=ctypes.sizeof(HandlerOptions),
            prepare_load=PrepareFn(self._prepare),
            attach=AttachFn(self._attach),
        )
        for section, way in _TRACES.items():
            library.lib.libbpf_register_prog_handler(
                section.encode(), _BPF_PROG_TYPE_TRACING, way, ctypes.byref(self._options)
            )

    @classmethod
    def register(cls, library: Library) -> None:
        """Hand libbpf the handler, if it does not have it yet."""
        if cls._registered is None:
            cls._registered = cls(library)

    def _prepare(self, handle: int, options: int, _cookie: int) -> int:
        # One of these programs is about to be loaded.
        section: str = self._library.lib.bpf_program__section_name(handle).decode()
        name = section.partition("/")[2]
        if name not in FUNCTION_IDS:
            function_params(self._library, [name])
        number = FUNCTION_IDS.get(name)
        if number is None:
            return -errno.ESRCH
        LoadOptions.from_address(options).attach_btf_id = number
        return 0

    def _attach(self, handle: int, _cookie: int, link: int) -> int:
        found = self._library.lib.bpf_program__attach_trace(handle)
        c_void_p.from_address(link).value = found
        return 0 if found else -ctypes.get_errno()


@contextmanager
def attached(library: Library, image: bytes) -> Iterator[None]:
    """Hold all programs of an object attached for as long as the block runs, or raise OSError."""
    lib = library.lib
    object_ = lib.bpf_object__open_mem(image, len(image), None)
    if not object_:
        raise _os_error()
    links = []
    try:
        if lib.bpf_object__load(object_):
            raise _os_error()
        handle = lib.bpf_object__next_program(object_, None)
        while handle:
            link = lib.bpf_program__attach(handle)
            if not link:
                raise _os_error()
            links.append(link)
            handle = lib.bpf_object__next_program(object_, handle)
        yield
    finally:
        for link in links:
            lib.bpf_link__destroy(link)
        lib.bpf_object__close(object_)


def _os_error() -> OSError:
    return OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _other_version() -> ForkTraceError:
    return ForkTraceError(
        "the BPF object and this program are of different versions",
        "Run scripts/build-bpf, or install fork-trace again.",
    )


def _programs_of(plan: Plan) -> dict[str, Probe]:
    """Map every program that a plan names to its probe; those on entries first."""
    probes = {probe.entry: probe for probe in (*plan.probes, *plan.late) if probe.entry}
    probes.update({probe.program: probe for probe in (*plan.probes, *plan.late)})
    return probes


def without_execve(plan: Plan) -> Plan:
    """Give up what the flag of a thread tells (fs/exec.c, PF_NPROC_EXCEEDED), which cannot be read."""
    reason = "what tells a refused execve cannot be read on this kernel"
    for probe in plan.probes:
        if probe.step == EXECVE:
            plan = plan.without_probe(probe.program, reason)
    return plan


def _is_at_return(name: str) -> bool:
    return name.startswith("kretprobe_")


class Programs:
    """The programs and maps of one attempt to carry out a plan."""

    def __init__(self, library: Library, counting: Counting | None = None) -> None:
        _TraceHandler.register(library)
        self._library = library
        self._lib = library.lib
        self._counting = counting  # its maps are these programs' too
        self._object: int | None = None
        self._links: list[int] = []
        self._handles: dict[str, int] = {}
        self.kprobe_events: KprobeEvents | None = None

    @property
    def is_attached(self) -> bool:
        """Is any program of these attached?"""
        return bool(self._links)

    def load(
        self,
        image: bytes,
        plan: Plan,
        filter_: Filter,
        samples_per_second: int,
        stack_bytes: int,
    ) -> int | None:
        """Load the programs and maps, with their settings; return the errno if it failed."""
        self.open(image, _programs_of(plan))
        if self._counting:
            self._counting.share(self._object)
        self._save_room(plan)
        config = self.settings(".rodata.config", Config)
        fill(config, plan, filter_, samples_per_second, stack_bytes)
        if self._counting:
            config.seed = self._counting.seed  # of the shares of owners, in a map that both have
        return self.put_in()

    def open(self, image: bytes, wanted: Collection[str]) -> None:
        """Open an object, of which these programs are wanted; nothing of it is in the kernel yet."""
        lib = self._lib
        self._library.messages.clear()
        self._library.unresolved.clear()
        self._object = lib.bpf_object__open_mem(image, len(image), self._options())
        if not self._object:
            raise ForkTraceError(
                f"cannot open the BPF object: {os.strerror(ctypes.get_errno())}",
                "It is damaged: run scripts/build-bpf, or install fork-trace again.",
            )
        handle = lib.bpf_object__next_program(self._object, None)
        while handle:
            name = lib.bpf_program__name(handle).decode()
            lib.bpf_program__set_autoload(handle, name in wanted)
            if name in wanted:
                self._handles[name] = handle
            handle = lib.bpf_object__next_program(self._object, handle)
        if self._handles.keys() != set(wanted):
            raise _other_version()

    def settings(self, map_: str, type_: type[_Settings]) -> _Settings:
        """Return the settings of that name, to be filled in before the programs are put in."""
        size = c_size_t()
        found = self._lib.bpf_object__find_map_by_name(self._object, map_.encode())
        address = self._lib.bpf_map__initial_value(found, ctypes.byref(size)) if found else None
        if not address or size.value != ctypes.sizeof(type_):
            raise _other_version()
        return type_.from_address(address)

    def put_in(self) -> int | None:
        """Put the programs and maps into the kernel; return the errno if it failed."""
        if self._lib.bpf_object__load(self._object):
            return ctypes.get_errno()
        if any(map(_is_at_return, self._handles)):
            with suppress(OSError):  # without tracefs perf's own kprobes do, with less room
                self.kprobe_events = KprobeEvents()
        return None

    def _options(self) -> Any:
        # For a type that the kernel's BTF lacks libbpf looks into that of every module, which takes
        # long, and before v1.3 CAP_SYS_ADMIN; but not where it is told which BTF to take.
        path = os.fsencode(KERNEL_BTF)
        return ctypes.byref(OpenOptions(ctypes.sizeof(OpenOptions), btf_custom_path=path))

    def without_readers(self, plan: Plan, code: int | None) -> Plan | None:
        """Return the plan without those who read what the kernel lacks, if the load failed for them; else None."""
        blind, names = self.blinded(plan.blind, code)
        if blind == plan.blind:
            return None
        seeing = replace(plan, blind=blind, unread=self.unread(plan, names))
        return without_execve(seeing) if gaps.is_blind(blind, "call") else seeing

    def blinded(self, blind: int, code: int | None) -> tuple[int, tuple[str, ...]]:
        """Return `blind` with those who read what the kernel lacks, if the load failed for them; and what it lacks."""
        if code in (None, errno.EPERM, errno.EMFILE, errno.ENFILE):
            return blind, ()
        log = "\n".join(self._library.messages)
        # Of what came or went a program can be refused for the lack as well, and tells.
        for names in (gaps.lacking(self._library.unresolved), gaps.reached(log)):
            if gaps.blind(names) & ~blind:
                return blind | gaps.blind(names), names
        return blind, ()

    def unread(self, plan: Plan, names: Iterable[str] | None = None) -> tuple[Missing, ...]:
        """Return what the programs would read and the kernel does not have, beside what is known already."""
        known = {gap.step: gap for gap in plan.unread}
        for name in gaps.lacking(self._library.unresolved) if names is None else names:
            known.setdefault(name, Missing(name, None, f"this kernel's BTF has no {name}"))
        return tuple(known.values())

    def _save_room(self, plan: Plan) -> None:
        """Leave no room in maps that stay empty."""
        if plan.is_lean:
            self.resize("user_stacks", FEW_STACKS_BYTES)
        if plan.attach != "kprobe":
            self.resize("attempts", 1)  # nobody writes there: no megabyte for it
        if not plan.can_leave_out:
            self.resize("marks", 1)

    def resize(self, map_: str, entries: int) -> None:
        """Give a map of an object that is not loaded yet another size."""
        found = self._lib.bpf_object__find_map_by_name(self._object, map_.encode())
        self._lib.bpf_map__set_max_entries(found, entries)

    def attach(self, probe: Probe) -> str | None:
        """Attach the programs of one probe; return why it cannot be done."""
        for name in (probe.entry, probe.program):
            reason = self.attach_program(name, probe.function) if name else None
            if reason is not None:
                return reason
        return None

    def attach_program(self, name: str, function: str) -> str | None:
        """Attach one program, which is on that function; return why it cannot be done."""
        if self._counting and self._counting.is_attached and name == self._counting.successor:
            return self._take_over(name)
        for other in told_by(name):
            # Since Linux commit 28ead3eaabc1 ("bpf: Prevent tail call between progs attached to
            # different hooks") (in v6.12, and in older stable kernels) their prototypes must be the same.
            if other in self._handles and not self._put_program("execve_tells", other):
                return f"no program can go on to {other}: {os.strerror(ctypes.get_errno())}"
        if self.kprobe_events and _is_at_return(name):
            try:
                number = self.kprobe_events.add_return(function)
            except OSError as error:
                return error.strerror or str(error)
            link = self._library.attach_to_event(self._handles[name], number)
        else:
            link = self._lib.bpf_program__attach(self._handles[name])
        if not link:
            return os.strerror(ctypes.get_errno())
        self._links.append(link)
        return None

    def _take_over(self, name: str) -> str | None:
        assert self._counting
        try:
            self._counting.hand_over(self._handles[name])
        except OSError as error:
            return error.strerror or str(error)
        return None

    def map_fd(self, name: str) -> int:
        """Return the descriptor of a loaded map."""
        fd: int = self._lib.bpf_map__fd(
            self._lib.bpf_object__find_map_by_name(self._object, name.encode())
        )
        return fd

    def rings(self, *names: str) -> Rings:
        """Open these ring buffers, to be read in this order; ForkTraceError."""
        maps = {}
        for name in names:
            found = self._lib.bpf_object__find_map_by_name(self._object, name.encode())
            maps[name] = self._lib.bpf_map__fd(found), self._lib.bpf_map__max_entries(found)
        return Rings(maps)

    def _put(self, map_: str, number: int) -> bool:
        fd, key = self.map_fd(map_), c_uint32(0)
        value = c_uint64(number)  # of a shorter one the kernel takes the lower half
        return not self._lib.bpf_map_update_elem(fd, ctypes.byref(key), ctypes.byref(value), 0)

    def _put_program(self, map_: str, name: str) -> bool:
        return self._put(map_, self._lib.bpf_program__fd(self._handles[name]))

    def write(self, map_: str, number: int) -> None:
        """Set one of the programs' variables, which is a map of one number."""
        if not self._put(map_, number):
            raise ForkTraceError(
                f"cannot start counting: {os.strerror(ctypes.get_errno())}",
                "Please report this kernel with the output of `fork-trace doctor --json`.",
            )

    def misses(self) -> dict[str, int] | None:
        """Count the calls that each program was left out of; None: the kernel does not count them."""
        misses: dict[str, int] = {}
        for name, handle in self._handles.items():
            # Whoever calls it can be left out; what is called by that is not.
            counting = self._counting
            if counting and counting.is_handed_over and name == counting.successor:
                missed = counting.missed()
            else:
                missed = self._library.recursion_misses(handle)
            if missed is None:
                return None
            misses[name] = missed
        return misses

    def culprit(self, plan: Plan, code: int) -> tuple[Probe, str]:
        """Return the probe that the kernel refused and its words; raise if no probe is to blame."""
        name, reason = self.refused(code)
        return _programs_of(plan)[name], reason

    def refused(self, code: int) -> tuple[str, str]:
        """Return the program that the kernel refused and its words; raise if none is to blame."""
        if code in (errno.EMFILE, errno.ENFILE):
            # The lower the attach mode, the fewer it takes.
            raise AttachRefusedError(
                f"this way takes more open files than are allowed: {os.strerror(code)}",
                "Raise ulimit -n to 256, or fs.nr_open or fs.file-max where these are the limit.",
            )
        text = "\n".join(self._library.messages)
        for name in self._handles:
            pattern = rf"prog '{re.escape(name)}': .*(?:fail|can't|cannot|unsupported)"
            match = re.search(pattern + r".*", text)
            if match:
                return name, self._reason(text, code)
        if code == errno.EPERM:
            raise AttachRefusedError(
                f"cannot load BPF programs: {os.strerror(code)}",
                "Run it as root, or give it CAP_BPF and CAP_PERFMON (before Linux 5.11 also "
                "CAP_SYS_RESOURCE, or `ulimit -l unlimited`); a container needs --privileged or these.",
            )
        last = self._library.messages[-1] if self._library.messages else ""
        raise ForkTraceError(
            f"cannot load the BPF programs: {os.strerror(code)}" + (f" ({last})" if last else ""),
            "Please report this kernel with the output of `fork-trace doctor --json`.",
        )

    @staticmethod
    def _reason(text: str, code: int) -> str:
        # The kernel's own sentence stands between libbpf's marks, before its statistics.
        log = re.search(r"-- BEGIN PROG LOAD LOG --\n(.*?)(?:-- END|\Z)", text, re.DOTALL)
        lines = [line.strip() for line in log.group(1).splitlines()] if log else []
        lines = [line for line in lines if line and not line.startswith("processed ")]
        words = os.strerror(code) if code else "refused"
        return f"{words} ({lines[-1]})" if lines else words

    def detach(self) -> None:
        """Detach every program; the maps can still be read."""
        for link in self._links:
            self._lib.bpf_link__destroy(link)
        self._links = []

    def remove_kprobe_events(self) -> None:
        """Take them from tracefs; the programs must be detached by then."""
        if self.kprobe_events:
            self.kprobe_events.remove()
            self.kprobe_events = None

    def free(self) -> None:
        """Free every program and map."""
        if self._object:
            self._lib.bpf_object__close(self._object)
            self._object = None
