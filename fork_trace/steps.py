"""The ordered steps of a fork in the kernel which this program can blame, and what each is.

The numbers are the wire's (enum ft_step in bpf/fork_trace.h). What a refusal
means is the business of `diagnosis`.
"""

from __future__ import annotations

from dataclasses import dataclass


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
    ident: str  # FT_STEP_<ident> in bpf/fork_trace.h
    name: str  # in reports
    what: str
    # Of these the first that the running kernel has; none: the test is inline everywhere.
    watches: tuple[Watch, ...] = ()
    # Every fork or every mapping pays for it: attached at the first failure without a reason.
    in_detail: bool = False


def _step(
    ident: str,
    name: str,
    what: str,
    *watches: tuple[str, int, str] | tuple[str, int, str, bool] | tuple[str, int, str, bool, str],
    in_detail: bool = False,
) -> tuple[str, str, str, tuple[Watch, ...], bool]:
    return ident, name, what, tuple(Watch(*each) for each in watches), in_detail


STEPS: tuple[Step, ...] = tuple(
    Step(number, *row)
    for number, row in enumerate(
        (
            _step(
                "COPY_PROCESS",
                "copy_process",
                "the fork itself: every refusal ends here",
                ("copy_process", 4, "fexit_copy_process", True),
            ),
            _step(
                "SECCOMP",
                "seccomp",
                "a seccomp filter or a tracer answers before the call begins",
            ),
            _step(
                "CLONE_ARGS",
                "clone_args",
                "the arguments of clone3 are copied and checked",
                ("copy_clone_args_from_user", 3, "fexit_copy_clone_args"),
            ),
            _step(
                "KERNEL_CLONE",
                "kernel_clone",
                "the arguments of clone are checked, before copy_process",
            ),
            _step(
                "CLONE_FLAGS",
                "clone_flags",
                "flags that contradict each other or the caller's state",
            ),
            _step(
                "DUP_TASK_STRUCT",
                "dup_task_struct",
                "memory for the task and its kernel stack",
            ),
            _step(
                "TASK_EXEC_STATE_COPY",
                "task_exec_state_copy",
                "memory for what execve needs, for a new process (Linux 7.2)",
                ("task_exec_state_copy", 1, "fexit_task_exec_state_copy"),
                in_detail=True,
            ),
            _step(
                "COPY_CREDS",
                "copy_creds",
                "the child's credentials",
                ("copy_creds", 2, "fexit_copy_creds"),
                in_detail=True,
            ),
            _step(
                "CREATE_USER_NS",
                "create_user_ns",
                "a new user namespace (CLONE_NEWUSER)",
                ("create_user_ns", 1, "fexit_create_user_ns", True),
            ),
            _step(
                "SET_CRED_UCOUNTS",
                "set_cred_ucounts",
                "the counters of a new user namespace; EAGAIN here is memory",
                ("set_cred_ucounts", 1, "fexit_set_cred_ucounts"),
            ),
            _step(
                "RLIMIT_NPROC",
                "rlimit_nproc",
                "the user's tasks against RLIMIT_NPROC",
                ("is_rlimit_overlimit", 3, "fexit_is_rlimit_overlimit", True),
                ("is_ucounts_overlimit", 3, "fexit_is_ucounts_overlimit", True),
            ),
            _step(
                "THREADS_MAX",
                "threads_max",
                "all threads of the host against kernel.threads-max",
            ),
            _step(
                "IO_URING_FORK",
                "__io_uring_fork",
                "the caller's io_uring restrictions are copied (Linux 7.2)",
                ("__io_uring_fork", 1, "fexit_io_uring_fork"),
            ),
            _step(
                "MPOL_DUP",
                "__mpol_dup",
                "the caller's NUMA memory policy is copied",
                ("__mpol_dup", 1, "fexit_mpol_dup"),
                in_detail=True,
            ),
            _step(
                "SCHED_FORK",
                "sched_fork",
                "the scheduler's consent: SCHED_DEADLINE is not inherited",
                ("sched_fork", 2, "fexit_sched_fork"),
                in_detail=True,
            ),
            _step(
                "PERF_EVENT_INIT_TASK",
                "perf_event_init_task",
                "perf events that the child inherits",
                ("perf_event_init_task", 2, "fexit_perf_event_init_task"),
                in_detail=True,
            ),
            _step(
                "AUDIT_ALLOC",
                "audit_alloc",
                "memory for the audit context",
                ("audit_alloc", 1, "fexit_audit_alloc"),
                in_detail=True,
            ),
            _step(
                "SECURITY_TASK_ALLOC",
                "security_task_alloc",
                "the security modules' consent",
                ("security_task_alloc", 2, "fexit_security_task_alloc"),
                in_detail=True,
            ),
            _step(
                "COPY_SEMUNDO",
                "copy_semundo",
                "System V semaphore undo lists",
                ("copy_semundo", 2, "fexit_copy_semundo"),
                in_detail=True,
            ),
            _step(
                "DUP_FD",
                "dup_fd",
                "the child's descriptor table against fs.nr_open",
                ("dup_fd", 2, "fexit_dup_fd"),
                ("dup_fd", 3, "fexit_dup_fd_510", True),
            ),
            _step(
                "COPY_FS",
                "copy_fs",
                "root and working directory, shared: not while a sibling thread is in execve",
            ),
            _step(
                "COPY_FS_STRUCT",
                "copy_fs_struct",
                "memory for the root and working directory of a process",
                ("copy_fs_struct", 1, "fexit_copy_fs_struct"),
                in_detail=True,
            ),
            _step(
                "COPY_SIGNAL",
                "copy_signal",
                "memory for signal handlers and signal state",
            ),
            _step(
                "MM_INIT",
                "mm_init",
                "memory for the address space and its top page table",
                ("mm_init", 2, "fexit_mm_init"),
                ("mm_init", 3, "fexit_mm_init_61"),
                in_detail=True,
            ),
            _step(
                "DUP_MMAP",
                "dup_mmap",
                "the parent's mappings are copied",
                ("dup_mmap", 2, "fexit_dup_mmap"),
                in_detail=True,
            ),
            _step(
                "VM_ENOUGH_MEMORY",
                "__vm_enough_memory",
                "each accountable mapping of the parent against the overcommit rule",
                ("__vm_enough_memory", 3, "fexit_vm_enough_memory", True),
            ),
            _step(
                "VM_AREA_DUP",
                "vm_area_dup",
                "memory for the description of one mapping",
                ("vm_area_dup", 1, "fexit_vm_area_dup"),
                in_detail=True,
            ),
            _step(
                "VMA_DUP_POLICY",
                "vma_dup_policy",
                "the memory policy of one mapping",
                ("vma_dup_policy", 2, "fexit_vma_dup_policy"),
                in_detail=True,
            ),
            _step(
                "DUP_USERFAULTFD",
                "dup_userfaultfd",
                "the userfaultfd of one mapping",
                ("dup_userfaultfd", 2, "fexit_dup_userfaultfd"),
                in_detail=True,
            ),
            _step(
                "ANON_VMA_FORK",
                "anon_vma_fork",
                "memory for the reverse map of one mapping",
                ("anon_vma_fork", 2, "fexit_anon_vma_fork"),
                in_detail=True,
            ),
            _step(
                "COPY_PAGE_RANGE",
                "copy_page_range",
                "the page tables of one mapping",
                ("copy_page_range", 2, "fexit_copy_page_range"),
                in_detail=True,
            ),
            _step(
                "LDT_DUP_CONTEXT",
                "ldt_dup_context",
                "the x86 local descriptor table",
                ("ldt_dup_context", 2, "fexit_ldt_dup_context"),
            ),
            _step(
                "COPY_NAMESPACES",
                "copy_namespaces",
                "new namespaces: flags and privileges",
                ("copy_namespaces", 2, "fexit_copy_namespaces"),
                in_detail=True,
            ),
            _step(
                "COPY_MNT_NS",
                "copy_mnt_ns",
                "a new mount namespace (CLONE_NEWNS)",
                ("copy_mnt_ns", 4, "fexit_copy_mnt_ns", True),
            ),
            _step(
                "COPY_UTSNAME",
                "copy_utsname",
                "a new UTS namespace (CLONE_NEWUTS)",
                ("copy_utsname", 3, "fexit_copy_utsname", True),
            ),
            _step(
                "COPY_IPCS",
                "copy_ipcs",
                "a new IPC namespace (CLONE_NEWIPC)",
                ("copy_ipcs", 3, "fexit_copy_ipcs", True),
            ),
            _step(
                "COPY_PID_NS",
                "copy_pid_ns",
                "a new pid namespace (CLONE_NEWPID)",
                ("copy_pid_ns", 3, "fexit_copy_pid_ns", True),
            ),
            _step(
                "COPY_CGROUP_NS",
                "copy_cgroup_ns",
                "a new cgroup namespace (CLONE_NEWCGROUP)",
                ("copy_cgroup_ns", 3, "fexit_copy_cgroup_ns", True),
            ),
            _step(
                "COPY_NET_NS",
                "copy_net_ns",
                "a new network namespace (CLONE_NEWNET)",
                ("copy_net_ns", 3, "fexit_copy_net_ns", True),
            ),
            _step(
                "COPY_TIME_NS",
                "copy_time_ns",
                "a new time namespace (CLONE_NEWTIME)",
                ("copy_time_ns", 3, "fexit_copy_time_ns", True),
            ),
            _step(
                "COPY_IO",
                "__copy_io",
                "the caller's I/O priority",
                ("__copy_io", 2, "fexit_copy_io"),
                in_detail=True,
            ),
            _step(
                "COPY_THREAD",
                "copy_thread",
                "registers and thread-local storage",
                ("copy_thread", 2, "fexit_copy_thread"),
                ("copy_thread", 5, "fexit_copy_thread_510"),
                in_detail=True,
            ),
            _step(
                "SHSTK_ALLOC_THREAD_STACK",
                "shstk_alloc_thread_stack",
                "a shadow stack for the new thread (x86 CET)",
                ("shstk_alloc_thread_stack", 3, "fexit_shstk"),
            ),
            _step(
                "ALLOC_PID",
                "alloc_pid",
                "a pid number in every pid namespace of the child",
                ("alloc_pid", 3, "fexit_alloc_pid", True),
            ),
            _step(
                "PIDFD_PREPARE",
                "pidfd_prepare",
                "a pidfd for the parent (CLONE_PIDFD)",
                ("__pidfd_prepare", 3, "fexit_pidfd_prepare_510"),
                # Since Linux commit a71f402acd71 ("pidfs: get rid of __pidfd_prepare()") (in v6.16),
                # copy_process calls it, and its last parameter has this name. Before that, it called
                # __pidfd_prepare, which can be inlined: this one is then never called in a fork.
                ("pidfd_prepare", 3, "fexit_pidfd_prepare", False, "ret_file"),
            ),
            _step(
                "CGROUP_CAN_FORK",
                "cgroup_can_fork",
                "the cgroup controllers' consent, first of all pids.max up the tree",
                ("cgroup_can_fork", 2, "fexit_cgroup_can_fork"),
            ),
            _step(
                "SCHED_CGROUP_FORK",
                "sched_cgroup_fork",
                "a BPF scheduler's consent (sched_ext)",
                ("sched_cgroup_fork", 2, "fexit_sched_cgroup_fork"),
                in_detail=True,
            ),
            _step(
                "FUTEX_HASH",
                "futex_hash_allocate_default",
                "memory for the process' futex hash (Linux 7.2)",
                ("futex_hash_allocate_default", 0, "fexit_futex_hash"),
                in_detail=True,
            ),
            _step(
                "PID_NAMESPACE_LATE",
                "pid_namespace_late",
                "the init of the pid namespace, which can die in the middle of a fork",
            ),
            _step(
                "SIGNAL_LATE",
                "signal_late",
                "a fatal signal in the middle of a fork",
            ),
            _step(
                "MMAP",
                "mmap",
                "the stack of a new thread, mapped by the C library before it calls clone",
                ("vm_mmap_pgoff", 6, "fexit_vm_mmap_pgoff"),
            ),
            _step(
                "MPROTECT",
                "mprotect",
                "that stack is made writable",
                ("do_mprotect_pkey", 4, "fexit_do_mprotect_pkey"),
            ),
        )
    )
)

