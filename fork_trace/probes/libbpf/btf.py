"""What is asked of the kernel's BTF, and through it: functions, their parameters, the listed symbols."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from ctypes import c_uint32
from typing import Any, ClassVar

from fork_trace import files
from fork_trace.errors import ForkTraceError
from fork_trace.probes.libbpf.bindings import BtfType, Library
from fork_trace.probes.objects import program

_BTF_KIND_FUNC = 12  # include/uapi/linux/btf.h
_BTF_KIND_AT, _BTF_KIND_MASK = 24, 0x1F  # in btf_type.info
_BTF_NEAR = 64  # types from one function to the next, where they are together
_BTF_PARAM_BYTES = 8  # struct btf_param: the name, the type
# The function of bpf/kernel_symbols.bpf.c's iterator: who has it can list its symbols.
SYMBOL_ITERATOR = "bpf_iter_ksym"
_PREFIX_BYTES, _FOUND = 8, struct.Struct("=Q64s")  # bpf/kernel_symbols.bpf.c
_SYSCTL = struct.Struct("=QQ")  # bpf/kernel_sysctls.bpf.c
_BLOCK_BYTES = 36_864  # of what an iterator writes: whole ones of either
# Of plan.VARIABLES, those that a file below /proc/sys shows.
SYSCTLS = {
    "sysctl_overcommit_memory": "vm/overcommit_memory",
    "sysctl_overcommit_ratio": "vm/overcommit_ratio",
    "sysctl_overcommit_kbytes": "vm/overcommit_kbytes",
    "sysctl_admin_reserve_kbytes": "vm/admin_reserve_kbytes",
    "sysctl_user_reserve_kbytes": "vm/user_reserve_kbytes",
    "sysctl_max_map_count": "vm/max_map_count",
    "sysctl_nr_open": "fs/nr_open",
    "pid_max": "kernel/pid_max",
    "unprivileged_userns_clone": "kernel/unprivileged_userns_clone",
}

# Where the functions that were asked for are in the kernel's BTF.
FUNCTION_IDS: dict[str, int] = {}


class _Functions:
    """The functions in the running kernel's BTF, to be freed."""

    _is_by_name: ClassVar[bool] = True  # their order, until one shows otherwise

    def __init__(self, lib: Any) -> None:
        self._lib = lib
        self._btf = lib.btf__load_vmlinux_btf()
        if not self._btf:
            code = ctypes.get_errno()
            raise ForkTraceError(
                f"cannot read the kernel's BTF: {os.strerror(code)}",
                "Run a kernel built with CONFIG_DEBUG_INFO_BTF=y.",
            )

    def find(self, name: bytes) -> int | None:
        # Most kernels have their functions last and by name, each near the next. What is not
        # found in that way is looked for among all types.
        low, high = 1, self._lib.btf__type_cnt(self._btf) if _Functions._is_by_name else 0
        found: int | None = None
        while low < high:
            middle = (low + high) // 2
            end = min(high, middle + _BTF_NEAR)
            at = next((at for at in range(middle, end) if self._name(at)), end)
            here = self._name(at) if at < end else None
            if here is None and end < high:
                low = end  # not among the functions yet
            elif here is not None and here < name:
                low = at + 1
            else:
                # Of several that share the name the first one is taken, as libbpf does.
                found = at if here == name else found
                high = middle
        if found is None:
            found = self._lib.btf__find_by_name_kind(self._btf, name, _BTF_KIND_FUNC)
            _Functions._is_by_name = _Functions._is_by_name and found < 0
        return found if found >= 0 else None

    def _name(self, number: int) -> bytes | None:
        type_ = self._lib.btf__type_by_id(self._btf, number).contents
        if type_.info >> _BTF_KIND_AT & _BTF_KIND_MASK != _BTF_KIND_FUNC:
            return None
        name: bytes = self._lib.btf__name_by_offset(self._btf, type_.name_off)
        return name

    def prototype(self, number: int) -> tuple[int, bool, str | None]:
        """Return how many parameters a function has, whether it is void, and its last one's name."""
        function = self._lib.btf__type_by_id(self._btf, number).contents
        at = self._lib.btf__type_by_id(self._btf, function.type)
        count: int = at.contents.info & 0xFFFF  # BTF_INFO_VLEN
        is_void = not at.contents.type  # type 0
        if not count:
            return count, is_void, None
        # struct btf_param, one after the other behind the prototype
        first = ctypes.addressof(at.contents) + ctypes.sizeof(BtfType)
        offset = c_uint32.from_address(first + (count - 1) * _BTF_PARAM_BYTES).value
        return count, is_void, self._lib.btf__name_by_offset(self._btf, offset).decode()

    def free(self) -> None:
        self._lib.btf__free(self._btf)


