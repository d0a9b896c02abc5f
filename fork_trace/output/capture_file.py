"""The file that a capture writes: its owner's alone, and kept in memory while it cannot be written."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Callable

from fork_trace.escape import safe
from fork_trace.model import records
from fork_trace.model.records import Failure
from fork_trace.output import destination

_PATIENCE_S = 5.0  # for what still waits at the end
# Of records that a file cannot take: some 6,000 samples, and not all of the memory.
_MOST_WAITING_BYTES = 32 << 20


class CaptureFile:
    """The capture file. What it cannot take now is kept and tried again.

    A tmpfs answers ENOSPC for as long as the commit limit is exhausted, which is just when there
    is something to write.
    """

    def __init__(self, path: str, force: bool) -> None:
        self.path = path
        self.failed: str | None = None
        self.dropped = 0  # records that found no room among those that wait
        self._told = False
        self._waiting = bytearray()
        self._fd, self._is_new = destination.open_named(path, force)
        # Not before there is something to write: a run that cannot begin spares the old capture.
        self._truncates = stat.S_ISREG(os.fstat(self._fd).st_mode)

    def discard(self) -> None:
        """Take the file away again if it was made here: nothing could be watched."""
        os.close(self._fd)
        if self._is_new:
            os.unlink(self.path)

    def write(self, record: records.Record) -> None:
        """Write one record, or keep it until the file can take it."""
        if self._truncates:
            os.ftruncate(self._fd, 0)
            self._truncates = False
        # The header and the summary are kept whatever happens: with them the counts are.
        if isinstance(record, Failure) and len(self._waiting) > _MOST_WAITING_BYTES:
            self.dropped += 1
        else:
            self._waiting += (records.to_json(record) + "\n").encode("ascii")
        self.flush()

    def flush(self) -> None:
        """Try to write what waits; said once when it begins to fail."""
        try:
            while self._waiting:
                del self._waiting[: os.write(self._fd, self._waiting)]
            self.failed = None
        except OSError as error:
            self.failed = error.strerror or str(error)
            # The reader of a pipe may be slow without being told off for it.
            if not self._told and not isinstance(error, BlockingIOError):
                self._told = True
                print(
                    f"fork-trace: cannot write {safe(self.path)} yet: {self.failed}. "
                    "Still watching; records are kept in memory and retried.",
                    file=sys.stderr,
                )

    def close(self, is_hurried: Callable[[], bool] = lambda: False) -> None:
        """Write the rest, with a little patience, and close the file."""
        deadline = time.monotonic() + _PATIENCE_S
        self.flush()
        while self.failed and time.monotonic() < deadline and not is_hurried():
            time.sleep(0.1)
            self.flush()
        if self.dropped and not self.failed:
            self.failed = f"{self.dropped} records were dropped while the file could not be written"
        if self.failed:
            print(
                f"fork-trace: {safe(self.path)} is incomplete: {self.failed}. Free some space and "
                "capture again; the counts in the report are exact.",
                file=sys.stderr,
            )
        os.close(self._fd)
