"""libbpf through ctypes: load the CO-RE object, attach it, read it. The only file that knows libbpf.

Nothing here forks, starts a thread or runs a program: it has to work when the host refuses all three.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import struct
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from ctypes import (
    CFUNCTYPE,
    POINTER,
    c_char_p,
    c_int,
    c_size_t,
    c_uint32,
    c_uint64,
    c_void_p,
)
from typing import Any, ClassVar

from fork_trace import events, files, steps
from fork_trace.backends import SAMPLES_PER_SECOND, Filter, RungRefusedError, program
from fork_trace.backends.kprobe_events import KprobeEvents
from fork_trace.backends.settings import (
    ATTEMPT_BYTES,
    MARKING_S,
    NEEDS,
    PHASE_MARKING,
    PHASE_OFF,
    SHARES,
    THREAD_BYTES,
    Config,
    Later,
    drain,
    fill,
    harvest,
    is_vital,
)
from fork_trace.errors import ForkTraceError
from fork_trace.plan import Plan, Probe, Stage

_PrintFn = CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)
_SampleFn = CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t)
_PrepareFn = CFUNCTYPE(c_int, c_void_p, c_void_p, ctypes.c_long, use_errno=True)
_AttachFn = CFUNCTYPE(c_int, c_void_p, ctypes.c_long, c_void_p, use_errno=True)

_BTF_KIND_FUNC = 12  # include/uapi/linux/btf.h
_BTF_KIND_AT, _BTF_KIND_MASK = 24, 0x1F  # in btf_type.info
_BTF_NEAR = 64  # types from one function to the next, where they are together
_BTF_PARAM_BYTES = 8  # struct btf_param: the name, the type
_BPF_MAP_TYPE_RINGBUF = 27  # include/uapi/linux/bpf.h
_BPF_PROG_TYPE_TRACING, _BPF_TRACE_FEXIT = 26, 25
# The function of bpf/kernel_symbols.bpf.c's iterator: who has it can list its symbols.
SYMBOL_ITERATOR = "bpf_iter_ksym"
_FEXIT = "fexit/"  # their sections
_PREFIX_BYTES, _FOUND = 8, struct.Struct("=Q64s")  # bpf/kernel_symbols.bpf.c
_LOG_BYTES = 1 << 20
_PERF_TYPE_TRACEPOINT, _PERF_FLAG_FD_CLOEXEC = 2, 8  # include/uapi/linux/perf_event.h
_NR_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}
# Functions in whose programs a failure is counted; in all others it only leaves its step.
_COUNTING = frozenset(
    watch.function
    for name in ("copy_process", "mmap", "mprotect")
    for watch in steps.BY_NAME[name].watches
)
_BATCH = 8192  # as many as each map holds: one system call reads all


class _BtfType(ctypes.Structure):
    # struct btf_type, include/uapi/linux/btf.h
    _fields_ = [("name_off", c_uint32), ("info", c_uint32), ("type", c_uint32)]


class _HandlerOptions(ctypes.Structure):
    # struct libbpf_prog_handler_opts, bpf/libbpf.h
    _fields_ = [
        ("size", c_size_t),
        ("cookie", ctypes.c_long),
        ("setup", c_void_p),
        ("prepare_load", _PrepareFn),
        ("attach", _AttachFn),
    ]


class _LoadOptions(ctypes.Structure):
    # struct bpf_prog_load_opts, bpf/bpf.h, as far as attach_btf_id.
    _fields_ = [("_before", ctypes.c_uint8 * 32), ("attach_btf_id", c_uint32)]


class _ProgInfo(ctypes.Structure):
    # struct bpf_prog_info, include/uapi/linux/bpf.h, as far as recursion_misses (Linux 5.12).
    _fields_ = [("_before", ctypes.c_uint8 * 208), ("recursion_misses", c_uint64)]


class _PerfAttributes(ctypes.Structure):
    # struct perf_event_attr, include/uapi/linux/perf_event.h, its first form.
    _fields_ = [
        ("type", c_uint32),
        ("size", c_uint32),
        ("config", c_uint64),
        ("sample_period", c_uint64),
        ("sample_type", c_uint64),
        ("_rest", c_uint64 * 4),
    ]


class Library:
    """libbpf.so.1, opened, with the signatures of what is used here."""

    # Where the functions that were asked for are in the kernel's BTF.
    _function_ids: ClassVar[dict[str, int]] = {}
    _is_by_name: ClassVar[bool] = True  # the order of functions there, until one shows otherwise
    # How libbpf shall treat fexit programs: once in a process, for 1.1 does not survive taking the
    # last such handler back.
    _handler: ClassVar[_HandlerOptions | None] = None

    def __init__(self, name: str = "libbpf.so.1") -> None:
        try:
            lib = ctypes.CDLL(name, use_errno=True)
            _youngest = lib.bpf_map__initial_value
        except (OSError, AttributeError) as error:
            raise ForkTraceError(
                f"cannot load libbpf: {error}",
                "Install libbpf 1.0 or newer (Debian, Ubuntu: libbpf1; Fedora, RHEL: libbpf).",
            ) from None
        self.lib = lib
        self.messages: list[str] = []
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._declare()
        # Kept in an attribute: the callback must outlive every call into libbpf.
        self._print = _PrintFn(self._on_message)
        lib.libbpf_set_print(self._print)
        if Library._handler is None:
            Library._handler = _HandlerOptions(
                size=ctypes.sizeof(_HandlerOptions),
                prepare_load=_PrepareFn(self._prepare),
                attach=_AttachFn(self._attach_fexit),
            )
            lib.libbpf_register_prog_handler(
                _FEXIT.encode(),
                _BPF_PROG_TYPE_TRACING,
                _BPF_TRACE_FEXIT,
                ctypes.byref(Library._handler),
            )

    def _declare(self) -> None:
        signatures: Mapping[str, tuple[Any, list[Any]]] = {
            "libbpf_set_print": (c_void_p, [_PrintFn]),
            "libbpf_version_string": (c_char_p, []),
            "libbpf_probe_bpf_map_type": (c_int, [c_int, c_void_p]),
            "bpf_object__open_mem": (c_void_p, [c_char_p, c_size_t, c_void_p]),
            "bpf_object__load": (c_int, [c_void_p]),
            "bpf_object__close": (None, [c_void_p]),
            "bpf_object__next_program": (c_void_p, [c_void_p, c_void_p]),
            "bpf_object__find_map_by_name": (c_void_p, [c_void_p, c_char_p]),
            "bpf_program__name": (c_char_p, [c_void_p]),
            "bpf_program__section_name": (c_char_p, [c_void_p]),
            "bpf_program__set_autoload": (c_int, [c_void_p, ctypes.c_bool]),
            "bpf_program__fd": (c_int, [c_void_p]),
            "bpf_program__attach": (c_void_p, [c_void_p]),
            "bpf_program__attach_trace": (c_void_p, [c_void_p]),
            "libbpf_register_prog_handler": (
                c_int,
                [c_char_p, c_uint32, c_uint32, POINTER(_HandlerOptions)],
            ),
            "bpf_program__attach_perf_event": (c_void_p, [c_void_p, c_int]),
            "bpf_program__attach_iter": (c_void_p, [c_void_p, c_void_p]),
            "bpf_link__fd": (c_int, [c_void_p]),
            "bpf_iter_create": (c_int, [c_int]),
            "bpf_link__destroy": (c_int, [c_void_p]),
            "bpf_map__initial_value": (c_void_p, [c_void_p, POINTER(c_size_t)]),
            "bpf_map__fd": (c_int, [c_void_p]),
            "bpf_map__set_max_entries": (c_int, [c_void_p, c_uint32]),
            "bpf_map_lookup_elem": (c_int, [c_int, c_void_p, c_void_p]),
            "bpf_map_update_elem": (c_int, [c_int, c_void_p, c_void_p, c_uint64]),
            "bpf_map_delete_elem": (c_int, [c_int, c_void_p]),
            "ring_buffer__add": (c_int, [c_void_p, c_int, _SampleFn, c_void_p]),
            "bpf_map_lookup_batch": (
                c_int,
                [c_int, c_void_p, c_void_p, c_void_p, c_void_p, POINTER(c_uint32), c_void_p],
            ),
            "bpf_obj_get_info_by_fd": (c_int, [c_int, c_void_p, POINTER(c_uint32)]),
            "ring_buffer__new": (c_void_p, [c_int, _SampleFn, c_void_p, c_void_p]),
            "ring_buffer__poll": (c_int, [c_void_p, c_int]),
            "ring_buffer__consume": (c_int, [c_void_p]),
            "ring_buffer__free": (None, [c_void_p]),
            "btf__load_vmlinux_btf": (c_void_p, []),
            "btf__find_by_name_kind": (ctypes.c_int32, [c_void_p, c_char_p, c_uint32]),
            "btf__type_by_id": (POINTER(_BtfType), [c_void_p, c_uint32]),
            "btf__name_by_offset": (c_char_p, [c_void_p, c_uint32]),
            "btf__type_cnt": (c_uint32, [c_void_p]),
            "btf__free": (None, [c_void_p]),
        }
        for name, (result, arguments) in signatures.items():
            function = getattr(self.lib, name)
            function.restype = result
            function.argtypes = arguments
        self._libc.vsnprintf.argtypes = [c_void_p, c_size_t, c_char_p, c_void_p]
        self._libc.syscall.restype = ctypes.c_long

    def _on_message(self, level: int, fmt: bytes, arguments: int) -> int:
        # libbpf's levels: 0 warning, 1 info, 2 debug. The verifier's log comes as one message,
        # whose last lines are the ones that tell.
        if level == 0 and len(self.messages) < 200:
            buffer = ctypes.create_string_buffer(_LOG_BYTES if b"LOAD LOG" in fmt else 512)
            self._libc.vsnprintf(buffer, len(buffer), fmt, arguments)
            self.messages.append(buffer.value.decode("utf-8", "replace").strip())
        return 0

    def version(self) -> str:
        """Return libbpf's own version, such as "v1.1"."""
        version: bytes = self.lib.libbpf_version_string()
        return version.decode()

    def has_ringbuf(self) -> bool | None:
        """Ask the kernel for a ring buffer map; None where it would not say."""
        answer: int = self.lib.libbpf_probe_bpf_map_type(_BPF_MAP_TYPE_RINGBUF, None)
        return None if answer < 0 else bool(answer)

    def attach_to_event(self, handle: int, number: int) -> int | None:
        """Attach a program to a trace event by its number; None: errno says why not."""
        attributes = _PerfAttributes(
            type=_PERF_TYPE_TRACEPOINT,
            size=ctypes.sizeof(_PerfAttributes),
            config=number,
            sample_period=1,
        )
        # Any process, and with a program any CPU: the one named is not looked at.
        fd: int = self._libc.syscall(
            ctypes.c_long(_NR_PERF_EVENT_OPEN[os.uname().machine]),
            ctypes.byref(attributes),
            *(c_int(-1), c_int(0), c_int(-1), ctypes.c_ulong(_PERF_FLAG_FD_CLOEXEC)),
        )
        if fd < 0:
            return None
        link: int | None = self.lib.bpf_program__attach_perf_event(handle, fd)
        if not link:
            code = ctypes.get_errno()
            os.close(fd)
            ctypes.set_errno(code)
        return link

    def _function_id(self, btf: int, name: bytes) -> int | None:
        # Most kernels have their functions last and by name, each near the next. What is not
        # found in that way is looked for among all types.
        low, high = 1, self.lib.btf__type_cnt(btf) if Library._is_by_name else 0
        found: int | None = None
        while low < high:
            middle = (low + high) // 2
            end = min(high, middle + _BTF_NEAR)
            at = next((at for at in range(middle, end) if self._function_name(btf, at)), end)
            here = self._function_name(btf, at) if at < end else None
            if here is None and end < high:
                low = end  # not among the functions yet
            elif here is not None and here < name:
                low = at + 1
            else:
                # Of several that share the name the first one is taken, as libbpf does.
                found = at if here == name else found
                high = middle
        if found is None:
            found = self.lib.btf__find_by_name_kind(btf, name, _BTF_KIND_FUNC)
            Library._is_by_name = Library._is_by_name and found < 0
        return found if found >= 0 else None

    def _function_name(self, btf: int, number: int) -> bytes | None:
        type_ = self.lib.btf__type_by_id(btf, number).contents
        if type_.info >> _BTF_KIND_AT & _BTF_KIND_MASK != _BTF_KIND_FUNC:
            return None
        name: bytes = self.lib.btf__name_by_offset(btf, type_.name_off)
        return name

    def _prepare(self, handle: int, options: int, _cookie: int) -> int:
        # A fexit program is about to be loaded. By itself libbpf goes through all types for each.
        section: str = self.lib.bpf_program__section_name(handle).decode()
        name = section[len(_FEXIT) :]
        if name not in self._function_ids:
            self.function_params([name])
        number = self._function_ids.get(name)
        if number is None:
            return -errno.ESRCH
        _LoadOptions.from_address(options).attach_btf_id = number
        return 0

    def _attach_fexit(self, handle: int, _cookie: int, link: int) -> int:
        found = self.lib.bpf_program__attach_trace(handle)
        c_void_p.from_address(link).value = found
        return 0 if found else -ctypes.get_errno()

    def function_params(
        self, names: Iterable[str]
    ) -> tuple[dict[str, int | None], frozenset[str], dict[str, str]]:
        """Count each function's parameters in the running kernel's BTF; name the void ones, and each last one.

        None: not in there, or it returns nothing, so that its exit tells nothing.
        """
        btf = self.lib.btf__load_vmlinux_btf()
        if not btf:
            code = ctypes.get_errno()
            raise ForkTraceError(
                f"cannot read the kernel's BTF: {os.strerror(code)}",
                "Run a kernel built with CONFIG_DEBUG_INFO_BTF=y.",
            )
        try:
            params: dict[str, int | None] = {}
            voids = set()
            last: dict[str, str] = {}
            for name in names:
                number = self._function_id(btf, name.encode())
                if number is None:
                    params[name] = None
                    continue
                self._function_ids[name] = number
                function = self.lib.btf__type_by_id(btf, number).contents
                at = self.lib.btf__type_by_id(btf, function.type)
                count = at.contents.info & 0xFFFF  # BTF_INFO_VLEN
                # Type 0 is void.
                params[name] = count if at.contents.type else None
                if not at.contents.type:
                    voids.add(name)
                if count:
                    # struct btf_param, one after the other behind the prototype
                    first = ctypes.addressof(at.contents) + ctypes.sizeof(_BtfType)
                    offset = c_uint32.from_address(first + (count - 1) * _BTF_PARAM_BYTES).value
                    last[name] = self.lib.btf__name_by_offset(btf, offset).decode()
            return params, frozenset(voids), last
        finally:
            self.lib.btf__free(btf)


