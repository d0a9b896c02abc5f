"""What applications print when a fork or a thread is refused, and the causes it can be. Pure text.

The texts are from the applications' sources and from reports of their users; `...` stands for what
differs. Each names its causes by their objects.
"""

from __future__ import annotations

from typing import NamedTuple

from fork_trace.diagnosis import kinds
from fork_trace.diagnosis.cause import Cause
from fork_trace.diagnosis.causes.arguments import CGROUP_REFUSED
from fork_trace.diagnosis.causes.late import COPY_ON_WRITE, MEMORY_CGROUP_OOM
from fork_trace.diagnosis.causes.memory import (
    KERNEL_MEMORY,
    MEMORY_CGROUP,
    OVERCOMMIT_HEURISTIC,
    OVERCOMMIT_NEVER,
    THREAD_STACK,
)
from fork_trace.diagnosis.causes.namespaces import (
    MOUNT_LIMIT,
    NAMESPACE_DENIED,
    NAMESPACE_DEPTH,
    NAMESPACE_LIMIT,
    PID_NAMESPACE_DEAD,
    USER_NAMESPACE_DENIED,
)
from fork_trace.diagnosis.causes.policy import SECCOMP
from fork_trace.diagnosis.causes.tasks import PID_MAX, PIDS_CGROUP, RLIMIT_NPROC, THREADS_MAX
from fork_trace.diagnosis.errnos import normal

# Nearly every text is one of these, with an errno in it or lost.
_PROCESS, _SPAWN, _THREAD = kinds.PROCESS, kinds.SPAWN, kinds.THREAD
# Go's runtime and others map the stacks of their threads otherwise, with an error of their own.
_CLONE = (PIDS_CGROUP, RLIMIT_NPROC, PID_MAX, THREADS_MAX, SECCOMP)
_NAMESPACE = (
    *(NAMESPACE_LIMIT, NAMESPACE_DEPTH, USER_NAMESPACE_DENIED, NAMESPACE_DENIED),
    *(MOUNT_LIMIT, KERNEL_MEMORY),
)
_BOTH = ("EAGAIN", "ENOMEM")


class Text(NamedTuple):
    """One message of one application."""

    application: str
    text: str
    errnos: tuple[str, ...]  # those that it can carry; it seldom names them
    causes: tuple[Cause, ...]  # likeliest first
    note: str = ""
    kind: str = ""  # of `kinds`, where its own words do not tell


