"""The libbpf backend: the CO-RE object, loaded and attached according to a plan, from start to end.

Nothing here forks, starts a thread or runs a program: it has to work when the host refuses all three.
"""

from __future__ import annotations

import ctypes
import errno
import time
from dataclasses import replace

from fork_trace import files
from fork_trace.errors import ForkTraceError
from fork_trace.probes.backend import SAMPLES_PER_SECOND, AttachRefusedError, Filter
from fork_trace.probes.config import PHASE_ALONE, PHASE_OFF
from fork_trace.probes.libbpf import gaps
from fork_trace.probes.libbpf.bindings import Library
from fork_trace.probes.libbpf.counters import Counters, missed, step_misses
from fork_trace.probes.libbpf.counting import Counting
from fork_trace.probes.libbpf.loading import Programs, without_execve
from fork_trace.probes.libbpf.rings import Rings
from fork_trace.probes.objects import program
from fork_trace.probes.plan import Plan, Probe, Stage
from fork_trace.probes.settings import MARKING_S, NEEDS, Later, drain, is_vital


def _check(plan: Plan, filter_: Filter) -> None:
    """Refuse to filter by what cannot be read here; ForkTraceError."""
    if filter_.cgroup_id is None or not gaps.is_blind(plan.blind, "cgroup"):
        return
    # Of all that is unread, what the cgroup would be read by; or why nothing is.
    reasons = [gap.reason for gap in plan.unread if gaps.is_blind(gaps.blind([gap.step]), "cgroup")]
    reason = next(iter(reasons), plan.unread[-1].reason)
    raise ForkTraceError(
        f"cannot filter by --cgroup: {reason}", "Use --comm, --uid or --pid instead."
    )


