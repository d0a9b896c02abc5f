"""libbpf through ctypes: load the CO-RE object, attach it, read it. The only file that knows libbpf.

Nothing here forks, starts a thread or runs a program: it has to work when the host refuses all three.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
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
from typing import Any

from fork_trace import events, steps
from fork_trace.backends import Filter, RungRefusedError, program
from fork_trace.errors import ForkTraceError
from fork_trace.plan import Plan, Probe

_PrintFn = CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)
_SampleFn = CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t)

_BTF_KIND_FUNC = 12  # include/uapi/linux/btf.h
_BPF_MAP_TYPE_RINGBUF = 27  # include/uapi/linux/bpf.h
_LOG_BYTES = 1 << 20
_PHASE_OFF, _PHASE_MARKING, _PHASE_COUNTING, _PHASE_DETAILED = 0, 1, 2, 3  # enum ft_phase
_MARKING_S = 0.02  # most failing forks take less than 0.1 ms from the refusal to the return
_BATCH = 8192  # as many as the map holds: one system call reads all

_FILTER_PID, _FILTER_UID, _FILTER_COMM, _FILTER_CGROUP = 1, 2, 4, 8


class Config(ctypes.Structure):
    """struct ft_config of bpf/fork_trace.h; tests/test_abi.py holds the two together."""

    _fields_ = [
        ("copy_process_start", c_uint64),
        ("copy_process_end", c_uint64),
        ("nr_threads", c_uint64),
        ("max_threads", c_uint64),
        ("pid_max", c_uint64),
        ("sysctl_nr_open", c_uint64),
        ("sysctl_overcommit_memory", c_uint64),
        ("sysctl_overcommit_ratio", c_uint64),
        ("sysctl_overcommit_kbytes", c_uint64),
        ("sysctl_admin_reserve_kbytes", c_uint64),
        ("sysctl_user_reserve_kbytes", c_uint64),
        ("totalram_pages", c_uint64),
        ("total_swap_pages", c_uint64),
        ("vm_committed_as", c_uint64),
        ("sysctl_max_map_count", c_uint64),
        ("unprivileged_userns_clone", c_uint64),
        ("max_map_count", c_uint64),
        ("watched", c_uint64),
        ("watched_in_detail", c_uint64),
        ("filter_cgroup", c_uint64),
        ("filter", c_uint32),
        ("filter_pid", c_uint32),
        ("filter_uid", c_uint32),
        ("filter_comm", ctypes.c_char * events.COMM_BYTES),
        ("samples_per_second", c_uint32),
        ("is_by_syscall", c_uint32),
        ("watches_early", c_uint32),
        ("page_shift", c_uint32),
        ("stack_bytes", c_uint32),
    ]


class _BtfType(ctypes.Structure):
    # struct btf_type, include/uapi/linux/btf.h
    _fields_ = [("name_off", c_uint32), ("info", c_uint32), ("type", c_uint32)]


class _ProgInfo(ctypes.Structure):
    # struct bpf_prog_info, include/uapi/linux/bpf.h, as far as recursion_misses (Linux 5.12).
    _fields_ = [("_before", ctypes.c_uint8 * 208), ("recursion_misses", c_uint64)]


class Library:
    """libbpf.so.1, opened, with the signatures of what is used here."""

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
        self._libc = ctypes.CDLL(None)
        self._declare()
        # Kept in an attribute: the callback must outlive every call into libbpf.
        self._print = _PrintFn(self._on_message)
        lib.libbpf_set_print(self._print)

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
            "bpf_program__set_autoload": (c_int, [c_void_p, ctypes.c_bool]),
            "bpf_program__fd": (c_int, [c_void_p]),
            "bpf_program__attach": (c_void_p, [c_void_p]),
            "bpf_link__destroy": (c_int, [c_void_p]),
            "bpf_map__initial_value": (c_void_p, [c_void_p, POINTER(c_size_t)]),
            "bpf_map__fd": (c_int, [c_void_p]),
            "bpf_map_lookup_elem": (c_int, [c_int, c_void_p, c_void_p]),
            "bpf_map_update_elem": (c_int, [c_int, c_void_p, c_void_p, c_uint64]),
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
            "btf__free": (None, [c_void_p]),
        }
        for name, (result, arguments) in signatures.items():
            function = getattr(self.lib, name)
            function.restype = result
            function.argtypes = arguments
        self._libc.vsnprintf.argtypes = [c_void_p, c_size_t, c_char_p, c_void_p]

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

    def function_params(self, names: Iterable[str]) -> dict[str, int | None]:
        """Count each function's parameters in the running kernel's BTF.

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
            for name in names:
                number = self.lib.btf__find_by_name_kind(btf, name.encode(), _BTF_KIND_FUNC)
                if number < 0:
                    params[name] = None
                    continue
                function = self.lib.btf__type_by_id(btf, number).contents
                prototype = self.lib.btf__type_by_id(btf, function.type).contents
                # BTF_INFO_VLEN; type 0 is void
                params[name] = prototype.info & 0xFFFF if prototype.type else None
            return params
        finally:
            self.lib.btf__free(btf)


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