def listed_symbols(library: Library, names: Iterable[str]) -> list[tuple[int, bytes]] | None:
    """List the kernel's own symbols that begin like these, by address, and the one above each.

    An address is 0 where the kernel shows none. None: it does not let its symbols be listed so.
    """
    lib = library.lib
    image = files.contents(program("kernel_symbols.bpf.o"))
    library.messages.clear()
    object_ = lib.bpf_object__open_mem(image, len(image), None)
    if not object_:
        return None
    link = None
    try:
        if lib.bpf_object__load(object_):
            return None
        map_ = lib.bpf_map__fd(lib.bpf_object__find_map_by_name(object_, b"prefixes"))
        for name in names:
            prefix = ctypes.create_string_buffer(name.encode()[: _PREFIX_BYTES - 1], _PREFIX_BYTES)
            if lib.bpf_map_update_elem(map_, prefix, ctypes.byref(ctypes.c_uint8(1)), 0):
                return None
        link = lib.bpf_program__attach_iter(lib.bpf_object__next_program(object_, None), None)
        fd = lib.bpf_iter_create(lib.bpf_link__fd(link)) if link else -1
        if fd < 0:
            return None
        with open(fd, "rb", buffering=0) as file:
            found = bytearray()
            while block := file.read(_FOUND.size * 512):
                found += block
        return [(address, name.rstrip(b"\0")) for address, name in _FOUND.iter_unpack(found)]
    except OSError:
        return None
    finally:
        if link:
            lib.bpf_link__destroy(link)
        lib.bpf_object__close(object_)
        library.messages.clear()


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
    probes = {probe.entry: probe for probe in plan.probes if probe.entry}
    probes.update({probe.program: probe for probe in plan.probes})
    return probes