class LibbpfBackend:
    """The CO-RE object, loaded and attached according to a plan."""

    def __init__(
        self,
        library: Library,
        plan: Plan,
        filter_: Filter = Filter(),
        samples_per_second: int = SAMPLES_PER_SECOND,
        stack_bytes: int = 0,
        counting: Counting | None = None,
    ) -> None:
        self._lib = library.lib
        self._counting = counting
        if counting and plan.attach != counting.attach:
            counting.stop()  # none of these can take its place; what it has counted stays
        self._rings: Rings | None = None
        self._stacks: list[bytes] = []
        self._deaths: list[bytes] = []
        self._forks: list[bytes] = []
        self._counters = Counters(library.lib)
        image = files.contents(program("fork_trace.bpf.o"))
        # Each round gives up what this kernel refuses, and says so in the plan: what programs read
        # that it does not have, then one program.
        while True:
            self.plan = plan
            _check(plan, filter_)
            self._later = Later(plan)
            self._programs = Programs(library, counting)
            self._unreturned = 0  # forks under way at the end, which were not seen to return
            self._missed: int | None = None  # once the kprobe events are gone
            self._settles_at_s: float | None = None  # when silence begins to tell
            try:
                code = self._programs.load(image, plan, filter_, samples_per_second, stack_bytes)
                seeing = self._programs.without_readers(plan, code)
                if seeing is not None:
                    self._abandon()
                    plan = seeing
                    continue
                failed = self._arm() if code is None else self._programs.culprit(plan, code)
            except ForkTraceError:
                self._abandon()  # the next attach mode needs what this one holds
                raise
            if failed is None:
                break
            probe, reason = failed
            self._abandon()
            if code is not None and is_vital(probe) and plan.notes_forks:
                plan = replace(plan, notes_forks=False)
                continue
            if code is not None and is_vital(probe) and plan.blind != gaps.ALL:
                # Counting never depends on explaining, whatever the reason.
                plan = without_execve(plan.counting_only(gaps.ALL, reason))
                continue
            if is_vital(probe) or probe not in (*plan.probes, *plan.late):
                raise AttachRefusedError(
                    f"this kernel refuses the program on {probe.function}: {reason}",
                    f"`fork-trace doctor` lists what it offers; {NEEDS[plan.attach]}",
                )
            plan = plan.without_probe(probe.program, reason)
        self.plan = replace(self.plan, unread=self._programs.unread(self.plan))
        self._open_rings()

    def _arm(self) -> tuple[Probe, str] | None:
        """Attach what is not for later; return the probe that the kernel refused and its words, or None."""
        self._counters.open(self._programs.map_fd)
        for probe in self.plan.probes:
            reason = self._programs.attach(probe) if probe.stage is Stage.START else None
            if reason is not None and ctypes.get_errno() in (errno.EMFILE, errno.ENFILE):
                return self._programs.culprit(self.plan, ctypes.get_errno())
            if reason is not None:
                return probe, reason
        for probe in self.plan.late:
            reason = self._programs.attach(probe)
            if reason is not None:
                return probe, reason
        if self._counting and self.plan.is_seen_twice:
            self._counting.missed_alone = self._counting.missed() or 0
        # Counted from now on; what a step's silence says, of forks that begin a moment later.
        self._move_to(PHASE_ALONE)
        self._settles_at_s = time.monotonic() + MARKING_S
        return None

    def _abandon(self) -> None:
        """Free what was loaded and attached in vain; what counts from the start goes on."""
        if self._counting:
            self._counting.take_back()
        self._programs.detach()
        self._programs.remove_kprobe_events()
        self._programs.free()

    def _open_rings(self) -> None:
        try:
            # The samples and forks first: a stack is there before its sample, so none is read without its own.
            self._rings = self._programs.rings("events", "big_forks", "user_stacks", "deaths")
        except ForkTraceError:
            self.close()
            raise

    def attach_more(self, stage: Stage) -> bool:
        """Attach the next of the probes that wait, up to that stage; False once there is no more to do."""
        self._settle()
        return self._later.attach(stage, self._programs.attach, self._give_up, self._move_to)

    def _settle(self) -> None:
        if self._settles_at_s is not None and time.monotonic() >= self._settles_at_s:
            self._settles_at_s = None
            self._move_to(self._later.phase)

    def _give_up(self, probe: Probe, reason: str) -> None:
        self.plan = self.plan.without_probe(probe.program, reason)

    def _move_to(self, phase: int) -> None:
        self._programs.write(".data.phase", phase)

    def _move_generation(self, generation: int) -> None:
        self._programs.write(".data.generation", generation)

    def descriptors(self) -> tuple[int, ...]:
        """Return the ring buffers', which can be read once there are events or deaths."""
        return tuple(self._programs.map_fd(name) for name in ("events", "deaths"))

    def stacks(self) -> list[bytes]:
        """Return the user stacks that came with the events of the last poll, or for the next one."""
        taken, self._stacks = self._stacks, []
        return taken

    def deaths(self) -> list[bytes]:
        """Return what came of the OOM killer's kills with the last poll."""
        taken, self._deaths = self._deaths, []
        return taken

    def forks(self) -> list[bytes]:
        """Return the forks of large parents that came with the last poll."""
        taken, self._forks = self._forks, []
        return taken

    def poll(self, timeout_s: float) -> list[bytes]:
        """Wait for events at most this long and return them, oldest first."""
        self._settle()
        assert self._rings
        taken = self._rings.read(timeout_s)
        self._stacks += taken["user_stacks"]
        self._deaths += taken["deaths"]
        self._forks += taken["big_forks"]
        return taken["events"]

    def tallies(self) -> list[tuple[bytes, bytes]]:
        """Return the exact counters: (struct ft_key, struct ft_tally) pairs."""
        return self._counters.tallies()

    def used(self) -> int:
        """Count the keys of the exact counters; the table takes 8192."""
        return self._counters.used()

    def harvest(self) -> list[tuple[bytes, bytes]]:
        """Take all keys out of the table, with their last counts; each begins anew if it is counted again."""
        return self._counters.harvest(self._move_generation)

    def stats(self) -> dict[str, int]:
        """Return the run's counters by the names of events.STATS."""
        return self._counters.stats()

    def overflowed(self) -> dict[int, int]:
        """Return the counts by step number that found no room among the keys."""
        return self._counters.overflowed()

    def missed(self) -> int | None:
        """Count the calls whose failure may not have been counted; None: the kernel does not count them."""
        if self._missed is not None:
            return self._missed
        unreturned = 0
        if self.plan.attach == "kprobe":
            unreturned = self._unreturned + self.stats()["unreturned"]
        elif self._counting:
            unreturned = self._counting.missed_alone
        programs = self._programs
        return missed(self.plan, programs.misses(), programs.kprobe_events, unreturned)

    def step_misses(self) -> dict[str, int]:
        """Count the calls of each step that its program did not see; their failures are counted all the same."""
        if self.plan.attach == "kprobe":
            return {}  # those are in `missed`
        return step_misses(self.plan, self._programs.misses())

    def detach(self) -> None:
        """Stop watching; what was counted and sampled can still be read."""
        if self._programs.is_attached or (self._counting and self._counting.is_attached):
            # Before the first program goes: none of the others shall see half of a fork.
            self._move_to(PHASE_OFF)
            if self.plan.attach == "kprobe":
                self._unreturned = drain(self._counters.under_way)
        self._programs.detach()
        if self._counting:
            self._counting.detach()
        if self._programs.kprobe_events:
            self._missed = self.missed()
            self._programs.remove_kprobe_events()
        # Attached now, the last of them would start the counting again.
        self._later.forget()

    def close(self) -> None:
        """Detach every program and free every map."""
        self.detach()
        if self._rings:
            self._rings.close()
            self._rings = None
        self._programs.free()
        if self._counting:
            self._counting.close()