TEXTS: tuple[Text, ...] = (
    Text(
        "bash",
        "fork: retry: Resource temporarily unavailable",
        ("EAGAIN",),
        _PROCESS,
        "bash retries after 1, 2, 4 and 8 seconds, then gives up",
    ),
    Text(
        "bash",
        "fork: retry: No child processes",
        ("EAGAIN",),
        _PROCESS,
        "same as Resource temporarily unavailable: bash has overwritten the errno",
    ),
    Text(
        "bash",
        "fork: Interrupted system call",
        ("EAGAIN",),
        _PROCESS,
        "a child exited while bash waited to retry, which overwrote the errno",
    ),
    Text("bash", "bash: fork: Resource temporarily unavailable", ("EAGAIN",), _PROCESS),
    Text("bash", "bash: fork: Cannot allocate memory", ("ENOMEM",), _PROCESS),
    Text("dash", "sh: ...: Cannot fork", _BOTH, _PROCESS, "it does not say which errno"),
    Text("zsh", "zsh: fork failed: ...", _BOTH, _PROCESS),
    Text("sudo", "sudo: unable to fork: ...", _BOTH, _PROCESS),
    Text("ssh", "shell request failed on channel 0", (), _PROCESS, "sshd's log has the errno"),
    Text("ssh", "sshd: error: fork: ...", _BOTH, _PROCESS),
    Text(
        "ssh",
        "fatal: fork of unprivileged child failed",
        _BOTH,
        _PROCESS,
        "it does not say which errno; nobody can log in any more",
    ),
    Text("tmux", "create window failed: fork failed: ...", _BOTH, _PROCESS),
    Text("cron", "(CRON) error (can't fork)", _BOTH, _PROCESS, "it does not say which errno"),
    Text(
        "perl",
        "Can't fork, trying again in 5 seconds",
        ("EAGAIN",),
        _PROCESS,
        "perl retries forever",
    ),
    Text("systemd", "Failed to fork: ...", _BOTH, _PROCESS),
    Text(
        "systemd",
        "Failed to run 'start' task: ...",
        _BOTH,
        _PROCESS,
        "older systemd; newer versions say Failed to spawn 'start' task",
        kind="process",
    ),
    Text(
        "systemd",
        "Failed to spawn 'start' task: ...",
        ("EAGAIN", "ENOMEM", "EBUSY"),
        (*_SPAWN, CGROUP_REFUSED),
        "Device or resource busy: the cgroup has controllers enabled for its children (CLONE_INTO_CGROUP)",
    ),
    Text(
        "kernel",
        "cgroup: fork rejected by pids controller in ...",
        ("EAGAIN",),
        (PIDS_CGROUP,),
        "logged once per cgroup; it names the cgroup that forked, but the limit can be an ancestor's",
    ),
    Text(
        "kernel",
        "__vm_enough_memory: pid: ..., no enough memory for the allocation",
        ("ENOMEM",),
        (OVERCOMMIT_NEVER, OVERCOMMIT_HEURISTIC, THREAD_STACK),
        kind="process",
    ),
    Text(
        "kernel",
        "SLUB: Unable to allocate memory on node",
        ("ENOMEM",),
        (MEMORY_CGROUP, KERNEL_MEMORY),
        kind="process",
    ),
    Text(
        "docker",
        "OCI runtime create failed: ... unable to start container process: ...",
        ("EAGAIN", "ENOMEM", "ENOSPC", "EPERM"),
        (*_CLONE, THREAD_STACK, *_NAMESPACE, PID_NAMESPACE_DEAD, MEMORY_CGROUP),
        "the rest of the line tells which: fork/exec, pthread_create or unshare",
        kind="process",
    ),
    Text(
        "docker",
        "starting container process caused: ... from pipe caused: EOF",
        ("EAGAIN", "ENOMEM", "ENOSPC"),
        (*_CLONE, *_NAMESPACE),
        "older runc: its child could not fork or unshare, and says so only in its log",
        kind="process",
    ),
    Text(
        "docker",
        "OCI runtime exec failed: ... unable to start container process: ...",
        ("EAGAIN", "ENOMEM", "EPERM"),
        (*_CLONE, PID_NAMESPACE_DEAD, MEMORY_CGROUP, KERNEL_MEMORY),
        kind="process",
    ),
    Text(
        "Go",
        "runtime/cgo: pthread_create failed: Resource temporarily unavailable",
        ("EAGAIN",),
        _THREAD,
    ),
    Text(
        "Go",
        "runtime/cgo: pthread_create failed: Operation not permitted",
        ("EPERM",),
        (SECCOMP,),
        "an old seccomp profile answers EPERM for clone3",
    ),
    Text(
        "containerd",
        "fork/exec ...containerd-shim-runc-v2: resource temporarily unavailable",
        ("EAGAIN",),
        _SPAWN,
        "containerd itself could not fork, in the cgroup of its own service",
    ),
    Text(
        "runc",
        "nsexec...: failed to unshare remaining namespaces: ...",
        ("ENOSPC", "EPERM", "ENOMEM"),
        (*_NAMESPACE, SECCOMP),
    ),
    Text(
        "runc",
        "nsexec...: failed to unshare user namespace: ...",
        ("ENOSPC", "EPERM"),
        (USER_NAMESPACE_DENIED, NAMESPACE_LIMIT, NAMESPACE_DEPTH, SECCOMP),
    ),
    Text(
        "kubernetes",
        "Failed to create pod sandbox: ... resource temporarily unavailable",
        ("EAGAIN",),
        _CLONE,
    ),
    Text(
        "kubernetes",
        "failed to create shim task: ...",
        ("EAGAIN", "ENOMEM", "ENOSPC"),
        (*_CLONE, MEMORY_CGROUP, NAMESPACE_LIMIT),
        kind="process",
    ),
    Text(
        "JVM",
        "Cannot run program ... error=11, Resource temporarily unavailable",
        ("EAGAIN",),
        _SPAWN,
    ),
    Text(
        "JVM",
        "java.io.IOException: Cannot run program ... error=12, Cannot allocate memory",
        ("ENOMEM",),
        (OVERCOMMIT_HEURISTIC, OVERCOMMIT_NEVER, *_SPAWN),
        "older Java forks; newer versions start a helper with posix_spawn",
    ),
    Text(
        "JVM",
        "java.lang.OutOfMemoryError: unable to create native thread: possibly out of memory or "
        "process/resource limits reached",
        ("EAGAIN",),
        _THREAD,
        "the heap is not the problem: a larger one makes it worse",
    ),
    Text(
        "JVM",
        "java.lang.OutOfMemoryError: unable to create new native thread",
        ("EAGAIN",),
        _THREAD,
        "the heap is not the problem: a larger one makes it worse",
    ),
    Text(
        "JVM",
        '[os,thread] Failed to start thread "..." - pthread_create failed (EAGAIN) for attributes: ...',
        ("EAGAIN",),
        _THREAD,
    ),
    Text(
        "JVM",
        '[os,thread] Failed to start thread "..." - pthread_create failed (EPERM) for attributes: ...',
        ("EPERM",),
        (SECCOMP,),
        "an old seccomp profile answers EPERM for clone3",
    ),
    Text(
        ".NET",
        "System.OutOfMemoryException",
        _BOTH,
        _THREAD,
        "if its stack has Thread.Start, a thread was refused, however much memory there is",
        kind="thread",
    ),
    Text(
        ".NET",
        "Failed to create CoreCLR, HRESULT: 0x8007000E",
        _BOTH,
        _THREAD,
        "the HRESULT says out of memory, but one of the runtime's own threads was refused",
        kind="thread",
    ),
    Text(
        ".NET",
        "An error occurred trying to start process '...' with working directory '...'. Resource "
        "temporarily unavailable",
        ("EAGAIN",),
        _SPAWN,
    ),
    Text(
        "Go",
        "runtime: failed to create new OS thread (have ... already; errno=11)",
        ("EAGAIN",),
        _CLONE,
        "Go suggests ulimit -u, which is only one of several limits",
    ),
    Text(
        "Go",
        "runtime: may need to increase max user processes (ulimit -u)",
        ("EAGAIN",),
        _CLONE,
        kind="thread",
    ),
    Text("Go", "fork/exec ...: resource temporarily unavailable", ("EAGAIN",), _SPAWN),
    Text("Go", "fork/exec ...: cannot allocate memory", ("ENOMEM",), _SPAWN),
    Text(
        "Go",
        "fork/exec ...: operation not permitted",
        ("EPERM",),
        (USER_NAMESPACE_DENIED, NAMESPACE_DENIED, SECCOMP),
    ),
    Text(
        "Go",
        "fork/exec ...: no space left on device",
        ("ENOSPC",),
        (NAMESPACE_LIMIT, NAMESPACE_DEPTH, MOUNT_LIMIT),
    ),
    Text("Node", "Error: spawn EAGAIN", ("EAGAIN",), _SPAWN),
    Text("Node", "Error: spawn ... EAGAIN", ("EAGAIN",), _SPAWN),
    Text(
        "Node",
        "node[...]: pthread_create: Resource temporarily unavailable",
        ("EAGAIN",),
        _THREAD,
    ),
    Text(
        "Node",
        "uv_thread_create(t.get(), start_thread, this))' failed",
        ("EAGAIN",),
        _THREAD,
        "the runtime could not create its own threads, and aborts",
    ),
    Text("Node", "Error: spawn ENOMEM", ("ENOMEM",), _PROCESS),
    Text("Python", "can't start new thread", ("EAGAIN",), _THREAD, "it does not say which errno"),
    Text(
        "Python",
        "BlockingIOError: [Errno 11] Resource temporarily unavailable",
        ("EAGAIN",),
        _PROCESS,
    ),
    Text("Python", "OSError: [Errno 12] Cannot allocate memory", ("ENOMEM",), _PROCESS),
    Text(
        "Ruby",
        "can't create Thread: Resource temporarily unavailable",
        ("EAGAIN",),
        _THREAD,
    ),
    Text(
        "Ruby",
        "pthread_create failed for timer: Resource temporarily unavailable, scheduling broken",
        ("EAGAIN",),
        _THREAD,
    ),
    Text("Ruby", "Cannot allocate memory - fork(2)", ("ENOMEM",), _PROCESS),
    Text("Ruby", "Resource temporarily unavailable - fork(2)", ("EAGAIN",), _PROCESS),
    Text("PHP-FPM", "ERROR: fork() failed: ...", _BOTH, _PROCESS),
    Text("PHP-FPM", "proc_open(): fork failed - Cannot allocate memory", ("ENOMEM",), _PROCESS),
    Text("PHP-FPM", "pcntl_fork(): Error ...", _BOTH, _PROCESS),
    Text("PHP-FPM", "Unable to fork [...]", _BOTH, _PROCESS, "it does not say which errno"),
    Text("PostgreSQL", "could not fork new process for connection: ...", _BOTH, _PROCESS),
    Text("PostgreSQL", "could not fork worker process: ...", _BOTH, _PROCESS),
    Text("PostgreSQL", "could not fork autovacuum worker process: ...", _BOTH, _PROCESS),
    Text("PostgreSQL", "could not fork background worker process: ...", _BOTH, _PROCESS),
    Text("PostgreSQL", 'could not fork "..." process: ...', _BOTH, _PROCESS),
    Text(
        "Redis",
        "MISCONF Redis is configured to save RDB snapshots",
        _BOTH,
        _PROCESS,
        "what clients see; the log says whether it was a fork (Can't save in background: fork) or the disk",
        kind="process",
    ),
    Text(
        "Redis",
        "Can't save in background: fork: Cannot allocate memory",
        ("ENOMEM",),
        (OVERCOMMIT_HEURISTIC, OVERCOMMIT_NEVER, MEMORY_CGROUP, KERNEL_MEMORY),
        "at startup, Redis asks for vm.overcommit_memory=1 in its log",
    ),
    Text(
        "Redis",
        "Can't save in background: fork: Resource temporarily unavailable",
        ("EAGAIN",),
        _PROCESS,
    ),
    Text(
        "Redis",
        "Can't rewrite append only file in background: fork: Cannot allocate memory",
        ("ENOMEM",),
        (OVERCOMMIT_HEURISTIC, OVERCOMMIT_NEVER, MEMORY_CGROUP, KERNEL_MEMORY),
    ),
    Text(
        "MySQL",
        "Can't create a new thread (errno 11); if you are not out of available memory, you can "
        "consult the manual for a possible OS-dependent bug",
        ("EAGAIN",),
        _THREAD,
    ),
    Text("nginx", 'fork() failed while spawning "..." (...)', _BOTH, _PROCESS),
    Text("Apache", "fork: Unable to fork new process", _BOTH, _PROCESS),
    Text("Apache", "apr_thread_create: unable to create worker thread", _BOTH, _THREAD),
    Text("make", "make: fork: Resource temporarily unavailable", ("EAGAIN",), _PROCESS),
    Text("make", "make: vfork: Resource temporarily unavailable", ("EAGAIN",), _SPAWN),
    Text(
        "ninja", "ninja: fatal: posix_spawn: Resource temporarily unavailable", ("EAGAIN",), _SPAWN
    ),
    Text("git", "error: cannot fork() for ...", _BOTH, _PROCESS),
    Text("Chrome", "pthread_create: Resource temporarily unavailable (11)", ("EAGAIN",), _THREAD),
    Text("Chrome", "Zygote could not fork", (), (*_PROCESS, SECCOMP)),
    Text(
        "Chrome",
        "Failed to move to new namespace: PID namespaces supported, Network namespace supported, "
        "but failed: errno = ...",
        ("EPERM", "ENOSPC"),
        (USER_NAMESPACE_DENIED, SECCOMP, NAMESPACE_LIMIT, NAMESPACE_DENIED),
    ),
    Text(
        "bubblewrap",
        "bwrap: Creating new namespace failed: ...",
        ("ENOSPC", "EPERM", "EACCES"),
        (NAMESPACE_LIMIT, NAMESPACE_DEPTH, USER_NAMESPACE_DENIED, SECCOMP),
    ),
    Text(
        "unshare",
        "unshare: unshare failed: No space left on device",
        ("ENOSPC",),
        (NAMESPACE_LIMIT, NAMESPACE_DEPTH, MOUNT_LIMIT),
    ),
    Text(
        "unshare",
        "unshare: unshare failed: Operation not permitted",
        ("EPERM",),
        (USER_NAMESPACE_DENIED, NAMESPACE_DENIED, SECCOMP),
    ),
    Text(
        "unshare",
        "unshare: fork failed: Cannot allocate memory",
        ("ENOMEM",),
        (PID_NAMESPACE_DEAD, MEMORY_CGROUP, KERNEL_MEMORY, OVERCOMMIT_NEVER),
    ),
    Text(
        "OpenBLAS",
        "blas_thread_init: pthread_create failed for thread ... of ...",
        ("EAGAIN",),
        _THREAD,
    ),
    Text("GLib", "Error creating thread: Resource temporarily unavailable", ("EAGAIN",), _THREAD),
    Text("pthread", "pthread_create failed", ("EAGAIN", "EPERM"), _THREAD),
    Text("pthread", "pthread_create: Resource temporarily unavailable", ("EAGAIN",), _THREAD),
    Text(
        "R",
        "unable to fork, possible reason: ...",
        _BOTH,
        _PROCESS,
        "mclapply forks the whole R session for each worker",
    ),
    Text(
        "Oracle",
        "ORA-27300: OS system dependent operation:fork failed with status: ...",
        _BOTH,
        _PROCESS,
        "the status is the errno: 11 is EAGAIN, 12 is ENOMEM",
    ),
    Text("Oracle", "ORA-27301: OS failure message: ...", _BOTH, _PROCESS, kind="process"),
    Text("Oracle", "skgpspawn failed:category = ...", _BOTH, _PROCESS, "depinfo is the errno"),
    Text(
        "Rust",
        "could not execute process `...` (never executed)",
        _BOTH,
        _PROCESS,
        "cargo and others print this for a fork that was refused, and for an execve too",
    ),
    Text("rayon", "ThreadPoolBuildError { kind: IOError(...", ("EAGAIN",), _THREAD),
    Text("tokio", "OS can't spawn worker thread: ...", ("EAGAIN",), _THREAD),
    Text("OpenMP", "libgomp: Thread creation failed: ...", ("EAGAIN",), _THREAD),
    Text(
        "OpenMP",
        "OMP: System error #11: Resource temporarily unavailable",
        ("EAGAIN",),
        _THREAD,
        "OMP_NUM_THREADS is the number of CPUs if unset, whatever the container may have",
    ),
    Text("C++", "thread constructor failed: ...", ("EAGAIN",), _THREAD),
    Text("OCaml", "Thread.create: ...", ("EAGAIN",), _THREAD),
    Text("Qt", "QThread::start: Thread creation error: ...", ("EAGAIN",), _THREAD),
    Text(
        "Redis",
        "Fatal: Can't initialize Background Jobs.",
        ("EAGAIN",),
        _THREAD,
        "it does not say which errno; a thread was refused, not a process",
        kind="thread",
    ),
    Text("MySQL", "Can't create thread to handle new connection(errno= ...)", _BOTH, _THREAD),
    Text(
        "Erlang",
        "Failed to start dirty io scheduler thread ...",
        ("EAGAIN",),
        _THREAD,
        "the virtual machine aborts; it does not say which errno",
    ),
    Text("Node", "Worker initialization failure: EAGAIN", ("EAGAIN",), _THREAD),
    Text(
        "Android",
        "pthread_create (...KB stack) failed: Try again",
        ("EAGAIN",),
        _THREAD,
        "Try again is what bionic says for EAGAIN",
    ),
    Text(
        "systemd",
        "Failed to spawn executor: ...",
        ("EAGAIN", "ENOMEM", "EBUSY"),
        (*_SPAWN, CGROUP_REFUSED),
        "systemd's own cgroup and limits, or those of the unit's slice",
    ),
    Text(
        "supervisord",
        "Too many processes in process table to spawn ...",
        ("EAGAIN",),
        _PROCESS,
    ),
    Text(
        "crun",
        "clone: Resource temporarily unavailable",
        ("EAGAIN",),
        _PROCESS,
        "podman gives a container 2048 tasks unless told otherwise",
    ),
    Text(
        "su",
        "cannot set user id: Resource temporarily unavailable",
        ("EAGAIN",),
        (RLIMIT_NPROC,),
        "the new user has as many tasks as RLIMIT_NPROC allows; a fork was not tried",
    ),
    Text(
        "bubblewrap",
        "bwrap: setting up uid map: Permission denied",
        ("EACCES",),
        (USER_NAMESPACE_DENIED,),
    ),
    Text(
        "kernel",
        "Memory cgroup out of memory: Killed process ...",
        (),
        (COPY_ON_WRITE, MEMORY_CGROUP_OOM),
        "the cgroup's own limit was hit, not the host's memory",
    ),
    Text(
        "kernel",
        "Failed to create a rescuer kthread for wq ...: -EINTR",
        ("EINTR",),
        (),
        "whoever asked (mount, modprobe) was killed while it waited: often by a timeout of systemd",
    ),
)

