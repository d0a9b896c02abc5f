"""What one cause is: the rules that name it, its numbers, and everything that is said about it.

The causes themselves are in `causes`, one object each; every table of the project is derived from them.
"""

# Without annotations as strings: NamedTuple compiles each of them, and all that watch wait for it.
from collections.abc import Mapping
from typing import Callable, NamedTuple, Optional, Union

from fork_trace.diagnosis.readings import HostReadings, KernelReadings
from fork_trace.model.records import Evidence

# How well a fit speaks for its cause.
REFUSES = "refuses"  # the state would have refused this call
UNREAD = "unread"  # the number that decides could not be read, so that the cause stays possible
ASKED = "asked"  # only what was asked for allows it: it counts where nothing else fits


class Refusal(NamedTuple):
    """A step that was observed refusing -> this cause."""

    step: str  # "": any, then the detail decides
    errno: int = 0  # 0: any that no other cause has at this step
    detail: str = ""  # of events.DETAILS, where the errno alone does not decide


class Fit(NamedTuple):
    """A word of events.FITS for a failed call that no observed step explains -> this cause."""

    errno: int
    word: str  # of FITS or of DETAILS; "": nothing has to fit
    step: str  # which is then blamed
    strength: str = REFUSES
    # Among those that only may be: its place, likeliest first. Those that refuse stand in the
    # order in which the kernel meets their steps; this is their order within one step.
    place: int = 0
    # Blamed instead if `step` is watched and was silent: the kernel asks once more, later.
    later_step: str = ""


class Gauge(NamedTuple):
    """What `check` compares before anything fails."""

    name: str  # the setting
    unit: str  # of what is counted
    compares: str  # a clause


class Remedy(NamedTuple):
    """One thing to do: a sentence, and commands to paste. `advice` fills in what they name in braces."""

    text: str
    commands: tuple[str, ...] = ()


def do(text: str, *commands: str) -> Remedy:
    """Make a remedy; commands are alternatives or steps, as the sentence says."""
    return Remedy(text, commands)


# One, or several by where it happens or by which limit; "" serves all others.
Remedies = Union[Remedy, Mapping[str, Remedy]]


class Cause(NamedTuple):
    """One reason why the kernel refuses a fork."""

    slug: str
    errnos: tuple[str, ...]  # most frequent first; empty: any
    means: str  # a clause
    limit: str  # what was hit, in a few words
    steps: tuple[str, ...]  # that can refuse for it, in the kernel's order
    verify: Remedies
    mitigate: Remedies
    fix: Remedies
    myths: tuple[str, ...]
    # How a failure is put down to it.
    refusals: tuple[Refusal, ...] = ()
    fits: tuple[Fit, ...] = ()
    # Its numbers: the one that decided comes first. None: it has none.
    evidence: Optional[Callable[[KernelReadings, HostReadings], tuple[Evidence, ...]]] = None
    structures: tuple[str, ...] = ()  # of events.MOVED: what they are read from
    reads: str = ""  # what /proc has to add: "overcommit", "threads", "descriptors" or "files"
    pool: str = (
        ""  # what ran out, as `holders` counts it: "cgroup", "host", "pid-namespace", "user"
    )
    # The limit is an ancestor's: what helps depends on where the limiting cgroup runs.
    is_of_cgroup: bool = False
    check: Optional[Gauge] = None
    aliases: tuple[str, ...] = ()  # other names that people look it up by, in small letters
    # The arguments of `fork-trace rehearse` that make it happen; "": there is no rehearsal.
    rehearsal: str = ""
    is_early: bool = False  # some of it never reaches copy_process: `--refused` shows it
    shown_by: str = ""  # how this tool shows it, where that is not by naming it
    # What the remedies risk, how to undo them, and whom to ask first; None: nothing.
    careful: Optional[Remedies] = None

    def remedies(self) -> "tuple[tuple[str, Remedies], ...]":
        """Return what to do by kind, in the order in which it is done."""
        careful = () if self.careful is None else (("careful", self.careful),)
        return ("verify", self.verify), ("mitigate", self.mitigate), ("fix", self.fix), *careful