BY_NUMBER = {step.number: step for step in STEPS}
BY_NAME = {step.name: step for step in STEPS}

# Not a step, but why several of them fail: a charge to a memory cgroup that nothing could make room
# for (mm/memcontrol.c, mem_cgroup_out_of_memory).
MEMORY_CGROUP = Watch("mem_cgroup_out_of_memory", 3, "fexit_mem_cgroup_out_of_memory", True)

# The tracepoint rung's programs, and what `--refused` adds to the upper ones.
SYSCALL_PROGRAMS = ("raw_sys_enter", "raw_sys_exit")
# The same a second time, after them, where the first ones can be left out; see bpf/fork_trace_logic.h.
SECOND_PROGRAMS = tuple(f"{program}_again" for program in SYSCALL_PROGRAMS)
# Of copy_process too: at its return where the kernel has kprobes, else on its exit.
COPIED_AGAIN = "kretprobe_copy_process_again"
COPIED_AGAIN_ON_EXIT = "fexit_copy_process_again"
COPIED_TWICE = (COPIED_AGAIN, COPIED_AGAIN_ON_EXIT)


def name_of(number: int) -> str:
    """Name a step by its number on the wire; an unknown one stays visible as unknown:N."""
    step = BY_NUMBER.get(number)
    return step.name if step else f"unknown:{number}"
