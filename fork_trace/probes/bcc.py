"""bcc: compile the shell bpf/fork_trace.bcc.c on this host, attach it, read it. The only file that knows bcc.

For kernels without BTF or without libbpf. bcc is imported only when it is asked for: that and the compiler in it take a
second or several, and 200 MB. User addresses are resolved by `symbols` as on the other backend, and not by bcc's symbol cache:
that one reads the process's files when it is asked, and most that fail to fork are gone by then.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from fork_trace import files
from fork_trace.errors import ForkTraceError
from fork_trace.model import events, steps
from fork_trace.probes.backend import SAMPLES_PER_SECOND, AttachRefusedError, Filter
from fork_trace.probes.config import PHASE_MARKING, PHASE_OFF, Config
from fork_trace.probes.kprobe_events import KprobeEvents
from fork_trace.probes.objects import program
from fork_trace.probes.plan import Plan, Probe, Stage
from fork_trace.probes.settings import (
    ATTEMPT_BYTES,
    MARKING_S,
    NEEDS,
    SHARES,
    THREAD_BYTES,
    Later,
    drain,
    fill,
    harvest,
    is_vital,
)

_SOURCE, _TABLE = "fork_trace.bcc.c", "probes.def"
_PERF_PAGES = 64  # of each processor: 180 samples; the reader looks ten times a second
_T = TypeVar("_T")


def _quietly(work: Callable[[], _T], said: list[str]) -> _T:
    """Do something while what C code writes to stderr goes to `said` and not to the user."""
    kept = os.dup(2)
    with open(os.memfd_create("fork-trace-bcc"), "w+b") as file:
        os.dup2(file.fileno(), 2)
        try:
            return work()
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            said += file.read().decode(errors="replace").splitlines()


def _flags(plan: Plan, filter_: Filter, samples_per_second: int) -> list[str]:
    """Return the compiler's options: the settings are constants, for less code and less to verify."""
    config = Config()
    fill(config, plan, filter_, samples_per_second)
    values = []
    for name, _ in config._fields_:  # type: ignore[misc]
        value = getattr(config, name)
        if isinstance(value, bytes):
            values.append("{" + ",".join(map(str, value.ljust(1, b"\0"))) + "}")
        else:
            values.append(f"{value:#x}ULL")
    return [
        f"-I{os.path.dirname(program(_SOURCE))}",
        f"-DFT_CONFIG={','.join(values)}",
        f"-DFT_RINGBUF={int(plan.has_ringbuf)}",
        *(f"-DFT_HAS_{name}={int(value)}" for name, value in plan.header_fields.items()),
        # Since Linux v6.19 the kernel is built with these extensions, and its headers need them.
        "-fms-extensions",
        # clang has much to say of headers that are written for gcc.
        "-w",
        "-fno-color-diagnostics",
    ]


def _source() -> bytes:
    """Return the shell with the table of probes in it: bcc makes programs of one file's functions alone."""
    table = files.contents(program(_TABLE))
    return files.contents(program(_SOURCE)).replace(f'#include "{_TABLE}"'.encode(), table)


