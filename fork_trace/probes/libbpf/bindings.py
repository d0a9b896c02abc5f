"""libbpf's functions and structures, as ctypes calls them. The only file that opens the library."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
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

from fork_trace.errors import ForkTraceError

_PrintFn = CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)
PrepareFn = CFUNCTYPE(c_int, c_void_p, c_void_p, ctypes.c_long, use_errno=True)
AttachFn = CFUNCTYPE(c_int, c_void_p, ctypes.c_long, c_void_p, use_errno=True)

_BPF_MAP_TYPE_RINGBUF, _BPF_PROG_TYPE_TRACING = 27, 26  # include/uapi/linux/bpf.h
_LOG_BYTES = 1 << 20
# relo_core.c, bpf_core_calc_relo_insn: what is looked for, and that it is not found.
_RELOCATIONS = (
    b"libbpf: prog '%s': relo #%d: %s\n",
    b"libbpf: prog '%s': relo #%d: no matching targets found\n",
)
_PERF_TYPE_TRACEPOINT, _PERF_FLAG_FD_CLOEXEC = 2, 8  # include/uapi/linux/perf_event.h
_NR_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}


class BtfType(ctypes.Structure):
    """struct btf_type, include/uapi/linux/btf.h."""

    _fields_ = [("name_off", c_uint32), ("info", c_uint32), ("type", c_uint32)]


class HandlerOptions(ctypes.Structure):
    """struct libbpf_prog_handler_opts, bpf/libbpf.h."""

    _fields_ = [
        ("size", c_size_t),
        ("cookie", ctypes.c_long),
        ("setup", c_void_p),
        ("prepare_load", PrepareFn),
        ("attach", AttachFn),
    ]


class OpenOptions(ctypes.Structure):
    """struct bpf_object_open_opts, bpf/libbpf.h, as far as btf_custom_path."""

    _fields_ = [
        ("size", c_size_t),
        ("object_name", c_char_p),
        ("relaxed_maps", ctypes.c_bool),
        ("pin_root_path", c_char_p),
        ("_removed", c_uint32),
        ("kconfig", c_char_p),
        ("btf_custom_path", c_char_p),
    ]


class LoadOptions(ctypes.Structure):
    """struct bpf_prog_load_opts, bpf/bpf.h, as far as attach_btf_id."""

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
        # What was looked for in the kernel's BTF and is not there, as libbpf says it.
        self.unresolved: set[str] = set()
        self._looked_for = ctypes.create_string_buffer(256)
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._declare()
        # Kept in an attribute: the callback must outlive every call into libbpf.
        self._print = _PrintFn(self._on_message)
        lib.libbpf_set_print(self._print)

    def _declare(self) -> None:
        signatures: Mapping[str, tuple[Any, list[Any]]] = {
            "libbpf_set_print": (c_void_p, [_PrintFn]),
            "libbpf_version_string": (c_char_p, []),
            "libbpf_probe_bpf_map_type": (c_int, [c_int, c_void_p]),
            "libbpf_probe_bpf_prog_type": (c_int, [c_int, c_void_p]),
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
                [c_char_p, c_uint32, c_uint32, POINTER(HandlerOptions)],
            ),
            "bpf_program__attach_perf_event": (c_void_p, [c_void_p, c_int]),
            "bpf_program__attach_iter": (c_void_p, [c_void_p, c_void_p]),
            "bpf_link__fd": (c_int, [c_void_p]),
            "bpf_iter_create": (c_int, [c_int]),
            "bpf_link__destroy": (c_int, [c_void_p]),
            "bpf_map__initial_value": (c_void_p, [c_void_p, POINTER(c_size_t)]),
            "bpf_map__fd": (c_int, [c_void_p]),
            "bpf_map__max_entries": (c_uint32, [c_void_p]),
            "bpf_map__reuse_fd": (c_int, [c_void_p, c_int]),
            "bpf_map__set_max_entries": (c_int, [c_void_p, c_uint32]),
            "bpf_map_lookup_elem": (c_int, [c_int, c_void_p, c_void_p]),
            "bpf_map_update_elem": (c_int, [c_int, c_void_p, c_void_p, c_uint64]),
            "bpf_map_delete_elem": (c_int, [c_int, c_void_p]),
            "bpf_map_lookup_batch": (
                c_int,
                [c_int, c_void_p, c_void_p, c_void_p, c_void_p, POINTER(c_uint32), c_void_p],
            ),
            "bpf_obj_get_info_by_fd": (c_int, [c_int, c_void_p, POINTER(c_uint32)]),
            "btf__load_vmlinux_btf": (c_void_p, []),
            "btf__find_by_name_kind": (ctypes.c_int32, [c_void_p, c_char_p, c_uint32]),
            "btf__type_by_id": (POINTER(BtfType), [c_void_p, c_uint32]),
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
        if level == 2 and fmt in _RELOCATIONS:
            if fmt == _RELOCATIONS[0]:
                buffer = self._looked_for
                self._libc.vsnprintf(buffer, len(buffer), fmt, arguments)
            else:
                self.unresolved.add(self._looked_for.value.decode("utf-8", "replace"))
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

    def refuses_tracing(self) -> bool:
        """Say whether the kernel loads no program on a function's exit at all, whatever it does."""
        answer: int = self.lib.libbpf_probe_bpf_prog_type(_BPF_PROG_TYPE_TRACING, None)
        return answer == 0

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

    def recursion_misses(self, handle: int) -> int | None:
        """Count the calls that a loaded program was left out of; None: the kernel does not count them."""
        # Since Linux commit 9ed9e9ba2337 ("bpf: Count the number of times recursion was
        # prevented") (in v5.12); before that the kernel does not count them. Since Linux commit
        # dd8657894c11 ("bpf: Count missed stats in trace_call_bpf") (in v6.7), for kprobes too.
        info = _ProgInfo()
        size = c_uint32(ctypes.sizeof(info))
        fd = self.lib.bpf_program__fd(handle)
        failed = self.lib.bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size))
        if failed or size.value < ctypes.sizeof(info):
            return None
        missed: int = info.recursion_misses
        return missed
