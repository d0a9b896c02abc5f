"""The newest records of a stream, packed, for a page to carry along. Bounded: what has no room is counted."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import field

from fork_trace.model import records
from fork_trace.model.dataclass import dataclass
from fork_trace.model.records import Failure, Header, Mark, Record

# As base64 a third more; the page around it needs the rest of 5 MB.
MOST_BYTES = 3_400_000
_CHUNK = 256 << 10  # bytes of records that are packed, and dropped, together


@dataclass
class _Chunk:
    packed: bytes
    failures: int  # records of them
    last_ns: int


@dataclass
class _Capture:
    header: bytes
    chunks: list[_Chunk] = field(default_factory=list)
    end: bytes = b""


class Archive:
    """Captures as a file of them would hold them; of the chunks that find no room the oldest go."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most = most_bytes
        self._captures: list[_Capture] = []
        self._lines: list[str] = []
        self._size = self._failures = self._last_ns = self._packed = 0
        self._gone_ns = -1  # when the newest record was that is left out
        self.kept = 0  # failure records
        self.left_out = 0

    def take(self, record: Record) -> None:
        """Keep a record; those of a capture follow its header."""
        if isinstance(record, Header):
            self._pack()
            header = gzip.compress((records.to_json(record) + "\n").encode(), mtime=0)
            self._captures.append(_Capture(header))
            self._last_ns = 0
            self._packed += len(header)
            return
        if not self._captures:
            return
        line = records.to_json(record)
        self._lines.append(line)
        self._size += len(line) + 1
        if isinstance(record, Failure):
            self._failures += 1
            self._last_ns = max(self._last_ns, record.time_ns)
        elif not isinstance(record, Mark) and hasattr(record, "totals"):
            # The totals stay, whatever becomes of the records: by them a reader knows what is lacking.
            self._lines.pop()
            self._size -= len(line) + 1
            self._pack()
            self._packed -= len(self._captures[-1].end)
            self._captures[-1].end = gzip.compress((line + "\n").encode(), mtime=0)
            self._packed += len(self._captures[-1].end)
        if self._size >= _CHUNK:
            self._pack()

    def _pack(self) -> None:
        if self._lines:
            packed = gzip.compress(("\n".join(self._lines) + "\n").encode(), 6, mtime=0)
            self._captures[-1].chunks.append(_Chunk(packed, self._failures, self._last_ns))
            self._packed += len(packed)
            self.kept += self._failures
        self._lines, self._size, self._failures = [], 0, 0
        while self._drop():
            pass

    def _drop(self) -> bool:
        """Leave out the chunk whose newest record is the oldest, if there is no room or newer ones had none.

        A capture without any goes whole.
        """
        found = [
            (each.chunks[0].last_ns, n) for n, each in enumerate(self._captures) if each.chunks
        ]
        if not found and self._packed > self._most and len(self._captures) > 1:
            empty = self._captures.pop(0)  # only that it watched is lost with it
            self._packed -= len(empty.header) + len(empty.end)
            return True
        if not found or (self._packed <= self._most and min(found)[0] > self._gone_ns):
            return False
        capture = self._captures[min(found)[1]]
        gone = capture.chunks.pop(0)
        self._gone_ns = max(self._gone_ns, gone.last_ns)
        self._packed -= len(gone.packed)
        self.kept -= gone.failures
        self.left_out += gone.failures
        if not capture.chunks and capture is not self._captures[-1]:
            self._packed -= len(capture.header) + len(capture.end)
            self._captures.remove(capture)
        return True

    def packed(self) -> bytes:
        """Return all that is kept as one .jsonl.gz."""
        self._pack()
        return b"".join(
            part
            for each in self._captures
            for part in (each.header, *_bytes_of(each.chunks), each.end)
        )


def _bytes_of(chunks: Sequence[_Chunk]) -> list[bytes]:
    return [each.packed for each in chunks]
