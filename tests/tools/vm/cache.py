"""Where downloads and logs are kept between runs, and who may write there when."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


class VmError(Exception):
    """Something a person can be told in one sentence; `status` is the exit status."""

    def __init__(self, message: str, status: int = 2) -> None:
        super().__init__(message)
        self.status = status


def directory() -> Path:
    """Return the cache directory, made if need be; it is never inside the checkout."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(Path.home(), ".cache")
    chosen = os.environ.get("FORK_TRACE_CACHE") or os.path.join(base, "fork-trace")
    # The guest binds directories by path, so the path must not go through a link.
    path = Path(chosen).resolve()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VmError(
            f"cannot make the cache directory {path}: {error.strerror}. "
            "Name another one in FORK_TRACE_CACHE."
        ) from error
    return path


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the lock of that name; another process waits for it."""
    with open(directory() / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