# A text of a person must be as long as this to be looked for inside of one of ours.
_LEAST = 8


def find(text: str) -> list[Text]:
    """Return the messages that a text holds or is part of, the best first."""
    wanted = normal(text).strip("'")
    scored = [
        (score, -number) for number, each in enumerate(TEXTS) if (score := _score(each, wanted))
    ]
    if scored:
        # What only a general text says is not said again.
        best = max(scored)[0]
        return [
            TEXTS[-number] for score, number in sorted(scored, reverse=True) if score * 2 > best
        ]
    return [each for each in TEXTS if wanted == normal(each.application)]


def holds(text: str, each: Text) -> bool:
    """Say whether a text has all of a message in it; else it can only be a part of that message."""
    wanted = normal(text)
    return _whole(_pieces(each), wanted)


def _pieces(each: Text) -> list[str]:
    return [piece.strip() for piece in normal(each.text).split("...") if piece.strip(" :'")]


def _whole(pieces: list[str], wanted: str) -> bool:
    at = 0
    for piece in pieces:
        found = wanted.find(piece, at)
        if found < 0:
            return False
        at = found + len(piece)
    return True


def _score(each: Text, wanted: str) -> int:
    """Return how many letters a text and what is wanted have in common; 0: it is another."""
    pieces = _pieces(each)
    if _whole(pieces, wanted):
        return sum(map(len, pieces))
    if len(wanted) >= _LEAST and any(wanted in piece for piece in pieces):
        return len(wanted)
    return 0
