"""What both backends have in common: the settings and phases of the programs, and what is done about them.

The settings are struct ft_config of bpf/settings.h; how they reach the programs is each backend's.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Iterable

from fork_trace.model import sizes, steps
from fork_trace.probes.backend import Filter
from fork_trace.probes.config import PHASE_ALONE, PHASE_COUNTING, PHASE_DETAILED, Config
from fork_trace.probes.plan import KILLER, Plan, Probe, Stage

_PHASES = {
    Stage.START: PHASE_ALONE,
    Stage.FAILED: PHASE_COUNTING,
    Stage.UNEXPLAINED: PHASE_DETAILED,
}
# A fork that was refused before the last program was attached has ended by then: most take less than
# 0.1 ms from the refusal to the return; one that has to wait for a CPU in between a few turns.
MARKING_S = 0.05
THREAD_BYTES, ATTEMPT_BYTES = 4, 40  # the map "attempts": struct ft_attempt
# bpf/wire.h: how many owners of keys are told apart, and the byte that marks a key.
SHARES = 1024
COMM_MARK, MARK_GENERATION = sizes.COMM_BYTES - 1, 1
_NR_MEMBARRIER, _MEMBARRIER_CMD_GLOBAL = {"x86_64": 324, "aarch64": 283}, 1
_DRAIN_S = 0.25  # a fork that takes longer to end once nobody watches counts as missed

# A fork of less is cheap, and what it shares is not what fills a host.
_BIG_FORK_BYTES = 64 << 20
_FILTER_PID, _FILTER_UID, _FILTER_COMM, _FILTER_CGROUP = 1, 2, 4, 8


# What each attach mode needs of the kernel, where it refuses the program that counts.
NEEDS = {
    "fexit": "fexit needs BPF trampolines "
    "(CONFIG_FUNCTION_TRACER=y and CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS=y).",
    "kprobe": "kprobe needs CONFIG_KPROBE_EVENTS=y, CONFIG_BPF_EVENTS=y and "
    "/sys/kernel/debug/kprobes/enabled at 1.",
    "tracepoint": "tracepoint needs CONFIG_FTRACE_SYSCALLS=y and CONFIG_BPF_EVENTS=y.",
}


def is_vital(probe: Probe) -> bool:
    """Say whether nothing is counted without this probe; any other can be given up alone."""
    return probe.step == "copy_process" or probe.program in steps.SYSCALL_PROGRAMS


class Later:
    """The probes of a plan that are attached once a fork has failed, and how far that has come."""

    def __init__(self, plan: Plan) -> None:
        # Inner functions before those that call them, so that none of the latter speaks for one.
        self._waiting = [
            [probe for probe in reversed(plan.probes) if probe.stage is stage] for stage in Stage
        ]
        self._is_whole = True  # every probe so far could be attached
        self._stage = Stage.START if self._waiting[Stage.FAILED] else Stage.FAILED
        self.phase = _PHASES[self._stage]

    def attach(
        self,
        stage: Stage,
        attach: Callable[[Probe], str | None],
        give_up: Callable[[Probe, str], None],
        move_to: Callable[[int], None],
    ) -> bool:
        """Attach the next one up to that stage; False once there is no more to do.

        `attach` returns why it cannot be done, and then `give_up` hears of it.
        """
        if self._stage >= stage:
            return False
        following = Stage(self._stage + 1)
        waiting = self._waiting[following]
        if waiting:
            probe = waiting.pop(0)
            reason = attach(probe)
            if reason is not None:
                give_up(probe, reason)
                self._is_whole = False
            return True
        # From now on silence tells: who did not refuse let the caller pass. Not earlier, for a fork
        # under way can have been refused before the last one was in place. If one is lacking,
        # silence never tells.
        self._stage = following
        if self._is_whole and self.phase != _PHASES[following]:
            self.phase = _PHASES[following]
            move_to(self.phase)
        return self._stage < stage

    def forget(self) -> None:
        """Attach none of those that are left."""
        self._stage = Stage.UNEXPLAINED


def _barrier() -> None:
    """Wait until every program that runs now has ended: none of them sleeps, all hold the RCU read lock."""
    libc = ctypes.CDLL(None, use_errno=True)
    number = _NR_MEMBARRIER.get(os.uname().machine)
    # synchronize_rcu(), but not with one CPU or nohz_full (kernel/sched/membarrier.c).
    failed = number is None or libc.syscall(ctypes.c_long(number), _MEMBARRIER_CMD_GLOBAL, 0)
    if failed or os.cpu_count() == 1:
        time.sleep(MARKING_S)


def harvest(
    generation: int,
    move_to: Callable[[int], None],
    tallies: Callable[[], Iterable[tuple[bytes, bytes]]],
    remove: Callable[[bytes], bool],
    write_share: Callable[[int], None],
) -> list[tuple[bytes, bytes]]:
    """Take the keys of a generation out of the table, and return them with their last counts.

    No count can be lost: the programs make the other generation's keys from now on, and those that
    had found one of these have ended before it is read. An element that is taken out is another
    key's at once, so this must not be done to a key that is still counted under.
    """
    move_to(generation ^ 1)
    _barrier()
    old = [pair for pair in tallies() if pair[0][COMM_MARK] & MARK_GENERATION == generation]
    # What cannot be taken out is counted where it is, and taken the next time but one.
    taken = [pair for pair in old if remove(pair[0])]
    for number in range(SHARES):
        write_share(generation * SHARES + number)
    return taken


def drain(under_way: Callable[[], int]) -> int:
    """Let the forks under way end, and count those that do not."""
    deadline_s = time.monotonic() + _DRAIN_S
    while (count := under_way()) and time.monotonic() < deadline_s:
        time.sleep(0.002)
    return count


def fill(
    config: Config, plan: Plan, filter_: Filter, samples_per_second: int, stack_bytes: int = 0
) -> None:
    """Put a plan and what the user asks for into the settings of the programs."""
    if plan.copy_process_range:
        config.copy_process_start, config.copy_process_end = plan.copy_process_range
    for name, address in plan.addresses.items():
        setattr(config, name.lstrip("_"), address)
    if plan.backend == "bcc":
        # Its one program has no room for judging what a step's silence tells, where that can be relied on.
        # The others judge the state whatever was silent; what that is worth, `judge` knows.
        config.watched = plan.watched(Stage.FAILED)
        config.watched_in_detail = plan.watched(Stage.UNEXPLAINED)
    config.watches_mmap = int(any(probe.step == "mmap" for probe in plan.probes))
    sees_calls = any(probe.program == "raw_sys_exit" for probe in plan.probes)
    config.is_by_syscall = int(plan.attach == "tracepoint")
    config.notes_attempts = int(plan.attach == "kprobe")
    config.watches_early = int(plan.attach != "tracepoint" and sees_calls)
    config.watches_twice = int(any(probe.program in steps.SECOND_PROGRAMS for probe in plan.probes))
    config.watches_exec = int(
        sees_calls and not any(probe.step == steps.EXECVE for probe in plan.probes)
    )
    config.blind = plan.blind
    if plan.notes_forks:
        config.big_fork_pages = _BIG_FORK_BYTES // os.sysconf("SC_PAGE_SIZE")
    config.tells_chosen = int(not any(probe.function == KILLER for probe in plan.late))
    config.copies_twice = int(plan.is_copied_twice)
    config.copies_again_at_return = int(
        any(probe.program == steps.COPIED_AGAIN for probe in plan.probes)
    )
    config.seed = int.from_bytes(os.urandom(8), "little")
    config.samples_per_second = samples_per_second
    config.max_map_count = plan.max_map_count or 0
    config.ram_and_swap = plan.ram_and_swap or 0
    config.stack_bytes = -(-stack_bytes // sizes.STACK_CHUNK) * sizes.STACK_CHUNK
    config.page_shift = os.sysconf("SC_PAGE_SIZE").bit_length() - 1
    if filter_.pid is not None:
        config.filter |= _FILTER_PID
        config.filter_pid = filter_.pid
    if filter_.uid is not None:
        config.filter |= _FILTER_UID
        config.filter_uid = filter_.uid
    if filter_.comm is not None:
        config.filter |= _FILTER_COMM
        config.filter_comm = os.fsencode(filter_.comm)[: sizes.COMM_BYTES - 1]
    if filter_.cgroup_id is not None:
        config.filter |= _FILTER_CGROUP
        config.filter_cgroup = filter_.cgroup_id
