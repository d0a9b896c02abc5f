"""The logic of the kernel side, compiled natively behind tests/host_shell.c and driven from here."""

from __future__ import annotations

import ctypes
import errno
import random
import re
import shutil
import struct
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fork_trace.diagnosis.causes import arguments
from fork_trace.model import events, steps
from fork_trace.model.events import Key, Tally
from fork_trace.probes.config import Config

CHECKOUT = Path(__file__).resolve().parents[3]
ERESTARTNOINTR = 513
CLONE_THREAD = 0x00010000
SECOND_NS = 1_000_000_000
CLONE_VM = 0x00000100
CLONE_SIGHAND = 0x00000800
OFF, MARKING, ALONE, COUNTING, DETAILED = range(5)
WATCHED = [step for step in steps.STEPS if step.watches and step.name != "copy_process"]
_SYSCALL_AT = 16 + 8 + 4 + 4 + 2
STEP = {step.name: step.number for step in steps.STEPS}


class Host:
    """A host of plain memory: what the kernel would do is told to it, what was sent is read."""

    def __init__(self, lib: ctypes.CDLL) -> None:
        self.lib = lib
        lib.host_reset()
        self.who("sh")

    def _value(self, name: str, type_: Any = ctypes.c_uint32) -> Any:
        return type_.in_dll(self.lib, f"host_{name}")

    def let(self, **settings: int) -> None:
        """Change the host: thread, dying, filtered_out, ..._room."""
        for name, value in settings.items():
            type_ = ctypes.c_uint64 if name == "candidates" else ctypes.c_uint32
            self._value(name, type_).value = value

    def who(self, comm: str, syscall: str = "clone", uid: int = 0, cgroup: int = 0) -> None:
        """Say which command forks from now on, by which call, of whom and where."""
        key = self._value("who", ctypes.c_char * events.KEY_BYTES)
        ctypes.memset(ctypes.addressof(key), 0, events.KEY_BYTES)
        ctypes.memmove(ctypes.addressof(key), comm.encode(), len(comm))
        ctypes.memmove(ctypes.addressof(key) + 16, struct.pack("=QI", cgroup, uid), 12)
        # struct ft_key: comm, cgroup, uid, error, step and detail lie before it
        key[_SYSCALL_AT] = events.SYSCALLS.index(syscall)

    def sampling(self, per_second: int) -> None:
        """Set the rate limit of each key."""
        self.configure(samples_per_second=per_second)

    def pass_ns(self, duration_ns: int) -> None:
        """Let time go by."""
        self._value("now_ns", ctypes.c_uint64).value += duration_ns

    def refuse(
        self, step: str, error: int, detail: str = "", number: str = "nproc", value: int = 0
    ) -> bool:
        """Let a watched function refuse inside this thread's copy_process."""
        kept = self.lib.host_refuse(
            STEP[step],
            -error,
            events.DETAILS.index(detail),
            events.NUMBERS.index(number),
            ctypes.c_uint64(value),
        )
        return bool(kept)

    def refuse_outer(
        self, step: str, last_inner: str, error: int, number: str = "nproc", value: int = 0
    ) -> bool:
        """Let a function refuse that hands on the refusals of those inside it."""
        kept = self.lib.host_refuse_outer(
            STEP[step],
            STEP[last_inner],
            -error,
            events.NUMBERS.index(number),
            ctypes.c_uint64(value),
        )
        return bool(kept)

    def refuse_memory_cgroup(self, pages: int = 0) -> None:
        """Let a memory cgroup refuse inside this thread's copy_process."""
        self.lib.host_refuse_memory_cgroup(ctypes.c_uint64(pages))

    def copied(self) -> None:
        """Let this thread's copy_process succeed."""
        self.lib.host_copied()

    def judging(self, *fits: str, detail: str = "") -> None:
        """Say what the state would refuse from now on."""
        self.let(
            candidates=sum(1 << events.FITS.index(fit) for fit in fits),
            detail=events.DETAILS.index(detail),
        )

    @property
    def judged(self) -> tuple[int, int, int, int]:
        """How often the state was judged; error, flags and watched steps of the last time."""
        return (
            self._value("judge_count").value,
            -self._value("judged_error", ctypes.c_int32).value,
            self._value("judged_flags", ctypes.c_uint64).value,
            self._value("judged_watched", ctypes.c_uint64).value,
        )

    def configure(self, **settings: int) -> None:
        """Set fields of struct ft_config."""
        config = Config.in_dll(self.lib, "host_config")
        for name, value in settings.items():
            setattr(config, name, value)

    def enter(self) -> None:
        """Let this thread's system call of the fork family begin."""
        self.lib.host_call_enter()

    def exit(
        self, result: int, flags: int = 0, asks_tid: bool = False, is_second: bool = False
    ) -> None:
        """Let it end with a result: a negative errno is a failure. By which program it is seen?"""
        self.lib.host_call_exit(
            ctypes.c_int64(result),
            ctypes.c_uint64(flags),
            ctypes.c_int(asks_tid),
            ctypes.c_int(is_second),
        )

    def call_next(self, syscall: str) -> None:
        """Let this thread's next system call begin; of what is no fork, "kernel"."""
        self.lib.host_next_call(events.SYSCALLS.index(syscall))

    def end(self, syscall: str, result: int, is_second: bool = False) -> None:
        """Let a call that a filter answered end, as each of the two programs sees it."""
        self.lib.host_ends_wait(events.SYSCALLS.index(syscall), is_second)
        self.exit(result, CLONE_THREAD, is_second=is_second)

    def refuse_stack(self, step: str, error: int, detail: str = "") -> None:
        """Let the stack of a new thread be refused."""
        self.lib.host_stack_refused(STEP[step], -error, events.DETAILS.index(detail))

    def fail(self, error: int, flags: int = 0) -> None:
        """Let this thread's copy_process return an error."""
        self.lib.host_copy_process(-error, ctypes.c_uint64(flags))

    def fail_before(self, is_second: bool, error: int) -> None:
        """The same, as one of two programs on its return sees it."""
        self.lib.host_copy_process_of_two(-error, ctypes.c_uint64(0), int(is_second))

    def fail_at_return(self, error: int, flags: int = 0) -> None:
        """The same, as the second program sees it where that one is at copy_process' return."""
        self.lib.host_copy_process_returned(-error, ctypes.c_uint64(flags))

    @property
    def events(self) -> list[events.Event]:
        size = self.lib.host_sizeof_event()
        count = self._value("event_count").value
        raw = bytes(self._value("event", ctypes.c_char * (size * count))) if count else b""
        return [events.decode(raw[i * size : (i + 1) * size]) for i in range(count)]

    @property
    def counts(self) -> dict[Key, int]:
        return {key: tally.count for key, tally in self.tallies.items()}

    @property
    def tallies(self) -> dict[Key, Tally]:
        count = self._value("tally_count").value
        keys = bytes(self._value("key", ctypes.c_char * (events.KEY_BYTES * count)))
        tallies = bytes(self._value("tally", ctypes.c_char * (events.TALLY_BYTES * count)))
        return {
            events.decode_key(keys[i * events.KEY_BYTES :]): events.decode_tally(
                tallies[i * events.TALLY_BYTES :]
            )
            for i in range(count)
        }

    @property
    def counted_under(self) -> list[bytes]:
        """The keys of the exact counters that the samples are of."""
        size, count = self.lib.host_sizeof_event(), self._value("event_count").value
        raw = bytes(self._value("event", ctypes.c_char * (size * count)))
        return [
            events.counted_under(raw[at + 8 : at + 8 + events.KEY_BYTES])
            for at in range(0, size * count, size)
        ]

    @property
    def stats(self) -> dict[str, int]:
        """The counters that are not 0."""
        values = self._value("stat", ctypes.c_uint64 * len(events.STATS))
        return {name: value for name, value in zip(events.STATS, values) if value}

    @property
    def overflowed(self) -> dict[str, int]:
        values = self._value("overflowed", ctypes.c_uint64 * 256)
        return {steps.name_of(n): value for n, value in enumerate(values) if value}

    @property
    def wakes(self) -> int:
        return int(self._value("wake_count").value)

    @property
    def open_refusals(self) -> int:
        return int(self.lib.host_open_refusals())

    @property
    def open_calls(self) -> int:
        return int(self.lib.host_open_calls())

    @property
    def open_pending(self) -> int:
        return int(self.lib.host_open_pending())

    @property
    def blamed(self) -> list[str]:
        """The steps of all events."""
        return [steps.name_of(event.key.step) for event in self.events]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which("cc")
    if not compiler:
        pytest.skip("needs a C compiler; install one (Debian: gcc) to run it")
    built = tmp_path_factory.mktemp("logic") / "host_shell.so"
    subprocess.run(
        [
            *(compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"),
            *("-I", str(CHECKOUT / "bpf"), "-o", str(built)),
            str(CHECKOUT / "tests" / "host_shell.c"),
        ],
        check=True,
    )
    return ctypes.CDLL(str(built))


@pytest.fixture
def host(library: ctypes.CDLL) -> Host:
    return Host(library)


def only(found: Any) -> Any:
    """Return the one element that there must be."""
    (element,) = found
    return element


def test_the_step_that_refused_inside_the_same_call_is_blamed_with_its_numbers(host: Host) -> None:
    host.refuse("__vm_enough_memory", errno.ENOMEM, "overcommit-never", "pages_asked", 23)
    host.fail(errno.ENOMEM)

    event = only(host.events)

    assert STEP["__vm_enough_memory"] == event.key.step
    assert "overcommit-never" == event.key.detail
    assert errno.ENOMEM == event.key.error
    assert event.key.is_observed
    assert {"pages_asked": 23} == event.numbers
    assert {event.key: 1} == host.counts


@pytest.mark.parametrize("step", WATCHED, ids=lambda step: step.name)
def test_every_watched_step_can_be_blamed(host: Host, step: steps.Step) -> None:
    host.refuse(step.name, errno.EAGAIN)
    host.fail(errno.EAGAIN)

    assert step.number == only(host.events).key.step


@pytest.mark.parametrize("error", [errno.EAGAIN, errno.ENOMEM, errno.EINVAL, errno.EPERM])
def test_a_failure_that_nobody_was_seen_to_cause_is_judged_by_the_state(
    host: Host, error: int
) -> None:
    host.judging("nproc", "threads", detail="pidns-alive")
    host.fail(error, CLONE_VM | CLONE_SIGHAND | CLONE_THREAD)

    event = only(host.events)

    assert (1, error, CLONE_VM | CLONE_SIGHAND | CLONE_THREAD, 0) == host.judged
    assert ["copy_process"] == host.blamed
    assert not event.key.is_observed
    assert frozenset({"nproc", "threads"}) == event.key.fits
    assert "pidns-alive" == event.key.detail
    assert error == event.key.error
    assert {"nr_threads": 97} == event.numbers
    assert (events.Level("pids-cgroup", 0, 23, 7, 7),) == event.levels
    assert 0 == host.open_refusals


def test_an_observed_refusal_goes_before_what_the_state_says_and_nothing_is_judged(
    host: Host,
) -> None:
    host.judging("nproc")
    host.refuse("cgroup_can_fork", errno.EAGAIN)
    host.fail(errno.EAGAIN)

    event = only(host.events)

    assert ["cgroup_can_fork"] == host.blamed
    assert (frozenset(), ()) == (event.key.fits, event.levels)
    assert 0 == host.judged[0]


@pytest.mark.parametrize(("phase", "watched"), [(ALONE, 0), (COUNTING, 0b0110), (DETAILED, 0b1110)])
def test_what_the_programs_of_this_phase_have_told_is_not_judged_again(
    host: Host, phase: int, watched: int
) -> None:
    host.configure(watched=0b0110, watched_in_detail=0b1110)
    host.let(phase=phase)
    host.fail(errno.EAGAIN)

    assert watched == host.judged[3]
    assert {"failures": 1, "sampled": 1} == host.stats


@pytest.mark.parametrize("bit", [31, 32, 63])
def test_the_last_of_64_candidates_is_counted_apart_as_the_first_is(host: Host, bit: int) -> None:
    host.let(candidates=1 << bit)
    host.fail(errno.EAGAIN, CLONE_VM)
    host.let(candidates=0)
    host.fail(errno.EAGAIN, CLONE_VM)
    keys = bytes(host._value("key", ctypes.c_char * (2 * events.KEY_BYTES)))

    assert [1 << bit, 0] == [
        *struct.unpack_from("=Q", keys, events.KEY_BYTES - 8),
        *struct.unpack_from("=Q", keys, 2 * events.KEY_BYTES - 8),
    ]


def test_what_was_asked_for_stands_beside_what_the_state_says(host: Host) -> None:
    host.judging("ns-limit")
    host.fail(errno.ENOSPC, 0x10000000)

    assert {"asked-newuser", "copies-mm", "ns-limit"} == only(host.counts).fits


def test_states_that_differ_are_counted_apart(host: Host) -> None:
    for fits in (["nproc"], ["nproc", "threads"], ["nproc"], []):
        host.judging(*fits)
        host.fail(errno.EAGAIN, CLONE_VM)

    assert [2, 1, 1] == list(host.counts.values())


# Of those that hand on, and the last of those inside them: as in bpf/fork_trace.bpf.c.
OUTER = [
    ("copy_creds", "create_user_ns", "set_cred_ucounts", errno.ENOSPC),
    ("copy_creds", "set_cred_ucounts", "set_cred_ucounts", errno.EAGAIN),
    ("dup_mmap", "__vm_enough_memory", "ldt_dup_context", errno.ENOMEM),
    ("dup_mmap", "ldt_dup_context", "ldt_dup_context", errno.ENOMEM),
    ("copy_namespaces", "copy_mnt_ns", "copy_time_ns", errno.ENOSPC),
    ("copy_namespaces", "copy_time_ns", "copy_time_ns", errno.EPERM),
    ("copy_thread", "shstk_alloc_thread_stack", "shstk_alloc_thread_stack", errno.ENOMEM),
]


@pytest.mark.parametrize(("outer", "inner", "last", "error"), OUTER)
def test_whoever_hands_a_refusal_on_does_not_take_the_blame_or_the_numbers(
    host: Host, outer: str, inner: str, last: str, error: int
) -> None:
    host.refuse(inner, error, number="ns_count", value=23)

    assert not host.refuse_outer(outer, last, error, "ns_count", 1)

    host.fail(error)

    assert [inner] == host.blamed
    assert {"ns_count": 23} == only(host.events).numbers


@pytest.mark.parametrize(("outer", "inner", "last", "error"), OUTER)
def test_without_a_refusal_inside_it_the_outer_one_is_blamed(
    host: Host, outer: str, inner: str, last: str, error: int
) -> None:
    assert host.refuse_outer(outer, last, error)

    host.fail(error)

    assert [outer] == host.blamed
    assert only(host.counts).is_observed


def test_at_an_outer_step_the_state_tells_of_one_inside_it_that_was_missed(host: Host) -> None:
    host.judging("overcommit", detail="overcommit-never")
    host.refuse_outer("dup_mmap", "ldt_dup_context", errno.ENOMEM)
    host.fail(errno.ENOMEM, 0)
    host.refuse("vm_area_dup", errno.ENOMEM)
    host.fail(errno.ENOMEM, 0)

    outer, inner = host.events

    assert ["dup_mmap", "vm_area_dup"] == host.blamed
    assert (True, True) == (outer.key.is_observed, inner.key.is_observed)
    assert ("overcommit" in outer.key.fits, inner.key.fits) == (True, frozenset())
    assert (1, errno.ENOMEM, 0, 0) == host.judged


@pytest.mark.parametrize("elsewhere", ["rlimit_nproc", "alloc_pid", "copy_creds"])
def test_a_refusal_outside_of_the_outer_one_does_not_silence_it(host: Host, elsewhere: str) -> None:
    host.refuse(elsewhere, errno.ENOMEM)

    assert host.refuse_outer("copy_namespaces", "copy_time_ns", errno.ENOMEM)

    host.fail(errno.ENOMEM)

    assert ["copy_namespaces"] == host.blamed


def test_a_memory_cgroup_is_blamed_with_its_numbers_where_no_step_was_seen(host: Host) -> None:
    host.refuse_memory_cgroup(23)
    host.fail(errno.ENOMEM)

    event = only(host.events)

    assert ["copy_process"] == host.blamed
    assert event.key.is_memcg
    assert not event.key.is_observed
    assert {"memcg_pages": 23} == event.numbers
    assert 0 == host.judged[0]


@pytest.mark.parametrize("is_outer", [False, True])
def test_the_step_that_a_memory_cgroup_refused_takes_its_note_over(
    host: Host, is_outer: bool
) -> None:
    host.refuse_memory_cgroup(23)
    if is_outer:
        host.refuse_outer("dup_mmap", "ldt_dup_context", errno.ENOMEM, "data_pages", 5)
    else:
        host.refuse("anon_vma_fork", errno.ENOMEM, number="data_pages", value=5)
        assert not host.refuse_outer("dup_mmap", "ldt_dup_context", errno.ENOMEM)
    host.fail(errno.ENOMEM)

    event = only(host.events)

    assert ["dup_mmap" if is_outer else "anon_vma_fork"] == host.blamed
    assert event.key.is_memcg
    assert event.key.is_observed
    assert {"memcg_pages": 23, "data_pages": 5} == event.numbers


def test_a_refusal_that_is_not_of_memory_drops_the_note_of_a_memory_cgroup(host: Host) -> None:
    host.refuse_memory_cgroup(23)
    host.refuse("alloc_pid", errno.EAGAIN, number="pid_max", value=97)
    host.fail(errno.EAGAIN)

    event = only(host.events)

    assert ["alloc_pid"] == host.blamed
    assert not event.key.is_memcg
    assert {"pid_max": 97} == event.numbers


def test_the_note_of_a_memory_cgroup_is_not_blamed_for_another_errno(host: Host) -> None:
    host.refuse_memory_cgroup(23)
    host.judging("nproc")
    host.fail(errno.EAGAIN)

    event = only(host.events)

    assert not event.key.is_memcg
    assert "nproc" in event.key.fits
    assert {"nr_threads": 97} == event.numbers
    assert 1 == host.stats["mismatch"]


def test_a_charge_that_is_made_all_the_same_says_nothing_of_the_next_failure(host: Host) -> None:
    host.refuse_memory_cgroup(23)
    host.copied()
    host.judging("overcommit")
    host.fail(errno.ENOMEM)

    event = only(host.events)

    assert not event.key.is_memcg
    assert "overcommit" in event.key.fits
    assert 0 == host.lib.host_open_refusals()


def test_only_while_there_are_marks_of_charges_one_is_looked_for(host: Host) -> None:
    marks = ctypes.c_int32.in_dll(host.lib, "host_charge_marks")
    host.let(thread=1)
    host.refuse_memory_cgroup(1)
    host.refuse_memory_cgroup(2)
    host.let(thread=2)
    host.refuse_memory_cgroup(3)
    seen = [marks.value]
    host.fail(errno.ENOMEM)
    seen.append(marks.value)
    host.let(thread=1)
    host.copied()
    host.copied()

    assert [2, 1, 0] == [*seen, marks.value]


# kernel/fork.c, copy_mm: dup_mm returns NULL, whatever the reason was.
_FIRST, _LAST = STEP["mm_init"], STEP["ldt_dup_context"]
IN_DUP_MM = [step.name for step in steps.STEPS if _FIRST <= step.number <= _LAST]


@pytest.mark.parametrize("step", [step.name for step in WATCHED])
@pytest.mark.parametrize("error", [errno.EINTR, errno.EINVAL, errno.EAGAIN])
def test_whatever_refuses_a_copy_of_the_memory_is_enomem_outside(
    host: Host, step: str, error: int
) -> None:
    host.refuse(step, error)
    host.fail(errno.ENOMEM)

    is_flattened = step in IN_DUP_MM

    assert [step if is_flattened else "copy_process"] == host.blamed
    assert is_flattened == only(host.counts).is_observed
    assert errno.ENOMEM == only(host.counts).error
    assert (0 if is_flattened else 1) == host.stats.get("mismatch", 0)


def test_only_enomem_hides_another_error(host: Host) -> None:
    host.refuse("dup_mmap", errno.ENOMEM)
    host.fail(errno.EINTR)

    assert ["copy_process"] == host.blamed
    assert 1 == host.stats["mismatch"]


@pytest.mark.parametrize(
    ("flags", "rules"),
    [
        (0x00020000, 0),
        (0x00020200, 1),  # NEWNS, FS
        (0x10000200, 2),  # NEWUSER, FS
        (0x00010100, 4),  # THREAD without SIGHAND
        (0x00000800, 8),  # SIGHAND without VM
        (0x10010900, 16),  # THREAD, NEWUSER
        (0x20010900, 16),  # THREAD, NEWPID
        (0x00401000, 32),  # PIDFD, DETACHED
        (0x08040000, 64),  # NEWIPC, SYSVSEM
        (0x10030A00, 1 | 2 | 8 | 16),
        (0x400010900, 1 << 9),  # AUTOREAP, THREAD
        (0x400008000, 1 << 10),  # AUTOREAP, PARENT
        (0x800010900, 1 << 13),  # NNP, THREAD
        (0x1400000000, 1 << 14),  # AUTOKILL without PIDFD
        (0x1000001000, 1 << 15),  # AUTOKILL without AUTOREAP
        (0x1400011900, 1 << 9 | 1 << 16),  # AUTOKILL, THREAD
        (0x1400001000, 0),  # AUTOKILL with what it needs
        (0x003D0F00, 0),  # what pthread_create asks for
        (0x01200011, 0),  # what fork asks for
        (0, 0),
    ],
)
def test_each_rule_on_flags_has_its_bit(host: Host, flags: int, rules: int) -> None:
    host.lib.host_flag_rules.restype = ctypes.c_uint64

    assert rules == host.lib.host_flag_rules(ctypes.c_uint64(flags))


INT, ERR_PTR, PTR, TRUE, FALSE = range(5)
# What can lie above 4 bytes, or above 1, of a register or of a slot.
RUBBISH = (0, 0xFFFFFFFF, 0xFFFF8881, 0x1, 0x80000000)


@pytest.mark.parametrize("rubbish", RUBBISH)
def test_an_int_is_its_own_4_bytes_whatever_stands_above_them(host: Host, rubbish: int) -> None:
    refused = host.lib.host_is_refused
    host.lib.host_int_in.restype = ctypes.c_int64

    for value in (-errno.EAGAIN, -errno.ENOMEM, -4095):
        slot = ctypes.c_uint64(rubbish << 32 | value & 0xFFFFFFFF)
        assert refused(INT, slot)
        assert value == host.lib.host_error_in(INT, slot)
        assert value == host.lib.host_int_in(slot)
    for value in (0, 1, 0x7FFFFFFF):
        slot = ctypes.c_uint64(rubbish << 32 | value)
        assert not refused(INT, slot)
        assert value == host.lib.host_int_in(slot)


@pytest.mark.parametrize("rubbish", RUBBISH)
def test_a_value_of_an_enumeration_is_found_whatever_stands_above_it(
    host: Host, rubbish: int
) -> None:
    """UCOUNT_RLIMIT_NPROC, 10 on 5.15 and 0 on newer kernels, as the second of three arguments."""
    for value, other in ((10, 11), (0, 1)):
        is_value = host.lib.host_is_value
        assert is_value(ctypes.c_uint64(rubbish << 32 | value), ctypes.c_uint64(value))
        assert not is_value(ctypes.c_uint64(rubbish << 32 | other), ctypes.c_uint64(value))


@pytest.mark.parametrize("rubbish", RUBBISH)
def test_a_bool_is_its_own_byte_whatever_stands_above_it(host: Host, rubbish: int) -> None:
    for above in (rubbish << 32, rubbish << 8):
        no, yes = ctypes.c_uint64(above), ctypes.c_uint64(above | 1)

        assert not host.lib.host_is_refused(TRUE, no)
        assert host.lib.host_is_refused(TRUE, yes)
        assert host.lib.host_is_refused(FALSE, no)
        assert not host.lib.host_is_refused(FALSE, yes)


def test_a_pointer_is_all_64_bits(host: Host) -> None:
    kernel_address = ctypes.c_uint64(0xFFFF88810BADF00D)
    error = ctypes.c_uint64(-errno.ENOMEM & (1 << 64) - 1)

    assert not host.lib.host_is_refused(ERR_PTR, kernel_address)
    assert not host.lib.host_is_refused(PTR, kernel_address)
    # Its lower half alone would be an error, or nothing at all.
    assert not host.lib.host_is_refused(ERR_PTR, ctypes.c_uint64(0xFFFF8881FFFFFFF4))
    assert not host.lib.host_is_refused(PTR, ctypes.c_uint64(0xFFFF888100000000))
    assert host.lib.host_is_refused(ERR_PTR, error)
    assert -errno.ENOMEM == host.lib.host_error_in(ERR_PTR, error)
    assert host.lib.host_is_refused(PTR, ctypes.c_uint64(0))
    assert -errno.ENOMEM == host.lib.host_error_in(PTR, ctypes.c_uint64(0))


def test_every_rule_of_the_wire_has_its_words() -> None:
    text = (CHECKOUT / "bpf" / "wire.h").read_text()
    rows = re.search(r"#define FT_RULES\(X\)(.*?)\n\n", text, re.DOTALL)

    assert rows
    numbers = [int(number) for number in re.findall(r"X\(\w+, (\d+)\)", rows[1])]
    assert list(range(len(arguments._RULES))) == numbers


def test_every_rule_answers_with_one_errno(host: Host) -> None:
    host.lib.host_rules_of.restype = ctypes.c_uint64
    answers = [
        host.lib.host_rules_of(-error) for error in (1, 7, 14, 22)
    ]  # EPERM E2BIG EFAULT EINVAL

    assert (1 << 64) - 1 == sum(answers)
    assert [1, 2, 2] == [bin(each).count("1") for each in answers[:3]]
    assert 0 == host.lib.host_rules_of(-errno.EAGAIN)


@pytest.mark.parametrize(
    ("flags", "asked"),
    [
        (0x01200011, {"copies-mm"}),
        (0x100, set()),
        (0x10000100, {"asked-newuser"}),
        *((flag | 0x100, {"asked-namespace"}) for flag in (0x20000, 0x2000000, 0x4000000)),
        *((flag | 0x100, {"asked-namespace"}) for flag in (0x8000000, 0x20000000, 0x40000000)),
        (0x180, {"asked-namespace"}),  # CLONE_NEWTIME
        (0x1100, {"asked-pidfd"}),
        (0x200000100, {"asked-cgroup"}),
        (0x80100, {"asked-tls"}),
        (0x30001000, {"asked-newuser", "asked-namespace", "asked-pidfd", "copies-mm"}),
    ],
)
def test_what_a_call_asks_for_is_told(host: Host, flags: int, asked: set[str]) -> None:
    host.lib.host_asked.restype = ctypes.c_uint64
    fits = host.lib.host_asked(ctypes.c_uint64(flags))

    assert asked == {name for bit, name in enumerate(events.FITS) if fits & 1 << bit}


@pytest.mark.parametrize("asked", [0, 1, 15, 16, 17, 33])
def test_levels_beyond_the_room_are_left_out_and_write_nothing_behind_it(
    host: Host, asked: int
) -> None:
    last = ctypes.c_uint64()

    kept = host.lib.host_levels(asked, ctypes.byref(last))

    expected = min(asked, events.LEVEL_COUNT)
    assert (expected, 99 + expected if asked else 0) == (kept, last.value)


# Calls that never reach copy_process.


@pytest.fixture
def early(host: Host) -> Host:
    """An upper attach mode with `--refused`."""
    host.configure(watches_early=1)
    return host


@pytest.fixture
def lowest(host: Host) -> Host:
    """The tracepoint attach mode: no program but those on system calls."""
    host.configure(is_by_syscall=1)
    return host


def test_a_call_that_ended_before_it_began_under_a_filter_was_answered_by_it(early: Host) -> None:
    early.let(is_supervised=1)
    early.exit(-errno.EPERM, 0x11)

    event = only(early.events)

    assert ["seccomp"] == early.blamed
    assert (errno.EPERM, 0x11, {}) == (event.key.error, event.flags, event.numbers)
    assert {"failures": 1, "sampled": 1, "before_fork": 1} == early.stats
    assert (0, 0) == (early.open_refusals, early.open_calls)


def test_a_call_that_began_before_us_is_not_blamed_on_seccomp(early: Host) -> None:
    early.exit(-errno.EAGAIN)

    assert {"untracked": 1} == early.stats
    assert {} == early.counts


SEEN_BY = [
    (False, True),
    (False,),
    (True,),
]  # which of the two programs; the first before the second


@pytest.mark.parametrize("seen_by", SEEN_BY)
@pytest.mark.parametrize("before", SEEN_BY)
def test_where_a_program_can_be_left_out_one_of_two_tells_each_failure(
    lowest: Host, before: tuple[bool, ...], seen_by: tuple[bool, ...]
) -> None:
    lowest.configure(watches_twice=1)
    for is_second in before:
        lowest.exit(-errno.EAGAIN, is_second=is_second)
    lowest.enter()
    for is_second in seen_by:
        lowest.exit(-errno.ENOMEM, is_second=is_second)

    assert [errno.EAGAIN, errno.ENOMEM] == [event.key.error for event in lowest.events]
    assert {"failures": 2, "sampled": 2} == lowest.stats


@pytest.mark.parametrize("has_room", [True, False])
@pytest.mark.parametrize("seen_by", [(False, True), (True, False)])
def test_of_two_programs_on_copy_process_one_tells_in_either_order(
    host: Host, seen_by: tuple[bool, ...], has_room: bool
) -> None:
    host.configure(copies_twice=1)
    host.let(mark_room=has_room)
    for _ in range(23):
        for is_second in seen_by:
            host.fail_before(is_second, errno.EAGAIN)

    assert {"failures": 23, "sampled": 23} == host.stats


@pytest.mark.parametrize("order", [(False, True), (True, False)])
@pytest.mark.parametrize("is_second", [False, True])
def test_if_one_of_two_on_copy_process_is_left_out_the_other_tells_it(
    host: Host, is_second: bool, order: tuple[bool, ...]
) -> None:
    host.configure(copies_twice=1)
    host.fail_before(is_second, errno.ENOMEM)
    for each in order:
        host.fail_before(each, errno.EMFILE)

    assert [errno.ENOMEM, errno.EMFILE] == [event.key.error for event in host.events]


@pytest.fixture
def netted(host: Host) -> Host:
    """The second program on copy_process is at its return."""
    host.configure(copies_twice=1, copies_again_at_return=1)
    return host


@pytest.mark.parametrize("has_room", [True, False])
@pytest.mark.parametrize("is_left_out", [True, False])
@pytest.mark.parametrize("step", [None, "alloc_pid"])
def test_at_the_return_each_failure_is_told_once_whether_or_not_the_first_told_it(
    netted: Host, step: str | None, is_left_out: bool, has_room: bool
) -> None:
    netted.let(mark_room=has_room)
    for _ in range(23):
        if step:
            netted.refuse(step, errno.EAGAIN)
        if not is_left_out:
            netted.fail_before(False, errno.EAGAIN)
        netted.fail_at_return(errno.EAGAIN)

    assert {"failures": 23, "sampled": 23} == netted.stats
    assert {step or "copy_process"} == set(netted.blamed)


@pytest.mark.parametrize("how", ["step", "slept", "error"])
def test_a_mark_that_stayed_hides_no_later_failure(netted: Host, how: str) -> None:
    netted.fail_before(False, errno.EAGAIN)  # and nobody at the return
    error = errno.ENOMEM if how == "error" else errno.EAGAIN
    if how == "slept":
        netted.let(sleeps=1)
    if how == "step":
        netted.refuse("alloc_pid", error)
    netted.fail_at_return(error)  # and nobody before

    assert [errno.EAGAIN, error] == [event.key.error for event in netted.events]


def test_a_mark_that_stayed_makes_nobody_tell_a_failure_twice(netted: Host) -> None:
    for _ in range(23):
        netted.fail_before(False, errno.EAGAIN)
    for _ in range(23):
        netted.fail_before(False, errno.EAGAIN)
        netted.fail_at_return(errno.EAGAIN)

    assert {"failures": 46, "sampled": 46} == netted.stats


def test_where_the_return_is_not_followed_no_mark_is_left(netted: Host) -> None:
    netted.let(is_unreturned=1)
    netted.fail_before(False, errno.EAGAIN)
    netted.let(is_unreturned=0)
    netted.fail_at_return(errno.EAGAIN)

    assert {"failures": 2, "sampled": 2} == netted.stats


def test_before_all_is_in_place_no_mark_is_left(netted: Host) -> None:
    netted.let(phase=OFF)
    netted.fail_before(False, errno.EAGAIN)
    netted.let(phase=COUNTING)
    netted.fail_at_return(errno.EAGAIN)

    assert {"failures": 1, "sampled": 1} == netted.stats


def test_a_fork_in_whose_end_the_counting_begins_is_not_told_without_its_step(
    netted: Host,
) -> None:
    netted.let(phase=MARKING)
    netted.refuse("alloc_pid", errno.EAGAIN)
    netted.fail_before(False, errno.EAGAIN)
    netted.let(phase=COUNTING)
    netted.fail_at_return(errno.EAGAIN)

    assert {} == netted.stats


@pytest.mark.parametrize("phase", [ALONE, COUNTING, DETAILED])
def test_in_whichever_phase_it_counts_a_failure_that_both_see_is_told_once(
    netted: Host, phase: int
) -> None:
    netted.let(phase=phase)
    netted.fail_before(False, errno.EAGAIN)
    netted.fail_at_return(errno.EAGAIN)

    assert {"failures": 1, "sampled": 1} == netted.stats


def test_flags_that_were_not_to_be_had_are_told_as_unknown(netted: Host) -> None:
    netted.fail_at_return(errno.EAGAIN, events.FLAGS_UNKNOWN | 0x100)
    (event,) = netted.events

    assert (None, ("unknown",)) == (event.key.creates, events.flag_names(event.flags))


@pytest.mark.parametrize("bit", range(32, 64))
def test_a_flag_that_nobody_knows_is_no_unknown_one(netted: Host, bit: int) -> None:
    netted.fail_at_return(errno.EAGAIN, 1 << bit)
    (event,) = netted.events

    assert ("process", 1 << bit) == (event.key.creates, event.flags)


@pytest.mark.parametrize("seen_by", SEEN_BY)
def test_what_a_filter_answered_is_told_by_one_of_two_programs(
    early: Host, seen_by: tuple[bool, ...]
) -> None:
    early.configure(watches_early=1, watches_twice=1)
    early.let(is_supervised=1)
    for is_second in seen_by:
        early.exit(-errno.EPERM, is_second=is_second)

    assert ["seccomp"] == early.blamed
    assert {"failures": 1, "sampled": 1, "before_fork": 1} == early.stats


@pytest.mark.parametrize("seen_by", SEEN_BY)
def test_what_copy_process_told_neither_of_two_programs_tells_again(
    early: Host, seen_by: tuple[bool, ...]
) -> None:
    early.configure(watches_early=1, watches_twice=1)
    early.enter()
    early.fail(errno.EAGAIN)
    for is_second in seen_by:
        early.exit(-errno.EAGAIN, is_second=is_second)

    assert {"failures": 1, "sampled": 1} == early.stats


@pytest.mark.parametrize("is_supervised", [0, 1])
@pytest.mark.parametrize("error", [errno.EAGAIN, errno.EPERM])
def test_a_call_that_reached_copy_process_is_counted_there_and_not_again(
    early: Host, is_supervised: int, error: int
) -> None:
    early.let(is_supervised=is_supervised)
    early.enter()
    early.refuse("security_task_alloc", error)
    early.fail(error)
    early.exit(-error)

    assert ["security_task_alloc"] == early.blamed
    assert {"failures": 1, "sampled": 1} == early.stats
    assert (0, 0) == (early.open_refusals, early.open_calls)


@pytest.mark.parametrize(
    ("setting", "error", "stat"),
    [
        ({}, ERESTARTNOINTR, "restarted"),
        ({"is_dying": 1}, errno.ENOMEM, "killed"),
        ({"is_filtered_out": 1}, errno.EAGAIN, "filtered"),
    ],
)
def test_what_copy_process_counted_apart_is_not_counted_again_at_the_exit(
    early: Host, setting: dict[str, int], error: int, stat: str
) -> None:
    early.let(is_supervised=1, **setting)
    early.enter()
    early.fail(error)
    early.exit(-error)

    assert {stat: 1} == early.stats
    assert 0 == early.open_calls


@pytest.mark.parametrize("step", ["clone_args", "kernel_clone"])
@pytest.mark.parametrize("is_supervised", [0, 1])
def test_a_call_refused_before_copy_process_has_its_own_step(
    early: Host, step: str, is_supervised: int
) -> None:
    early.let(is_supervised=is_supervised)
    early.enter()
    if step == "clone_args":
        early.refuse("clone_args", errno.EINVAL)
    early.exit(-errno.EINVAL, 0x10000)

    event = only(early.events)

    assert [step] == early.blamed
    assert (step == "clone_args") == event.key.is_observed
    assert event.key.is_thread
    assert {"failures": 1, "sampled": 1, "before_fork": 1} == early.stats
    assert 0 == early.judged[0]
    assert (0, 0) == (early.open_refusals, early.open_calls)


def test_a_fork_whose_return_no_program_saw_is_told_by_its_step_at_the_call_s_end(
    early: Host,
) -> None:
    early.configure(watches_early=1, notes_attempts=1)
    early.enter()
    early.let(is_noted=1)
    early.refuse("cgroup_can_fork", errno.EACCES)
    early.exit(-errno.EACCES)

    assert ["cgroup_can_fork"] == early.blamed
    assert only(early.events).key.is_observed
    assert {"failures": 1, "sampled": 1} == early.stats
    assert (0, 0) == (early.open_refusals, early.open_calls)


def test_a_fork_whose_return_no_program_saw_is_judged_by_the_state(early: Host) -> None:
    early.configure(watches_early=1, notes_attempts=1)
    early.judging("threads")
    early.enter()
    early.let(is_noted=1)
    early.refuse("alloc_pid", errno.ENOMEM)  # not of this error
    early.exit(-errno.EAGAIN)
    early.enter()
    early.exit(-errno.EINVAL)

    assert ["copy_process", "kernel_clone"] == early.blamed
    assert [{"copies-mm", "threads"}, set()] == [event.key.fits for event in early.events]
    assert {"failures": 2, "sampled": 2, "before_fork": 1} == early.stats


def test_a_fork_that_went_through_unseen_is_not_taken_for_the_next_call(early: Host) -> None:
    early.configure(watches_early=1, notes_attempts=1)
    early.let(is_noted=1)
    early.refuse("alloc_pid", errno.EINVAL)
    early.enter()
    early.exit(-errno.EINVAL)

    assert ["kernel_clone"] == early.blamed
    assert {"failures": 1, "sampled": 1, "before_fork": 1, "unreturned": 1} == early.stats


def test_another_step_s_refusal_is_not_blamed_for_an_early_one(early: Host) -> None:
    early.enter()
    early.refuse("alloc_pid", errno.EINVAL)
    early.exit(-errno.EINVAL)

    assert ["kernel_clone"] == early.blamed
    assert 0 == early.open_refusals


@pytest.mark.parametrize("is_supervised", [0, 1])
@pytest.mark.parametrize("has_begun", [False, True])
def test_an_early_refusal_keeps_its_step_without_a_slot_for_its_numbers(
    early: Host, is_supervised: int, has_begun: bool
) -> None:
    early.let(refusal_room=0, is_supervised=is_supervised)
    if has_begun:
        early.enter()
    early.exit(-errno.EPERM)

    if not (has_begun or is_supervised):
        assert {"untracked": 1} == early.stats
    else:
        assert ["kernel_clone" if has_begun else "seccomp"] == early.blamed


@pytest.mark.parametrize("result", [0, 1, 4194304, -4096, -(1 << 40)])
def test_a_call_that_succeeds_counts_nothing_and_leaves_nothing(early: Host, result: int) -> None:
    early.enter()
    early.exit(result)

    assert ({}, {}, 0) == (early.stats, early.counts, early.open_calls)


@pytest.mark.parametrize("number", range(512, 517))
def test_a_restart_that_copy_process_did_not_see_is_no_failure(early: Host, number: int) -> None:
    early.enter()
    early.exit(-number)

    assert ({}, {}, 0) == (early.stats, early.counts, early.open_calls)


def test_a_call_without_a_slot_is_said_so(early: Host) -> None:
    early.let(call_room=0)
    early.enter()
    early.exit(-errno.EINVAL)

    assert {"untracked": 2} == early.stats
    assert {} == early.counts


@pytest.mark.parametrize("phase", [OFF, MARKING])
def test_before_counting_begins_an_early_refusal_is_not_counted(early: Host, phase: int) -> None:
    early.let(phase=phase)
    early.enter()
    early.exit(-errno.EINVAL)

    assert ({}, {}, 0, 0) == (early.stats, early.counts, early.open_calls, early.open_refusals)


def test_a_call_that_began_while_the_programs_were_attached_is_known(early: Host) -> None:
    early.let(phase=MARKING, is_supervised=1)
    early.enter()
    early.let(phase=COUNTING)
    early.exit(-errno.EINVAL)

    assert ["kernel_clone"] == early.blamed


def test_without_the_wish_for_early_refusals_no_call_is_noted(host: Host) -> None:
    host.fail(errno.EAGAIN)

    assert 0 == host.open_calls


def test_a_vfork_waits_in_its_call_while_another_thread_fails(early: Host) -> None:
    early.let(thread=1)
    early.enter()
    early.let(thread=2, is_supervised=1)
    early.exit(-errno.EPERM)
    early.let(thread=1)
    early.exit(4242)

    assert ["seccomp"] == early.blamed
    assert 0 == early.open_calls


@pytest.mark.parametrize("error", [errno.EAGAIN, errno.EINVAL, errno.EPERM])
@pytest.mark.parametrize("is_supervised", [0, 1])
def test_in_the_lowest_attach_a_failed_call_is_judged_by_the_state_with_nothing_watched(
    lowest: Host, error: int, is_supervised: int
) -> None:
    lowest.configure(watched=0b110, watched_in_detail=0b1110)
    lowest.judging("threads")
    lowest.let(is_supervised=is_supervised)
    lowest.enter()
    lowest.exit(-error, CLONE_VM)

    assert (1, error, CLONE_VM, 0) == lowest.judged
    assert ["copy_process"] == lowest.blamed
    assert {"threads"} == only(lowest.counts).fits
    assert not only(lowest.counts).is_observed
    assert {"failures": 1, "sampled": 1} == lowest.stats
    assert (0, 0) == (lowest.open_refusals, lowest.open_calls)


def test_in_the_lowest_attach_a_call_that_began_before_us_is_judged_all_the_same(
    lowest: Host,
) -> None:
    lowest.exit(-errno.EAGAIN)

    assert ["copy_process"] == lowest.blamed
    assert {"failures": 1, "sampled": 1} == lowest.stats


@pytest.mark.parametrize("asks_tid", [False, True])
def test_in_the_lowest_attach_a_number_that_was_asked_for_stands_beside_what_the_state_says(
    lowest: Host, asks_tid: bool
) -> None:
    lowest.judging("flags")
    lowest.enter()
    lowest.exit(-errno.EINVAL, CLONE_VM, asks_tid)

    assert {"flags"} | ({"asked-tid"} if asks_tid else set()) == only(lowest.counts).fits
    assert 1 == lowest.judged[0]


def test_in_the_lowest_attach_a_number_that_was_asked_for_needs_room_to_be_kept(
    lowest: Host,
) -> None:
    lowest.let(refusal_room=0)
    lowest.exit(-errno.EINVAL, asks_tid=True)

    # Nobody looked: that is said, and nobody is blamed.
    assert frozenset({"unjudged"}) == only(lowest.counts).fits
    assert 1 == lowest.stats["failures"]


def test_what_the_upper_attach_modes_count_at_the_exit_asks_for_no_number(early: Host) -> None:
    early.enter()
    early.exit(-errno.EINVAL, asks_tid=True)

    assert ["kernel_clone"] == early.blamed
    assert frozenset() == only(early.counts).fits


def test_in_the_lowest_attach_a_filter_s_answer_is_told_and_not_judged(lowest: Host) -> None:
    lowest.let(is_supervised=1)
    lowest.exit(-errno.EPERM)

    assert ["seccomp"] == lowest.blamed
    assert 0 == lowest.judged[0]


@pytest.mark.parametrize(
    ("setting", "error", "stat"),
    [
        ({}, ERESTARTNOINTR, "restarted"),
        ({"is_dying": 1}, errno.ENOMEM, "killed"),
        ({"is_filtered_out": 1}, errno.EAGAIN, "filtered"),
    ],
)
def test_in_the_lowest_attach_what_is_no_failure_of_interest_is_counted_apart(
    lowest: Host, setting: dict[str, int], error: int, stat: str
) -> None:
    lowest.let(**setting)
    lowest.enter()
    lowest.exit(-error)

    assert {stat: 1} == lowest.stats
    assert ({}, 0, 0) == (lowest.counts, lowest.open_refusals, lowest.open_calls)


def test_a_worker_that_the_kernel_could_not_make_hides_no_later_call(early: Host) -> None:
    early.who("iou", syscall="kernel")
    early.fail(errno.EAGAIN)
    early.who("iou")
    early.let(is_supervised=1)
    early.exit(-errno.EPERM)

    assert ["copy_process", "seccomp"] == early.blamed
    assert 0 == early.open_calls


@pytest.fixture(params=["early", "lowest"])
def answered(request: pytest.FixtureRequest) -> Host:
    """A thread whose clone3 a filter has answered with ENOSYS, in either attach mode."""
    host: Host = request.getfixturevalue(request.param)
    host.who("cc1", syscall="clone3")
    host.let(is_supervised=1)
    host.exit(-errno.ENOSYS, CLONE_THREAD)
    return host


@pytest.mark.parametrize("syscall", ["clone", "fork", "vfork"])
def test_a_fallback_that_goes_through_is_no_failure(answered: Host, syscall: str) -> None:
    assert ({}, 1) == (answered.counts, answered.open_pending)
    answered.call_next(syscall)
    answered.who("cc1", syscall=syscall)
    answered.enter()
    answered.exit(4000)

    assert ({}, {}, [], 0, 0) == (
        *(answered.stats, answered.counts, answered.events),
        *(answered.open_pending, answered.open_calls),
    )


def test_a_fallback_that_is_refused_as_well_is_told_once_for_its_own_reason(answered: Host) -> None:
    answered.call_next("clone")
    answered.who("cc1", syscall="clone")
    answered.exit(-errno.EPERM, CLONE_THREAD)

    key = only(answered.counts)

    assert ("clone", errno.EPERM, ["seccomp"]) == (key.syscall, key.error, answered.blamed)
    assert 1 == answered.stats["failures"]


@pytest.mark.parametrize("seen_by", SEEN_BY)
def test_a_fallback_that_one_of_two_programs_was_left_out_of_is_told_once(
    early: Host, seen_by: tuple[bool, ...]
) -> None:
    early.configure(watches_early=1, watches_twice=1)
    early.let(is_supervised=1)
    for syscall, error in (("clone3", errno.ENOSYS), ("clone", errno.EPERM)):
        early.who("cc1", syscall=syscall)
        for is_second in seen_by:
            early.end(syscall, -error, is_second)
    early.call_next("kernel")

    key = only(early.counts)

    assert ("clone", errno.EPERM, ["seccomp"]) == (key.syscall, key.error, early.blamed)
    assert (1, 0) == (early.stats["failures"], early.open_pending)


@pytest.mark.parametrize("syscall", ["clone3", "kernel"])
def test_enosys_without_a_fallback_is_a_failure(answered: Host, syscall: str) -> None:
    answered.call_next(syscall)

    key = only(answered.counts)

    assert ("clone3", errno.ENOSYS, ["seccomp"]) == (key.syscall, key.error, answered.blamed)
    assert key.is_thread
    assert (1, 0) == (answered.stats["failures"], answered.open_pending)


def test_of_another_thread_no_call_is_a_fallback(answered: Host) -> None:
    answered.let(thread=1)
    answered.call_next("clone")

    assert (1, {}) == (answered.open_pending, answered.stats)


def test_enosys_that_cannot_wait_is_told_at_once(early: Host) -> None:
    early.who("cc1", syscall="clone3")
    early.let(is_supervised=1, pending_room=0)
    early.exit(-errno.ENOSYS)

    assert (["seccomp"], 0) == (early.blamed, early.open_pending)


def test_enosys_of_a_kernel_without_clone3_waits_as_well(lowest: Host) -> None:
    lowest.who("cc1", syscall="clone3")
    lowest.enter()
    lowest.exit(-errno.ENOSYS)
    lowest.call_next("kernel")

    assert (["copy_process"], {errno.ENOSYS}) == (
        lowest.blamed,
        {key.error for key in lowest.counts},
    )


# Stacks of threads.


@pytest.mark.parametrize("step", ["mmap", "mprotect"])
def test_a_stack_that_could_not_be_had_is_a_thread_that_never_was(host: Host, step: str) -> None:
    host.refuse_stack(step, errno.ENOMEM, "stack-mappings")

    event = only(host.events)

    assert [step] == host.blamed
    assert (step, "stack-mappings") == (event.key.syscall, event.key.detail)
    assert event.key.is_thread
    assert event.key.is_observed
    assert {"stack_bytes": 8392704} == event.numbers
    assert {"failures": 1, "sampled": 1, "before_fork": 1} == host.stats
    assert (0, 0) == (host.open_refusals, host.judged[0])


def test_a_stack_without_a_slot_for_its_numbers_keeps_its_step(host: Host) -> None:
    host.let(refusal_room=0)
    host.refuse_stack("mprotect", errno.ENOMEM, "stack-commit")

    event = only(host.events)

    assert (["mprotect"], "", {}) == (host.blamed, event.key.detail, event.numbers)


@pytest.mark.parametrize("setting", [{"is_dying": 1}, {"is_filtered_out": 1}, {"phase": MARKING}])
def test_a_stack_of_no_interest_is_no_failure(host: Host, setting: dict[str, int]) -> None:
    host.let(**setting)
    host.refuse_stack("mmap", errno.ENOMEM)

    assert ({}, 0) == (host.counts, host.open_refusals)
    assert "failures" not in host.stats
    assert "before_fork" not in host.stats


@pytest.mark.parametrize(
    ("setting", "error", "stat"),
    [
        ({}, ERESTARTNOINTR, "restarted"),
        ({"is_dying": 1}, errno.ENOMEM, "killed"),
        ({"is_filtered_out": 1}, errno.EAGAIN, "filtered"),
    ],
)
@pytest.mark.parametrize("is_refused", [False, True])
def test_what_is_no_failure_of_interest_is_counted_apart_and_leaves_nothing(
    host: Host, setting: dict[str, int], error: int, stat: str, is_refused: bool
) -> None:
    host.let(**setting)
    if is_refused:
        host.refuse("__vm_enough_memory", error)
    host.fail(error)

    assert {stat: 1} == host.stats
    assert {} == host.counts
    assert [] == host.events
    assert 0 == host.open_refusals


def test_a_refusal_whose_errno_does_not_fit_is_not_blamed(host: Host) -> None:
    host.judging("threads")
    host.refuse("__vm_enough_memory", errno.ENOMEM, "overcommit-never", "pages_asked", 23)
    host.fail(errno.EAGAIN)

    event = only(host.events)

    assert "copy_process" == steps.name_of(event.key.step)
    assert "threads" in event.key.fits
    assert "" == event.key.detail
    assert not event.key.is_observed
    assert {"nr_threads": 97} == event.numbers
    assert {"failures": 1, "sampled": 1, "mismatch": 1} == host.stats


def test_before_all_programs_are_attached_nothing_is_kept_or_counted(host: Host) -> None:
    host.let(phase=0)

    assert not host.refuse("alloc_pid", errno.EAGAIN)
    host.fail(errno.EAGAIN)
    assert ({}, {}, 0) == (host.stats, host.counts, host.open_refusals)


def test_a_refusal_under_way_when_counting_begins_is_blamed(host: Host) -> None:
    host.let(phase=1)
    host.refuse("alloc_pid", errno.EAGAIN)
    host.let(phase=2)
    host.fail(errno.EAGAIN)

    assert "alloc_pid" == events.step_name(only(host.counts))


def test_a_refusal_of_an_uncounted_attempt_is_not_blamed_for_a_later_one(host: Host) -> None:
    host.let(phase=1)
    host.refuse("alloc_pid", errno.EAGAIN)
    host.fail(errno.EAGAIN)
    host.let(phase=2)
    host.fail(errno.EAGAIN)

    assert "copy_process" == events.step_name(only(host.counts))
    assert {"failures": 1, "sampled": 1} == host.stats


@pytest.mark.parametrize("error", [errno.ENOMEM, errno.EAGAIN, ERESTARTNOINTR])
@pytest.mark.parametrize("room", [0, 16])
def test_a_refusal_is_dropped_with_its_attempt(host: Host, error: int, room: int) -> None:
    host.refuse("__vm_enough_memory", errno.ENOMEM)
    host.let(event_room=room, tally_room=room)
    host.fail(error)
    host.fail(errno.ENOMEM)

    assert 0 == host.open_refusals
    assert all(key.step == STEP["copy_process"] for key in host.counts if not key.is_observed)
    assert sum(host.overflowed.values()) == host.stats.get("overflowed", 0)


def test_a_refusal_of_one_attempt_is_not_blamed_in_the_next(host: Host) -> None:
    host.refuse("__vm_enough_memory", errno.ENOMEM)
    host.fail(errno.ENOMEM)
    host.fail(errno.ENOMEM)

    blamed = [steps.name_of(event.key.step) for event in host.events]

    assert ["__vm_enough_memory", "copy_process"] == blamed


def test_of_two_refusals_in_one_attempt_the_later_counts(host: Host) -> None:
    host.refuse("__vm_enough_memory", errno.EAGAIN, "overcommit-never", "pages_asked", 23)
    host.refuse("alloc_pid", errno.EAGAIN, "pidns-alive", "pid_max", 97)
    host.fail(errno.EAGAIN)

    event = only(host.events)

    assert "alloc_pid" == steps.name_of(event.key.step)
    assert {"pid_max": 97} == event.numbers


def test_two_threads_do_not_mix(host: Host) -> None:
    host.let(thread=1)
    host.refuse("dup_fd", errno.EMFILE, number="nr_open", value=1)
    host.let(thread=2)
    host.refuse("alloc_pid", errno.EAGAIN, number="pid_max", value=2)
    host.let(thread=1)
    host.fail(errno.EMFILE)
    host.let(thread=2)
    host.fail(errno.EAGAIN)

    seen = [(e.tid, steps.name_of(e.key.step), e.numbers) for e in host.events]

    assert [(4001, "dup_fd", {"nr_open": 1}), (4002, "alloc_pid", {"pid_max": 2})] == seen
    assert "mismatch" not in host.stats


@pytest.mark.parametrize(("flags", "is_thread"), [(CLONE_THREAD, True), (0x100, False)])
def test_a_thread_is_told_from_a_process(host: Host, flags: int, is_thread: bool) -> None:
    host.fail(errno.EAGAIN, flags)

    event = only(host.events)

    assert is_thread == event.key.is_thread
    assert flags == event.flags


def test_a_sent_event_holds_nothing_of_what_its_memory_held_before(host: Host) -> None:
    host.fail(errno.EINVAL)

    event = only(host.events)

    assert ("", 0, 0, ()) == (event.parent_comm, event.ppid, event.flags, event.user_frames)
    assert 100 * SECOND_NS == event.time_ns


def test_the_count_is_exact_beyond_the_sampling_rate(host: Host) -> None:
    for _ in range(1000):
        host.fail(errno.EAGAIN)

    assert events.Tally(count=1000, unsampled=950) == only(host.tallies.values())
    assert {"failures": 1000, "sampled": 50, "rate_limited": 950} == host.stats
    assert 50 == len(host.events)


def test_the_next_second_samples_again(host: Host) -> None:
    for _ in range(60):
        host.fail(errno.EAGAIN)
    host.pass_ns(SECOND_NS - 1)
    host.fail(errno.EAGAIN)
    before = len(host.events)
    host.pass_ns(1)
    host.fail(errno.EAGAIN)

    assert (50, 51) == (before, len(host.events))
    assert 62 == only(host.counts.values())


def test_each_key_has_a_rate_of_its_own(host: Host) -> None:
    host.sampling(3)
    for comm in ("sh", "make"):
        host.who(comm)
        for _ in range(5):
            host.fail(errno.EAGAIN)

    sampled = Counter(event.key.comm for event in host.events)

    assert {"sh": 3, "make": 3} == sampled
    assert {"sh": 5, "make": 5} == {key.comm: count for key, count in host.counts.items()}


def storm(host: Host, names: int, rounds: int, error: int = errno.EAGAIN) -> Counter[str]:
    """Let so many commands fail in turn, and return how often each was sampled in all."""
    for _ in range(rounds):
        for number in range(names):
            host.who(f"storm-{number}")
            host.fail(error)
    return Counter(event.key.comm for event in host.events)


def test_many_commands_of_one_kind_share_a_rate(host: Host) -> None:
    host.sampling(3)

    # A burst of 8 times 3, 3 of each; then 6 a second.
    assert {f"storm-{number}": 3 for number in range(8)} == storm(host, 8, 10)
    host.pass_ns(SECOND_NS)
    assert 24 + 6 == sum(storm(host, 8, 10).values())
    assert {f"storm-{number}": 20 for number in range(8)} == {
        key.comm: count for key, count in host.counts.items()
    }
    host.pass_ns(100 * SECOND_NS)
    assert 24 + 6 + 24 == sum(storm(host, 8, 10).values())


def test_a_quiet_command_is_sampled_in_the_midst_of_a_storm_of_its_kind(host: Host) -> None:
    host.sampling(3)
    storm(host, 8, 10)
    host.who("quiet")
    host.fail(errno.EAGAIN)

    assert "quiet" == host.events[-1].key.comm


@pytest.mark.parametrize(
    ("eighths", "comm", "error", "expected"),
    [
        (3, "storm-0", errno.EAGAIN, True),
        (4, "storm-0", errno.EAGAIN, False),
        (5, "quiet", errno.EAGAIN, True),
        (6, "quiet", errno.EAGAIN, False),
        (7, "quiet", errno.ENOMEM, True),
    ],
)
def test_a_reader_that_falls_behind_still_finds_room_for_what_is_quiet(
    host: Host, eighths: int, comm: str, error: int, expected: bool
) -> None:
    host.pass_ns(100 * SECOND_NS)
    host.sampling(3)
    storm(host, 1, 1)
    host.let(crowding=eighths)
    before = len(host.events)
    host.who(comm)
    host.fail(error)

    assert expected == len(host.events) - before
    assert "lost" not in host.stats


def test_of_very_many_commands_not_even_each_is_sampled(host: Host) -> None:
    host.sampling(3)

    assert {f"storm-{number}": 1 for number in range(48)} == storm(host, 60, 1)
    assert {1} == set(host.counts.values())


def test_another_errno_has_a_rate_of_its_own(host: Host) -> None:
    host.sampling(3)
    storm(host, 60, 1)
    host.who("quiet")
    host.fail(errno.ENOMEM)

    assert "quiet" == host.events[-1].key.comm


def test_nothing_is_sampled_at_a_rate_of_none(host: Host) -> None:
    host.sampling(0)
    host.fail(errno.EAGAIN)

    assert (0, 1) == (len(host.events), sum(host.counts.values()))


def test_only_the_first_sample_of_a_second_wakes_the_reader(host: Host) -> None:
    for _ in range(10):
        host.fail(errno.EAGAIN)
    first = host.wakes
    host.pass_ns(SECOND_NS)
    host.fail(errno.EAGAIN)

    assert (1, 2) == (first, host.wakes)


def test_keys_beyond_a_full_table_are_folded_by_step_and_none_is_lost(host: Host) -> None:
    host.let(tally_room=1)
    host.fail(errno.EINVAL)
    for _ in range(7):
        host.refuse("alloc_pid", errno.EAGAIN)
        host.fail(errno.EAGAIN)
    host.fail(errno.EINVAL)

    assert {"alloc_pid": 7} == host.overflowed
    assert {"failures": 9, "sampled": 2, "overflowed": 7} == host.stats
    assert 2 == only(host.counts.values())


def flood(host: Host, names: int, uid: int = 1000, cgroup: int = 7) -> None:
    for number in range(names):
        host.who(f"x{number}", uid=uid, cgroup=cgroup)
        host.fail(errno.EAGAIN)


def of(host: Host, uid: int) -> Counter[str | None]:
    """What the exact counters have of a user, by command."""
    found: Counter[str | None] = Counter()
    for key, tally in host.tallies.items():
        if key.uid == uid:
            found[key.command] += tally.count
    return found


def test_one_user_s_names_take_half_of_the_table_and_the_rest_is_counted_as_his(host: Host) -> None:
    host.let(tally_room=64)
    flood(host, 1000)

    counts = of(host, 1000)
    others = only(key for key in host.tallies if key.is_of_others)

    assert {1} == {count for comm, count in counts.items() if comm is not None}
    assert 32 == len(counts) - 1
    assert 1000 - 32 == counts[None]
    assert (1000, 7, errno.EAGAIN, "copy_process") == (
        *(others.uid, others.cgroup_id, others.error),
        events.step_name(others),
    )
    assert {} == host.overflowed


def test_after_a_flood_of_names_another_user_s_failures_are_told_with_command_and_sample(
    host: Host,
) -> None:
    host.let(tally_room=64)
    flood(host, 1000)
    host.who("victim", uid=1001, cgroup=8)
    host.judging("nproc")
    for _ in range(5):
        host.fail(errno.EAGAIN)

    seen = [event for event in host.events if event.key.comm == "victim"]

    assert {"victim": 5} == of(host, 1001)
    assert [(1001, 8, frozenset({"nproc", "copies-mm"}))] * 5 == [
        (event.key.uid, event.key.cgroup_id, event.key.fits) for event in seen
    ]


def test_the_same_user_in_another_cgroup_finds_room_too(host: Host) -> None:
    host.let(tally_room=64)
    flood(host, 1000, uid=0, cgroup=7)
    flood(host, 1000, uid=0, cgroup=8)
    host.who("victim", uid=0, cgroup=9)
    host.fail(errno.EAGAIN)

    assert 1 == of(host, 0)["victim"]


@pytest.mark.parametrize("varied", ["users", "cgroups"])
def test_who_has_many_users_or_cgroups_leaves_room_for_others(host: Host, varied: str) -> None:
    host.let(tally_room=256)
    for number in range(3000):
        host.who(
            f"x{number}",
            uid=1000 + (number % 500 if varied == "users" else 0),
            cgroup=7 + (number % 500 if varied == "cgroups" else 0),
        )
        host.fail(errno.EAGAIN)
    used = len(host.tallies)
    host.who("victim", uid=5, cgroup=6)
    host.fail(errno.EAGAIN)

    assert used <= 256 * 16 // 17 + 1
    assert {"victim": 1} == of(host, 5)
    assert 3001 == sum(host.counts.values()) + sum(host.overflowed.values())


def test_what_has_no_room_apart_is_sampled_once_a_second_with_its_command(host: Host) -> None:
    host.let(tally_room=8)
    flood(host, 4)
    before = len(host.events)
    for _ in range(10):
        host.pass_ns(SECOND_NS)
        flood(host, 50)

    seen = [event.key for event in host.events[before:] if event.key.comm not in ("x0", "x1")]
    of_others = [raw for raw in host.counted_under if events.is_of_others(raw)]

    assert 10 <= len(of_others) <= 11
    assert all(key.comm.startswith("x") and key.syscall == "clone" for key in seen)


def test_a_command_without_a_name_is_not_taken_for_others(host: Host) -> None:
    host.who("")
    host.fail(errno.EAGAIN)

    key = only(host.tallies)

    assert ("", False) == (key.command, key.is_of_others)


def test_what_is_taken_out_of_the_table_makes_room_and_each_generation_is_counted_apart(
    host: Host,
) -> None:
    host.let(tally_room=64)
    host.who("x" * 15, uid=7)
    host.fail(errno.EAGAIN)
    first = only(host.tallies)
    host.lib.host_harvest()
    assert {} == host.tallies
    host.fail(errno.EAGAIN)

    assert first == only(host.tallies)
    assert {"x" * 15: 1} == of(host, 7)
    for _ in range(3):
        flood(host, 100)
        assert 32 == len([key for key in host.tallies if key.uid == 1000 and not key.is_of_others])
        host.lib.host_harvest()
    assert {} == host.tallies


def test_a_full_ring_loses_samples_but_no_count(host: Host) -> None:
    host.let(event_room=3)
    for _ in range(10):
        host.fail(errno.EAGAIN)

    assert {"failures": 10, "sampled": 3, "lost": 7} == host.stats
    assert events.Tally(count=10, unsampled=7) == only(host.tallies.values())


def test_a_refusal_without_a_slot_is_said_so_and_its_failure_is_counted(host: Host) -> None:
    host.let(refusal_room=0)

    kept = host.refuse("__vm_enough_memory", errno.ENOMEM)
    host.fail(errno.ENOMEM)

    assert not kept
    assert {"failures": 1, "sampled": 1, "untracked": 1} == host.stats
    assert {"copy_process": 1} == {
        steps.name_of(key.step): count for key, count in host.counts.items()
    }


def test_a_thread_keeps_its_slot_when_the_map_is_full(host: Host) -> None:
    host.let(refusal_room=1)
    host.refuse("dup_fd", errno.EMFILE)

    assert host.refuse("alloc_pid", errno.EAGAIN)
    assert 1 == host.open_refusals


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("attach", ["upper", "upper with --refused", "lowest"])
def test_whatever_happens_every_failure_is_in_exactly_one_counter(
    host: Host, seed: int, attach: str
) -> None:
    chance = random.Random(seed)
    host.sampling(chance.randrange(5))
    host.configure(watches_early=attach == "upper with --refused", is_by_syscall=attach == "lowest")
    host.let(
        tally_room=chance.randrange(1, 9),
        event_room=chance.randrange(300),
        refusal_room=chance.randrange(5),
    )
    calls = 0
    for _ in range(1500):
        host.let(
            thread=chance.randrange(4),
            phase=chance.choice([ALONE, COUNTING, DETAILED]),
            candidates=chance.randrange(4),
            is_supervised=chance.random() < 0.5,
            is_dying=chance.random() < 0.1,
            is_filtered_out=chance.random() < 0.1,
        )
        host.who(chance.choice(["sh", "make", "java"]))
        host.pass_ns(chance.choice([0, 1000, SECOND_NS // 3]))
        error = chance.choice([errno.EAGAIN, errno.ENOMEM, errno.EINVAL, ERESTARTNOINTR])
        flags = chance.choice([0, CLONE_THREAD])
        if attach != "upper":
            host.enter()
        if attach != "lowest":
            if chance.random() < 0.2:
                host.refuse_memory_cgroup()
            if chance.random() < 0.6:
                host.refuse(
                    chance.choice([step.name for step in WATCHED]),
                    chance.choice([errno.EAGAIN, errno.ENOMEM]),
                )
            if chance.random() < 0.3:
                host.refuse_outer("dup_mmap", "ldt_dup_context", errno.ENOMEM)
        reaches = attach != "lowest" and chance.random() < 0.7
        if reaches:
            host.fail(error, flags)
        if attach != "upper":
            host.exit(-error, flags)
        # A restart that never came to copy_process is counted nowhere: the caller calls again.
        calls += reaches or attach == "lowest"
        calls += attach == "upper with --refused" and not reaches and error != ERESTARTNOINTR
    stats: Counter[str] = Counter(host.stats)

    failures = stats["failures"]
    unsampled = sum(tally.unsampled for tally in host.tallies.values())

    assert (
        failures == stats["sampled"] + stats["lost"] + stats["rate_limited"] + stats["overflowed"]
    )
    assert failures == sum(host.counts.values()) + sum(host.overflowed.values())
    assert unsampled == stats["lost"] + stats["rate_limited"]
    sampled = Counter(events.decode_key(raw) for raw in host.counted_under)
    for key, tally in host.tallies.items():
        assert tally.count == tally.unsampled + sampled[key]
    assert stats["sampled"] == len(host.events)
    assert calls == failures + stats["restarted"] + stats["killed"] + stats["filtered"]
    assert (attach == "upper with --refused") == bool(stats["before_fork"])
    assert 0 == host.open_calls