def _is_at_return(name: str) -> bool:
    return name.startswith("kretprobe_")


class LibbpfBackend:
    """The CO-RE object, loaded and attached according to a plan."""

    def __init__(
        self,
        library: Library,
        plan: Plan,
        filter_: Filter = Filter(),
        samples_per_second: int = SAMPLES_PER_SECOND,
        stack_bytes: int = 0,
    ) -> None:
        self._stack_bytes = stack_bytes
        self._library = library
        self._lib = library.lib
        self._object: int | None = None
        self._links: list[int] = []
        self._ring: int | None = None
        self._pending: list[bytes] = []
        self._stacks: list[bytes] = []
        self._programs: dict[str, int] = {}
        self._later = Later(plan)
        self._kprobe_events: KprobeEvents | None = None
        self._generation = 0  # of the keys that are made now
        self._unreturned = 0  # forks that were under way at the end, and were not seen to return
        self._missed: int | None = None  # once the kprobe events are gone
        # Allocated now: later there may be no memory to be had.
        self._batch_keys = ctypes.create_string_buffer(_BATCH * events.KEY_BYTES)
        self._batch_values = ctypes.create_string_buffer(_BATCH * events.TALLY_BYTES)
        image = files.contents(program("fork_trace.bpf.o"))
        # Each round gives up one program that this kernel refuses, and says so in the plan.
        while True:
            self.plan = plan
            try:
                failed = self._try(image, plan, filter_, samples_per_second)
            except ForkTraceError:
                self.close()  # the next rung needs what this one holds
                raise
            if failed is None:
                break
            probe, reason = failed
            self.close()
            if is_vital(probe) or probe not in plan.probes:
                raise RungRefusedError(
                    f"this kernel refuses the program on {probe.function}: {reason}",
                    f"`fork-trace doctor` lists what it offers; {NEEDS[plan.rung]}",
                )
            plan = plan.without_probe(probe.program, reason)
        self._on_sample_kept = _SampleFn(self._on_sample)
        self._on_stack_kept = _SampleFn(self._on_stack)
        self._ring = self._lib.ring_buffer__new(
            self._map_fd("events"), self._on_sample_kept, None, None
        )
        # The samples first: a stack is there before its sample, so none is read without its own.
        if not self._ring or self._lib.ring_buffer__add(
            self._ring, self._map_fd("user_stacks"), self._on_stack_kept, None
        ):
            reason = os.strerror(ctypes.get_errno())
            self.close()
            raise ForkTraceError(
                f"cannot open the ring buffer: {reason}",
                "It needs 6 MiB of address space and a few descriptors; see ulimit -v and ulimit -n.",
            )

    def _try(
        self, image: bytes, plan: Plan, filter_: Filter, samples_per_second: int
    ) -> tuple[Probe, str] | None:
        """Load and attach; return the probe that the kernel refused and its words, or None."""
        self._library.messages.clear()
        code = self._load(image, plan, filter_, samples_per_second)
        if code is not None:
            return self._culprit(plan, code)
        self._tallies_fd = self._map_fd("tallies")
        self._shares_fd = self._map_fd("shares")
        self._stats_fd = self._map_fd("stats")
        self._folded_fd = self._map_fd("folded")
        self._later = Later(plan)
        if any(_is_at_return(probe.program) for probe in plan.probes):
            with suppress(OSError):  # without tracefs perf's own kprobes do, with less room
                self._kprobe_events = KprobeEvents()
        for probe in plan.probes:
            reason = self._attach(probe) if probe.stage is Stage.START else None
            if reason is not None and ctypes.get_errno() in (errno.EMFILE, errno.ENFILE):
                return self._culprit(plan, ctypes.get_errno())
            if reason is not None:
                return probe, reason
        self._move_to(PHASE_MARKING)
        # A refusal from before this moment has reached the end of its copy_process by then.
        time.sleep(MARKING_S)
        self._move_to(self._later.phase)
        return None

    def _load(
        self, image: bytes, plan: Plan, filter_: Filter, samples_per_second: int
    ) -> int | None:
        """Load the programs and maps, with their settings; return the errno if it failed."""
        lib = self._lib
        self._object = lib.bpf_object__open_mem(image, len(image), None)
        if not self._object:
            raise ForkTraceError(
                f"cannot open the BPF object: {os.strerror(ctypes.get_errno())}",
                "It is damaged: run scripts/build-bpf, or install fork-trace again.",
            )
        wanted = _programs_of(plan)
        self._programs = {}
        handle = lib.bpf_object__next_program(self._object, None)
        while handle:
            name = lib.bpf_program__name(handle).decode()
            lib.bpf_program__set_autoload(handle, name in wanted)
            if name in wanted:
                self._programs[name] = handle
            handle = lib.bpf_object__next_program(self._object, handle)
        if wanted.keys() != self._programs.keys():
            raise _other_version()
        if plan.rung != "kprobe":
            # Nobody writes there: no megabyte for it.
            attempts = lib.bpf_object__find_map_by_name(self._object, b"attempts")
            lib.bpf_map__set_max_entries(attempts, 1)
        if not plan.can_leave_out:
            marks = lib.bpf_object__find_map_by_name(self._object, b"marks")
            lib.bpf_map__set_max_entries(marks, 1)
        size = c_size_t()
        map_ = lib.bpf_object__find_map_by_name(self._object, b".rodata.config")
        address = lib.bpf_map__initial_value(map_, ctypes.byref(size)) if map_ else None
        if not address or size.value != ctypes.sizeof(Config):
            raise _other_version()
        fill(Config.from_address(address), plan, filter_, samples_per_second, self._stack_bytes)
        return ctypes.get_errno() if lib.bpf_object__load(self._object) else None

    def _attach(self, probe: Probe) -> str | None:
        """Attach the programs of one probe; return why it cannot be done."""
        for name in (probe.entry, probe.program):
            if name is None:
                continue
            if self._kprobe_events and _is_at_return(name):
                try:
                    number = self._kprobe_events.add_return(probe.function)
                except OSError as error:
                    return error.strerror or str(error)
                link = self._library.attach_to_event(self._programs[name], number)
            else:
                link = self._lib.bpf_program__attach(self._programs[name])
            if not link:
                return os.strerror(ctypes.get_errno())
            self._links.append(link)
        return None

    def attach_more(self, stage: Stage) -> bool:
        """Attach the next of the probes that wait, up to that stage; False once there is no more to do."""
        return self._later.attach(stage, self._attach, self._give_up, self._move_to)

    def _give_up(self, probe: Probe, reason: str) -> None:
        self.plan = self.plan.without_probe(probe.program, reason)

    def _move_to(self, phase: int) -> None:
        self._set(".data.phase", phase)

    def _move_generation(self, generation: int) -> None:
        self._set(".data.generation", generation)
        self._generation = generation

    def _set(self, map_: str, number: int) -> None:
        fd, key, value = self._map_fd(map_), c_uint32(0), c_uint32(number)
        if self._lib.bpf_map_update_elem(fd, ctypes.byref(key), ctypes.byref(value), 0):
            raise ForkTraceError(
                f"cannot start counting: {os.strerror(ctypes.get_errno())}",
                "Please report this kernel with the output of `fork-trace doctor --json`.",
            )

    def _culprit(self, plan: Plan, code: int) -> tuple[Probe, str]:
        if code in (errno.EMFILE, errno.ENFILE):
            # The lower the rung, the fewer it takes.
            raise RungRefusedError(
                f"this way takes more open files than are allowed: {os.strerror(code)}",
                "Raise ulimit -n to 256, or fs.nr_open or fs.file-max where these are the limit.",
            )
        text = "\n".join(self._library.messages)
        for name, probe in _programs_of(plan).items():
            pattern = rf"prog '{re.escape(name)}': .*(?:fail|can't|cannot|unsupported)"
            match = re.search(pattern + r".*", text)
            if match:
                return probe, self._reason(text, code)
        if code == errno.EPERM:
            raise RungRefusedError(
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

    def _map_fd(self, name: str) -> int:
        fd: int = self._lib.bpf_map__fd(
            self._lib.bpf_object__find_map_by_name(self._object, name.encode())
        )
        return fd

    def _on_sample(self, _context: int, data: int, size: int) -> int:
        self._pending.append(ctypes.string_at(data, size))
        return 0

    def _on_stack(self, _context: int, data: int, size: int) -> int:
        self._stacks.append(ctypes.string_at(data, size))
        return 0

    def stacks(self) -> list[bytes]:
        """Return the user stacks that came with the events of the last poll, or for the next one."""
        taken, self._stacks = self._stacks, []
        return taken

    def poll(self, timeout_s: float) -> list[bytes]:
        """Wait for events at most this long and return them, oldest first."""
        self._lib.ring_buffer__poll(self._ring, max(0, int(timeout_s * 1000)))
        # Only the first of a burst wakes us: take what came without a wake-up too.
        self._lib.ring_buffer__consume(self._ring)
        taken, self._pending = self._pending, []
        return taken

    def tallies(self) -> list[tuple[bytes, bytes]]:
        """Return the exact counters: (struct ft_key, struct ft_tally) pairs."""
        return self._pairs(self._tallies_fd, events.KEY_BYTES, events.TALLY_BYTES)

    def used(self) -> int:
        """Count the keys of the exact counters; the table takes 8192."""
        return sum(self._cell(self._shares_fd, number) for number in (0, SHARES))

    def harvest(self) -> list[tuple[bytes, bytes]]:
        """Take all keys out of the table, with their last counts; each begins anew if it is counted again."""
        return harvest(
            self._generation, self._move_generation, self.tallies, self._remove, self._forget_share
        )

    def _remove(self, key: bytes) -> bool:
        return not self._lib.bpf_map_delete_elem(self._tallies_fd, key)

    def _forget_share(self, number: int) -> None:
        key, none = c_uint32(number), c_uint64()
        self._lib.bpf_map_update_elem(self._shares_fd, ctypes.byref(key), ctypes.byref(none), 0)

    def _pairs(self, fd: int, key_bytes: int, value_bytes: int) -> list[tuple[bytes, bytes]]:
        """Read a whole hash map."""
        pairs: list[tuple[bytes, bytes]] = []
        cursor = ctypes.create_string_buffer(key_bytes)
        start: Any | None = None
        while True:
            count = c_uint32(_BATCH)
            failed = self._lib.bpf_map_lookup_batch(
                fd,
                start,
                cursor,
                self._batch_keys,
                self._batch_values,
                ctypes.byref(count),
                None,
            )
            code = ctypes.get_errno() if failed else 0
            if code and code != errno.ENOENT:
                raise ForkTraceError(
                    f"cannot read the counters: {os.strerror(code)}",
                    "Please report this kernel with the output of `fork-trace doctor --json`.",
                )
            keys, values = self._batch_keys.raw, self._batch_values.raw
            for index in range(count.value):
                pairs.append(
                    (
                        keys[index * key_bytes : (index + 1) * key_bytes],
                        values[index * value_bytes : (index + 1) * value_bytes],
                    )
                )
            if code == errno.ENOENT:
                return pairs
            start = cursor

    def _array(self, fd: int, length: int) -> list[int]:
        return [self._cell(fd, index) for index in range(length)]

    def _cell(self, fd: int, index: int) -> int:
        value = c_uint64()
        self._lib.bpf_map_lookup_elem(fd, ctypes.byref(c_uint32(index)), ctypes.byref(value))
        return value.value

    def stats(self) -> dict[str, int]:
        """Return the run's counters by the names of events.STATS."""
        return dict(zip(events.STATS, self._array(self._stats_fd, len(events.STATS))))

    def missed(self) -> int | None:
        """Count the calls whose failure may not have been counted; None: the kernel does not count them."""
        if self._missed is not None:
            return self._missed
        total = 0
        is_by_kprobes = self.plan.rung == "kprobe"
        if is_by_kprobes:
            total = self._unreturned + self.stats()["unreturned"]
            if self._kprobe_events:
                total += self._kprobe_events.missed() or 0
        misses = self._misses()
        if misses is None:
            # A kprobe that is passed over for another one is not counted, a lost return is.
            return total if is_by_kprobes else None
        pairs = zip(steps.SYSCALL_PROGRAMS, steps.SECOND_PROGRAMS)
        copied = (("fexit_copy_process", again) for again in steps.COPIED_TWICE)
        for first, second in (*pairs, *copied):
            if second not in misses:
                continue
            # What one of them missed the other saw, but for what both of them did.
            missed_again = misses.pop(second)
            if second == steps.COPIED_AGAIN:
                events_ = self._kprobe_events
                unfollowed = events_.missed("copy_process") if events_ else None
                if unfollowed is None:
                    continue  # of any number of calls the kernel may not have followed the return
                missed_again += unfollowed
            misses[first] = min(misses[first], missed_again)
        told_elsewhere = self._told_elsewhere()
        return total + sum(
            count for name, count in misses.items() if is_by_kprobes or name not in told_elsewhere
        )

    def left_out(self) -> dict[str, int]:
        """Count the calls of each step that its program did not see; their failures are counted all the same."""
        if self.plan.rung == "kprobe":
            return {}  # those are in `missed`
        misses = self._misses() or {}
        return {
            step: misses[name] for name, step in self._told_elsewhere().items() if misses.get(name)
        }

    def _told_elsewhere(self) -> dict[str, str]:
        # Programs whose failures copy_process' own program counts -> what they tell of.
        return {
            probe.program: probe.step or probe.function
            for probe in self.plan.probes
            if probe.function not in _COUNTING and probe.program.startswith("fexit_")
        }

    def _misses(self) -> dict[str, int] | None:
        # Since Linux commit 9ed9e9ba2337 ("bpf: Count the number of times recursion was
        # prevented") (in v5.12); before that the kernel does not count them. Since Linux commit
        # dd8657894c11 ("bpf: Count missed stats in trace_call_bpf") (in v6.7), for kprobes too.
        misses: dict[str, int] = {}
        for name, handle in self._programs.items():
            info = _ProgInfo()
            size = c_uint32(ctypes.sizeof(info))
            fd = self._lib.bpf_program__fd(handle)
            failed = self._lib.bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size))
            if failed or size.value < ctypes.sizeof(info):
                return None
            misses[name] = info.recursion_misses
        return misses

    def folded(self) -> dict[int, int]:
        """Return the counts by step number that found no room among the keys."""
        counts = self._array(self._folded_fd, len(steps.STEPS))
        return {number: count for number, count in enumerate(counts) if count}

    def detach(self) -> None:
        """Stop watching; what was counted and sampled can still be read."""
        if self._links:
            # Before the first program goes: none of the others shall see half of a fork.
            self._move_to(PHASE_OFF)
            if self.plan.rung == "kprobe":
                fd = self._map_fd("attempts")
                self._unreturned = drain(lambda: len(self._pairs(fd, THREAD_BYTES, ATTEMPT_BYTES)))
        for link in self._links:
            self._lib.bpf_link__destroy(link)
        self._links = []
        if self._kprobe_events:
            self._missed = self.missed()
            self._kprobe_events.remove()
            self._kprobe_events = None
        # Attached now, the last of them would start the counting again.
        self._later.forget()

    def close(self) -> None:
        """Detach every program and free every map."""
        self.detach()
        if self._ring:
            self._lib.ring_buffer__free(self._ring)
            self._ring = None
        if self._object:
            self._lib.bpf_object__close(self._object)
            self._object = None
