"""The ordered steps of a fork in the kernel which this program can blame, and what each is.

The numbers are the wire's (enum ft_step in bpf/wire.h): the places in bpf/probes.def, of which
`step_table` is made. What a refusal means is the business of `diagnosis`.
"""

from __future__ import annotations

from fork_trace.model import step_table
from fork_trace.model.dataclass import dataclass


@dataclass(frozen=True)
class Watch:
    """A kernel function that tells of a step, and the program that is written for it."""

    function: str
    params: int  # as many as the program expects
    program: str  # in bpf/fork_trace.bpf.c, on its exit
    # A kprobe at its return does not see the arguments any more, and these are needed there.
    keeps_arguments: bool = False
    # Its last parameter's name, where only that tells the form which copy_process calls.
    last_param: str | None = None
    # By value: kernel/bpf/btf.c, btf_distill_func_proto, refuses a program on its exit.
    takes_struct: bool = False

    @property
    def kretprobe(self) -> str:
        """Name the program on its return, for kernels that take no program on its exit."""
        return "kretprobe_" + self.program[len("fexit_") :]

    @property
    def kprobe(self) -> str | None:
        """Name the program on its entry which keeps the arguments for that; None: none are needed."""
        return "kprobe_" + self.program[len("fexit_") :] if self.keeps_arguments else None


@dataclass(frozen=True)
class Step:
    """One step of a fork: before copy_process (kernel/fork.c), in it, or in what it calls."""

    number: int
    ident: str  # FT_STEP_<ident> in bpf/wire.h
    name: str  # in reports
    what: str
    # Of these the first that the running kernel has; none: the test is inline everywhere.
    watches: tuple[Watch, ...] = ()
    # Every fork or every mapping pays for it: attached at the first failure without a reason.
    in_detail: bool = False
    # The ident of the last step inside it, whose refusals it hands on: those have the numbers between.
    last_inner: str = ""


# Where only its last parameter's name tells the form that copy_process calls. Since Linux commit
# a71f402acd71 ("pidfs: get rid of __pidfd_prepare()") (in v6.16), that is pidfd_prepare. Before that, it
# called __pidfd_prepare, which can be inlined: this one is then never called in a fork.
_LAST_PARAMS = {"fexit_pidfd_prepare": "ret_file"}
_TAKING_STRUCTS = ("fexit_vmalloc_area",)  # pgprot_t


def _watch(function: str, params: int, program: str, keeps_arguments: bool) -> Watch:
    takes_struct = program in _TAKING_STRUCTS
    return Watch(
        *(function, params, program, keeps_arguments), _LAST_PARAMS.get(program), takes_struct
    )


STEPS: tuple[Step, ...] = tuple(
    Step(number, ident, name, what, tuple(_watch(*probe) for probe in probes), in_detail, last)
    for number, (ident, name, what, probes, in_detail, last) in enumerate(step_table.STEPS)
)

BY_NUMBER = {step.number: step for step in STEPS}
BY_NAME = {step.name: step for step in STEPS}

# Functions that the compiler can put into their caller and emit all the same: where it did, their
# program never runs, and its silence proves nothing. kernel/fork.c has pidfd_prepare for others too, as
# Debian's 6.12 does; kernel/cred.c has set_cred_ucounts, which Debian's 6.1 has inside copy_creds.
MAY_BE_INLINED = ("pidfd_prepare", "set_cred_ucounts")
# Of these a program sees some refusals and not others; its silence proves nothing either.
SEEN_IN_PART = ("dup_task_struct",)

# Not a step, but why several of them fail: a charge to a memory cgroup that nothing could make room
# for (mm/memcontrol.c, mem_cgroup_out_of_memory).
MEMORY_CGROUP = _watch(*step_table.MEMORY_CGROUP)

# Not steps either: what tells that the steps of namespaces refused an unshare (kernel/nsproxy.c,
# kernel/user_namespace.c). Nothing but unshare calls them.
UNSHARED = (
    Watch("unshare_nsproxy_namespaces", 4, "fexit_unshare_namespaces"),
    Watch("unshare_userns", 2, "fexit_unshare_userns"),
)

# The ways to call execve (fs/exec.c; arch/x86/include/asm/syscall_wrapper.h): a step that is watched in all
# of them, and not in the first that there is. A 32-bit call's program goes on to that of the machine's own.
EXECVE = "execve"
_EXECVE_64 = ("__x64_sys_execve", "__arm64_sys_execve")
_EXECVE_32 = ("__ia32_compat_sys_execve", "__arm64_compat_sys_execve")
EXECVES = tuple(
    Watch(function, 1, f"fexit_{function}")
    for name in (*_EXECVE_64, *_EXECVE_32)
    for function in (name, f"{name}at")
)


def told_by(program: str) -> tuple[str, ...]:
    """Name the programs of which one tells what that one finds; none: it tells by itself."""
    way, _, function = program.partition("_")
    return tuple(f"{way}_{name}" for name in _EXECVE_64) if function.startswith(_EXECVE_32) else ()


# The tracepoint attach mode's programs, and what `--refused` adds to the upper ones.
SYSCALL_PROGRAMS = ("raw_sys_enter", "raw_sys_exit")
# The same a second time, after them, where the first ones can be left out; see bpf/logic.h.
SECOND_PROGRAMS = tuple(f"{program}_again" for program in SYSCALL_PROGRAMS)
# Of copy_process too: at its return where the kernel has kprobes, else on its exit.
COPIED_AGAIN = "kretprobe_copy_process_again"
COPIED_AGAIN_ON_EXIT = "fexit_copy_process_again"
COPIED_TWICE = (COPIED_AGAIN, COPIED_AGAIN_ON_EXIT)


def name_of(number: int) -> str:
    """Name a step by its number on the wire; an unknown one stays visible as unknown:N."""
    step = BY_NUMBER.get(number)
    return step.name if step else f"unknown:{number}"