def _is_vital(probe: Probe) -> bool:
    """Say whether nothing is counted without this probe; any other can be given up alone."""
    return probe.step == "copy_process" or probe.program in steps.SYSCALL_PROGRAMS


def _fill_config(
    config: Config, plan: Plan, filter_: Filter, samples_per_second: int, stack_bytes: int = 0
) -> None:
    if plan.copy_process_range:
        config.copy_process_start, config.copy_process_end = plan.copy_process_range
    for name, address in plan.addresses.items():
        setattr(config, name.lstrip("_"), address)
    config.watched = plan.watched(in_detail=False)
    config.watched_in_detail = plan.watched(in_detail=True)
    config.is_by_syscall = int(plan.rung == "tracepoint")
    config.watches_early = int(
        plan.rung != "tracepoint" and any(probe.program == "raw_sys_exit" for probe in plan.probes)
    )
    config.samples_per_second = samples_per_second
    config.max_map_count = plan.max_map_count or 0
    config.stack_bytes = -(-stack_bytes // events.STACK_CHUNK) * events.STACK_CHUNK
    config.page_shift = os.sysconf("SC_PAGE_SIZE").bit_length() - 1
    if filter_.pid is not None:
        config.filter |= _FILTER_PID
        config.filter_pid = filter_.pid
    if filter_.uid is not None:
        config.filter |= _FILTER_UID
        config.filter_uid = filter_.uid
    if filter_.comm is not None:
        config.filter |= _FILTER_COMM
        config.filter_comm = os.fsencode(filter_.comm)[: events.COMM_BYTES - 1]
    if filter_.cgroup_id is not None:
        config.filter |= _FILTER_CGROUP
        config.filter_cgroup = filter_.cgroup_id


class LibbpfBackend:
    """The CO-RE object, loaded and attached according to a plan."""

    def __init__(
        self,
        library: Library,
        plan: Plan,
        filter_: Filter = Filter(),
        samples_per_second: int = 50,
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
        self._waiting: list[Probe] = []
        self._may_detail = False  # every probe in detail could be attached, up to now
        image = program("fork_trace.bpf.o").read_bytes()
        # Each round gives up one program that this kernel refuses, and says so in the plan.
        while True:
            failed = self._try(image, plan, filter_, samples_per_second)
            if failed is None:
                break
            probe, reason = failed
            self.close()
            if _is_vital(probe) or probe not in plan.probes:
                raise RungRefusedError(
                    f"this kernel refuses the program on {probe.function}: {reason}",
                    "`fork-trace doctor` lists what it offers; the fexit rung needs BPF trampolines "
                    "(CONFIG_FUNCTION_TRACER=y and CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS=y).",
                )
            plan = plan.without_probe(probe.program, reason)
        self.plan = plan
        self._tallies_fd = self._map_fd("tallies")
        self._stats_fd = self._map_fd("stats")
        self._folded_fd = self._map_fd("folded")
        # Allocated now: later there may be no memory to be had.
        self._batch_keys = ctypes.create_string_buffer(_BATCH * events.KEY_BYTES)
        self._batch_values = ctypes.create_string_buffer(_BATCH * events.TALLY_BYTES)
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
        lib = self._lib
        self._library.messages.clear()
        self._object = lib.bpf_object__open_mem(image, len(image), None)
        if not self._object:
            raise ForkTraceError(
                f"cannot open the BPF object: {os.strerror(ctypes.get_errno())}",
                "It is damaged: run scripts/build-bpf, or install fork-trace again.",
            )
        wanted = {probe.program: probe for probe in plan.probes}
        self._programs = {}
        handle = lib.bpf_object__next_program(self._object, None)
        while handle:
            name = lib.bpf_program__name(handle).decode()
            lib.bpf_program__set_autoload(handle, name in wanted)
            if name in wanted:
                self._programs[name] = handle
            handle = lib.bpf_object__next_program(self._object, handle)
        size = c_size_t()
        map_ = lib.bpf_object__find_map_by_name(self._object, b".rodata.config")
        address = lib.bpf_map__initial_value(map_, ctypes.byref(size)) if map_ else None
        if not address or size.value != ctypes.sizeof(Config):
            raise _other_version()
        _fill_config(
            Config.from_address(address), plan, filter_, samples_per_second, self._stack_bytes
        )
        if lib.bpf_object__load(self._object):
            code = ctypes.get_errno()
            return self._culprit(plan, code)
        # Inner functions before those that call them, so that none of the latter speaks for one.
        self._waiting = [probe for probe in reversed(plan.probes) if probe.in_detail]
        self._may_detail = bool(self._waiting)
        for name, handle in self._programs.items():
            if wanted[name].in_detail:
                continue
            link = lib.bpf_program__attach(handle)
            if not link:
                return wanted[name], os.strerror(ctypes.get_errno())
            self._links.append(link)
        self._move_to(_PHASE_MARKING)
        # A refusal from before this moment has reached the end of its copy_process by then.
        time.sleep(_MARKING_S)
        self._move_to(_PHASE_COUNTING)
        return None

    def attach_more(self) -> bool:
        """Attach one of the probes in detail that still wait; False once there is no more to do."""
        if not self._waiting:
            # From now on silence tells: who did not refuse let the caller pass. Not earlier, for a
            # fork under way can have been refused before the last one was in place.
            if self._may_detail:
                self._move_to(_PHASE_DETAILED)
                self._may_detail = False
            return False
        probe = self._waiting.pop(0)
        link = self._lib.bpf_program__attach(self._programs[probe.program])
        if link:
            self._links.append(link)
        else:
            reason = os.strerror(ctypes.get_errno())
            self.plan = self.plan.without_probe(probe.program, reason)
            self._may_detail = False
        return True

    def _move_to(self, phase: int) -> None:
        fd, key, value = self._map_fd(".data.phase"), c_uint32(0), c_uint32(phase)
        if self._lib.bpf_map_update_elem(fd, ctypes.byref(key), ctypes.byref(value), 0):
            raise ForkTraceError(
                f"cannot start counting: {os.strerror(ctypes.get_errno())}",
                "Please report this kernel with the output of `fork-trace doctor --json`.",
            )

    def _culprit(self, plan: Plan, code: int) -> tuple[Probe, str]:
        text = "\n".join(self._library.messages)
        for probe in plan.probes:
            pattern = rf"prog '{re.escape(probe.program)}': .*(?:fail|can't|cannot|unsupported)"
            match = re.search(pattern + r".*", text)
            if match:
                return probe, self._reason(text, code)
        if code == errno.EPERM:
            raise RungRefusedError(
                f"cannot load BPF programs: {os.strerror(code)}",
                "Run it as root, or give it CAP_BPF and CAP_PERFMON; "
                "a container needs --privileged or these two.",
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
        pairs: list[tuple[bytes, bytes]] = []
        cursor = ctypes.create_string_buffer(events.KEY_BYTES)
        start: Any | None = None
        while True:
            count = c_uint32(_BATCH)
            failed = self._lib.bpf_map_lookup_batch(
                self._tallies_fd,
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
                        keys[index * events.KEY_BYTES : (index + 1) * events.KEY_BYTES],
                        values[index * events.TALLY_BYTES : (index + 1) * events.TALLY_BYTES],
                    )
                )
            if code == errno.ENOENT:
                return pairs
            start = cursor

    def _array(self, fd: int, length: int) -> list[int]:
        values = []
        for index in range(length):
            value = c_uint64()
            self._lib.bpf_map_lookup_elem(fd, ctypes.byref(c_uint32(index)), ctypes.byref(value))
            values.append(value.value)
        return values

    def stats(self) -> dict[str, int]:
        """Return the run's counters by the names of events.STATS."""
        return dict(zip(events.STATS, self._array(self._stats_fd, len(events.STATS))))

    def missed(self) -> int | None:
        """Count the calls that a program did not see, by the kernel's own count; None: not kept."""
        # Since Linux commit 9ed9e9ba2337 ("bpf: Count the number of times recursion was
        # prevented") (in v5.12); before that the kernel does not count them.
        total = 0
        for handle in self._programs.values():
            info = _ProgInfo()
            size = c_uint32(ctypes.sizeof(info))
            fd = self._lib.bpf_program__fd(handle)
            failed = self._lib.bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size))
            if failed or size.value < ctypes.sizeof(info):
                return None
            total += info.recursion_misses
        return total

    def folded(self) -> dict[int, int]:
        """Return the counts by step number that found no room among the keys."""
        counts = self._array(self._folded_fd, len(steps.STEPS))
        return {number: count for number, count in enumerate(counts) if count}

    def detach(self) -> None:
        """Stop watching; what was counted and sampled can still be read."""
        if self._links:
            # Before the first program goes: none of the others shall see half of a fork.
            self._move_to(_PHASE_OFF)
        for link in self._links:
            self._lib.bpf_link__destroy(link)
        self._links = []
        # Attached now, the last of them would start the counting again.
        self._waiting = []
        self._may_detail = False

    def close(self) -> None:
        """Detach every program and free every map."""
        self.detach()
        if self._ring:
            self._lib.ring_buffer__free(self._ring)
            self._ring = None
        if self._object:
            self._lib.bpf_object__close(self._object)
            self._object = None