def function_params(
    library: Library, names: Iterable[str]
) -> tuple[dict[str, int | None], frozenset[str], dict[str, str]]:
    """Count each function's parameters in the running kernel's BTF; name the void ones, and each last one.

    None: not in there, or it returns nothing, so that its exit tells nothing.
    """
    functions = _Functions(library.lib)
    try:
        params: dict[str, int | None] = {}
        voids = set()
        last: dict[str, str] = {}
        for name in names:
            number = functions.find(name.encode())
            if number is None:
                params[name] = None
                continue
            FUNCTION_IDS[name] = number
            count, is_void, last_name = functions.prototype(number)
            params[name] = None if is_void else count
            if is_void:
                voids.add(name)
            if last_name is not None:
                last[name] = last_name
        return params, frozenset(voids), last
    finally:
        functions.free()


def listed_symbols(library: Library, names: Iterable[str]) -> list[tuple[int, bytes]] | None:
    """List the kernel's own symbols that begin like these, by address, and the one above each.

    An address is 0 where the kernel shows none. None: it does not let its symbols be listed so.
    """

    def want(object_: int) -> bool:
        map_ = library.lib.bpf_map__fd(
            library.lib.bpf_object__find_map_by_name(object_, b"prefixes")
        )
        one = ctypes.byref(ctypes.c_uint8(1))
        prefixes = (name.encode()[: _PREFIX_BYTES - 1] for name in names)
        return not any(
            library.lib.bpf_map_update_elem(
                map_, ctypes.create_string_buffer(prefix, _PREFIX_BYTES), one, 0
            )
            for prefix in prefixes
        )

    found = _iterated(library, "kernel_symbols.bpf.o", want)
    if found is None:
        return None
    return [(address, name.rstrip(b"\0")) for address, name in _FOUND.iter_unpack(found)]


def sysctl_addresses(library: Library) -> dict[str, int]:
    """Find where the kernel keeps what the files of SYSCTLS show, by variable; those that it tells.

    Source: fs/proc/proc_sysctl.c, proc_sys_make_inode; by bpf/kernel_sysctls.bpf.c.
    """
    by_fd: dict[int, str] = {}
    try:
        for name, path in SYSCTLS.items():
            with suppress(OSError):  # not on this kernel
                by_fd[os.open(f"/proc/sys/{path}", os.O_RDONLY | os.O_CLOEXEC)] = name
        found = _iterated(library, "kernel_sysctls.bpf.o")
        told = _SYSCTL.iter_unpack(found) if found is not None else ()
        return {by_fd[fd]: address for address, fd in told if address and fd in by_fd}
    finally:
        for fd in by_fd:
            os.close(fd)


def _iterated(
    library: Library, image: str, prepare: Callable[[int], bool] = lambda _object: True
) -> bytes | None:
    """Read what the iterator of one of our objects writes; None: the kernel does not have it so."""
    lib = library.lib
    text = files.contents(program(image))
    library.messages.clear()
    object_ = lib.bpf_object__open_mem(text, len(text), None)
    if not object_:
        return None
    link = None
    try:
        if lib.bpf_object__load(object_) or not prepare(object_):
            return None
        link = lib.bpf_program__attach_iter(lib.bpf_object__next_program(object_, None), None)
        fd = lib.bpf_iter_create(lib.bpf_link__fd(link)) if link else -1
        if fd < 0:
            return None
        with open(fd, "rb", buffering=0) as file:
            found = bytearray()
            while block := file.read(_BLOCK_BYTES):
                found += block
        return bytes(found)
    except OSError:
        return None
    finally:
        if link:
            lib.bpf_link__destroy(link)
        lib.bpf_object__close(object_)
        library.messages.clear()
