"""Words for tasks that the kernel makes by itself: who made them, who notices the refusal, what helps. Pure.

Sources: io_uring/io-wq.c (create_io_worker), kernel/vhost_task.c, kernel/kthread.c, kernel/umh.c.
"""

from __future__ import annotations

from collections.abc import Mapping

from fork_trace.model.events import Maker
from fork_trace.model.records import Advice

IO_WORKER, USER_WORKER, KTHREAD, HELPER = (
    *("io-uring-worker", "user-worker", "kernel-thread", "user-mode-helper"),
)
_WORDS: Mapping[str, str] = {
    IO_WORKER: "io_uring worker",
    KTHREAD: "kernel thread",
    HELPER: "user-mode helper",
}
_TOLD: Mapping[str, str] = {
    IO_WORKER: "io_uring wanted a worker thread for this process. The program gets no error: its "
    "requests wait until a worker is free",
    USER_WORKER: "a kernel driver wanted a worker thread in this process; the ioctl that needs it fails",
    KTHREAD: "the kernel wanted a thread of its own; what needs it fails, with an errno of its own choice",
    HELPER: "the kernel wanted to run a program by itself; what waits for that fails",
    "kernel": "the kernel wanted a task of its own",
}
# Where no system call asks for a task, none is seen to return.
_UNSEEN: Mapping[str, str] = {
    "tracepoint": "syscall tracepoints do not see tasks that the kernel makes by itself (io_uring "
    "and vhost workers, kernel threads, user-mode helpers): their failures are not counted",
}
_ADVICE: Mapping[str, Advice] = {
    IO_WORKER: Advice(
        "fix",
        "Or let the program need fewer workers: set their number with "
        "IORING_REGISTER_IOWQ_MAX_WORKERS (Linux 5.15), which is "
        "io_uring_register_iowq_max_workers in liburing. Without it a ring may have as many for "
        "blocking requests as RLIMIT_NPROC allows.",
    ),
}


def caller(maker: Maker | None) -> str:
    """Say in place of a function of a program who asked; None: no more is known than that the kernel did."""
    if maker is None:
        return "(kernel)"
    about = maker.name or maker.function
    if maker.kind == USER_WORKER:
        word = "vhost worker" if (maker.name or "").startswith("vhost") else "kernel worker"
    else:
        word = _WORDS.get(maker.kind, "kernel")
    text = f"({word})" if about is None else f"({word} {about})"
    return text if maker.asker is None else f"{text} <- {maker.asker}"


def as_record(maker: Maker) -> dict[str, object]:
    """Return it as a failure record holds it."""
    return dict(vars(maker))


def told(maker: Mapping[str, object]) -> str | None:
    """Say who gets the error, given `maker` of a failure record; None: it is of a newer version."""
    sentence = _TOLD.get(str(maker.get("kind")))
    asker, pid = maker.get("asker"), maker.get("asker_pid")
    if sentence and isinstance(asker, str) and isinstance(pid, int):
        sentence += f"; {asker}[{pid}] was waiting for it"
    return sentence


def unseen(attach: str) -> str | None:
    """Say what an attach mode cannot see; None: it sees every copy_process."""
    return _UNSEEN.get(attach)


def advice(maker: Maker | None) -> tuple[Advice, ...]:
    """Say what helps besides what the cause's own remedies are."""
    found = _ADVICE.get(maker.kind) if maker else None
    return () if found is None else (found,)