class BccBackend:
    """The bcc shell, compiled and attached according to a plan."""

    def __init__(
        self, plan: Plan, filter_: Filter = Filter(), samples_per_second: int = SAMPLES_PER_SECOND
    ) -> None:
        self.plan = plan
        self._pending: list[bytes] = []
        self._said: list[str] = []
        self._missed: int | None = None
        self._generation = 0  # of the keys that are made now
        self._unreturned = 0
        self._returns: list[int] = []  # perf events of the programs at returns
        self._kprobe_events: KprobeEvents | None = None
        self._bpf: Any = None
        self._is_counting = False
        self._later = Later(plan)
        try:
            # Imported here: it is slow, and on most hosts it is not there.
            import bcc  # type: ignore[import-untyped]
            from bcc import libbcc
        except (ImportError, OSError, AttributeError) as error:
            raise AttachRefusedError(
                f"cannot load the module bcc: {error}",
                "Install the distribution's bcc again; on a kernel with BTF it is not needed.",
            ) from None
        self._kprobe, self._raw = bcc.BPF.KPROBE, bcc.BPF.RAW_TRACEPOINT
        self._lib = libbcc.lib
        self._version: str = bcc.__version__
        try:
            while True:
                self._compile(bcc.BPF, filter_, samples_per_second)
                refused = self._attach_all()
                if not refused:
                    break
                # What is watched is a constant in the programs: without these they are others.
                self.close()
                for probe, reason in refused:
                    self.plan = self.plan.without_probe(probe.program, reason)
            self._arm()
        except BaseException:
            self.close()
            raise

    def _compile(self, bpf: Any, filter_: Filter, samples_per_second: int) -> None:
        flags = _flags(self.plan, filter_, samples_per_second)
        text = _source()
        try:
            self._bpf = _quietly(lambda: bpf(text=text, cflags=flags), self._said)
        except Exception:  # bcc raises nothing finer
            raise self._not_compiled() from None
        self._functions = {
            self._lib.bpf_function_name(self._bpf.module, index).decode()
            for index in range(self._lib.bpf_num_functions(self._bpf.module))
        }
        self._open_samples()

    def _not_compiled(self) -> AttachRefusedError:
        errors = [
            line for line in self._said if re.search(r"\berror:|[Ff]ailed|denied|annot", line)
        ]
        why = (errors or self._said or ["it does not say why"])[0].strip()
        return AttachRefusedError(
            f"bcc {self._version} cannot compile for Linux {os.uname().release}: {why}",
            "Its clang may be older than what this kernel's headers are written for: install a newer "
            "bcc. On a kernel with BTF libbpf needs none: leave --backend out.",
        )

    def _map_fd(self, name: str) -> int:
        fd: int = self._lib.bpf_table_fd(self._bpf.module, name.encode())
        return fd

    def _open_samples(self) -> None:
        # With types of our own, bcc does not build Python classes from the C ones.
        table = self._bpf.get_table("events", ctypes.c_int, ctypes.c_uint32)
        # It owns the callback.
        self._bpf.tables[b"events"] = table
        if self.plan.has_ringbuf:
            table.open_ring_buffer(self._on_sample)
            return
        # The program itself counts what finds no room.
        table.open_perf_buffer(self._on_sample, page_cnt=_PERF_PAGES, lost_cb=lambda _count: None)

    def _on_sample(self, _context: Any, data: int, size: int) -> int:
        # The perf buffer pads to eight bytes.
        self._pending.append(ctypes.string_at(data, size)[: events.EVENT_BYTES])
        return 0

    def _attach_all(self) -> list[tuple[Probe, str]]:
        """Attach what is not for later; return what this kernel refuses, with its words."""
        with contextlib.suppress(OSError):  # without tracefs perf's own kprobes do, with less room
            self._kprobe_events = KprobeEvents()
        refused = []
        for probe in self.plan.probes:
            reason = self._attach(probe) if probe.stage is Stage.START else None
            if reason is None:
                continue
            if is_vital(probe):
                raise AttachRefusedError(
                    f"this kernel refuses the program on {probe.function}: {reason}",
                    f"`fork-trace doctor` lists what it offers; {NEEDS[self.plan.attach]}",
                )
            refused.append((probe, reason))
        return refused

    def _arm(self) -> None:
        self._later = Later(self.plan)
        # The verifier and the compiler are done: give back what they took.
        self._lib.bcc_free_memory()
        self._is_counting = True
        self._move_to(PHASE_MARKING)
        # A refusal from before this moment has reached the end of its copy_process by then.
        time.sleep(MARKING_S)
        self._move_to(self._later.phase)

    def _attach(self, probe: Probe) -> str | None:
        """Load and attach the programs of one probe; return the kernel's words if it refuses."""
        bpf, said = self._bpf, []  # type: Any, list[str]
        try:
            if probe.program in steps.SYSCALL_PROGRAMS:
                _quietly(lambda: bpf.load_func(probe.program, self._raw), said)
                _quietly(lambda: bpf.attach_raw_tracepoint(probe.function, probe.program), said)
                return None
            # The entry first: a return whose entry was not seen has no arguments.
            if probe.entry in self._functions:
                _quietly(lambda: bpf.attach_kprobe(event=probe.function, fn_name=probe.entry), said)
            _quietly(lambda: self._attach_return(probe), said)
        except OSError as error:
            return error.strerror or str(error)
        except Exception as error:  # bcc raises nothing finer
            lines = [line.strip() for line in said if line.strip()]
            # Of the verifier's log the last lines tell, of anything else the first.
            told = [line for line in lines if not line.startswith("processed ")]
            why = (told[-1] if "Failed to load" in str(error) else told[0]) if told else str(error)
            return why
        return None

    def _attach_return(self, probe: Probe) -> None:
        if self._kprobe_events is None:
            self._bpf.attach_kretprobe(event=probe.function, fn_name=probe.program)
            return
        program_fd = self._bpf.load_func(probe.program, self._kprobe).fd
        self._kprobe_events.add_return(probe.function)
        # To the kernel it is one of its events by now, like a tracepoint.
        fd = self._lib.bpf_attach_tracepoint(
            program_fd, self._kprobe_events.group.encode(), probe.function.encode()
        )
        if fd < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self._returns.append(fd)

    def attach_more(self, stage: Stage) -> bool:
        """Attach the next of the probes that wait, up to that stage; False once there is no more to do."""
        return self._later.attach(stage, self._attach, self._give_up, self._move_to)

    def _give_up(self, probe: Probe, reason: str) -> None:
        self.plan = self.plan.without_probe(probe.program, reason)

    def _move_to(self, phase: int) -> None:
        self._write("phase", 0, phase)

    def _move_generation(self, generation: int) -> None:
        self._write("generation", 0, generation)
        self._generation = generation

    def _write(self, name: str, index: int, value: int) -> None:
        # Eight bytes are enough for any cell; the kernel copies as many as the map's have.
        key, cell = ctypes.c_uint32(index), ctypes.c_uint64(value)
        failed = self._lib.bpf_update_elem(
            self._map_fd(name), ctypes.byref(key), ctypes.byref(cell), 0
        )
        if failed:
            raise ForkTraceError(
                f"cannot start counting: {os.strerror(ctypes.get_errno())}",
                "Please report this kernel with the output of `fork-trace doctor --json`.",
            )

    def poll(self, timeout_s: float) -> list[bytes]:
        """Wait for events at most this long and return them, oldest first."""
        timeout_ms = max(0, int(timeout_s * 1000))
        if self.plan.has_ringbuf:
            self._bpf.ring_buffer_poll(timeout_ms)
            # Only the first of a burst wakes us: take what came without a wake-up too.
            self._bpf.ring_buffer_consume()
        else:
            self._bpf.perf_buffer_poll(timeout_ms)
        taken, self._pending = self._pending, []
        # Each processor has a perf buffer of its own; the time is the first field.
        return sorted(taken, key=lambda raw: int.from_bytes(raw[:8], "little"))

    def _pairs(self, name: str, key_bytes: int, value_bytes: int) -> Iterator[tuple[bytes, bytes]]:
        fd = self._map_fd(name)
        key, following = None, ctypes.create_string_buffer(key_bytes)
        value = ctypes.create_string_buffer(value_bytes)
        while not self._lib.bpf_get_next_key(fd, key, following):
            if not self._lib.bpf_lookup_elem(fd, following, value):
                yield following.raw, value.raw
            key = ctypes.create_string_buffer(following.raw, key_bytes)

    def descriptors(self) -> tuple[int, ...]:
        """Return none: bcc keeps them to itself."""
        return ()

    def stacks(self) -> list[bytes]:
        """Return none: callers are named by the frames that the kernel finds."""
        return []

    def deaths(self) -> list[bytes]:
        """Return none: its one program has no room for them."""
        return []

    def forks(self) -> list[bytes]:
        """Return none, for the same reason."""
        return []

    def tallies(self) -> list[tuple[bytes, bytes]]:
        """Return the exact counters: (struct ft_key, struct ft_tally) pairs."""
        return list(self._pairs("tallies", events.KEY_BYTES, events.TALLY_BYTES))

    def used(self) -> int:
        """Count the keys of the exact counters; the table takes 8192."""
        return sum(self._cell("shares", number) for number in (0, SHARES))

    def harvest(self) -> list[tuple[bytes, bytes]]:
        """Take all keys out of the table, with their last counts; each begins anew if it is counted again."""
        return harvest(
            self._generation, self._move_generation, self.tallies, self._remove, self._forget_share
        )

    def _remove(self, key: bytes) -> bool:
        return not self._lib.bpf_delete_elem(self._map_fd("tallies"), key)

    def _forget_share(self, number: int) -> None:
        self._write("shares", number, 0)

    def _array(self, name: str, length: int) -> list[int]:
        return [self._cell(name, index) for index in range(length)]

    def _cell(self, name: str, index: int) -> int:
        key, value = ctypes.c_uint32(index), ctypes.c_uint64()
        self._lib.bpf_lookup_elem(self._map_fd(name), ctypes.byref(key), ctypes.byref(value))
        return value.value

    def stats(self) -> dict[str, int]:
        """Return the run's counters by the names of events.STATS."""
        return dict(zip(events.STATS, self._array("stats", len(events.STATS))))

    def overflowed(self) -> dict[int, int]:
        """Return the counts by step number that found no room among the keys."""
        counts = self._array("overflowed", len(steps.STEPS))
        return {number: count for number, count in enumerate(counts) if count}

    def missed(self) -> int | None:
        """Count the calls that a program did not see; of copy_process exactly, of the steps as far as the kernel does."""
        if self._missed is not None:
            return self._missed
        total = self._unreturned + self.stats()["unreturned"]
        if self._kprobe_events:
            total += self._kprobe_events.missed() or 0
        return total

    def step_misses(self) -> dict[str, int]:
        """Count no step's calls apart: `missed` has them, as far as the kernel tells."""
        return {}

    def detach(self) -> None:
        """Stop watching; what was counted and sampled can still be read."""
        self._later.forget()
        if self._is_counting:
            # Before the first program goes: none of the others shall see half of a fork.
            self._move_to(PHASE_OFF)
            self._unreturned = drain(
                lambda: sum(1 for _ in self._pairs("attempts", THREAD_BYTES, ATTEMPT_BYTES))
            )
        if self._bpf is not None:
            _quietly(self._detach_all, self._said)
        if self._is_counting:
            self._is_counting = False
            self._missed = self.missed()
        if self._kprobe_events:
            self._kprobe_events.remove()
            self._kprobe_events = None

    def _detach_all(self) -> None:
        for name in list(self._bpf.kprobe_fds):
            self._bpf.detach_kprobe_event(name)
        for name in list(self._bpf.raw_tracepoint_fds):
            self._bpf.detach_raw_tracepoint(name)
        for fd in self._returns:
            self._lib.bpf_close_perf_event_fd(fd)
        self._returns = []

    def close(self) -> None:
        """Detach every program and free every map; safe to call twice."""
        self.detach()
        if self._bpf is not None:
            with contextlib.suppress(Exception):
                _quietly(self._bpf.cleanup, self._said)
            self._bpf = None
