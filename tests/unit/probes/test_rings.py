"""Ring buffers, as kernel/bpf/ringbuf.c lays them out: here in a file, whose data stand in it twice."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator

import pytest

from fork_trace.errors import ForkTraceError
from fork_trace.probes.libbpf import rings
from fork_trace.probes.libbpf.rings import Rings

PAGE = mmap.PAGESIZE
SIZE = 1 << 20
BUSY, DISCARDED = 1 << 31, 1 << 30


class Written:
    """A ring, as the kernel's side of it."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("ring")
        os.ftruncate(self.fd, 2 * PAGE + 2 * SIZE)
        self.written_to = 0

    def begin_at(self, position: int) -> None:
        """Let this be where all was read and written up to."""
        self.written_to = position
        for offset in (0, PAGE):
            os.pwrite(self.fd, struct.pack("Q", position), offset)

    def put(self, content: bytes, bits: int = 0) -> int:
        """Add a record; return where it begins."""
        begin = self.written_to
        record = struct.pack("II", len(content) | bits, 0) + content
        for offset, byte in enumerate(record):
            self._put_at(begin + offset, byte)
        self.written_to = begin + -(-len(record) // 8) * 8
        os.pwrite(self.fd, struct.pack("Q", self.written_to), PAGE)
        return begin

    def _put_at(self, position: int, byte: int) -> None:
        for copy in (0, SIZE):
            os.pwrite(self.fd, bytes([byte]), 2 * PAGE + copy + position % SIZE)

    def end(self, begin: int, length: int, bits: int = 0) -> None:
        """Say that the record which begins there is whole, or given up."""
        for copy in (0, SIZE):
            word = struct.pack("I", length | bits)
            os.pwrite(self.fd, word, 2 * PAGE + copy + begin % SIZE)

    @property
    def read_to(self) -> int:
        """How far its reader says that it has come."""
        return int.from_bytes(os.pread(self.fd, 8, 0), "little")


@pytest.fixture
def written() -> Iterator[Written]:
    ring = Written()
    yield ring
    os.close(ring.fd)


@pytest.fixture
def opened(written: Written) -> Iterator[Rings]:
    found = Rings({"events": (written.fd, SIZE)})
    yield found
    found.close()


def read(opened: Rings) -> list[bytes]:
    return opened.read(0.0)["events"]


def test_records_are_read_once_in_their_order(written: Written, opened: Rings) -> None:
    assert [] == read(opened)
    records = [bytes([number]) * number for number in range(23)]
    for record in records:
        written.put(record)

    assert records == read(opened)
    assert [] == read(opened)
    assert written.written_to == written.read_to


def test_what_is_given_up_is_passed_over(written: Written, opened: Rings) -> None:
    written.put(b"one")
    written.put(b"two", DISCARDED)
    written.put(b"three")

    assert [b"one", b"three"] == read(opened)


@pytest.mark.parametrize("bits, found", [(0, [b"two", b"three"]), (DISCARDED, [b"three"])])
def test_one_that_is_being_written_holds_up_what_comes_after_it(
    written: Written, opened: Rings, bits: int, found: list[bytes]
) -> None:
    written.put(b"one")
    begin = written.put(b"two", BUSY)
    written.put(b"three")

    assert [b"one"] == read(opened)
    assert ([], begin) == (read(opened), written.read_to)
    written.end(begin, 3, bits)

    assert found == read(opened)


@pytest.mark.parametrize("before", [8, 16, 24, PAGE, PAGE - 8, PAGE + 8])
def test_a_record_goes_on_behind_the_end_of_the_ring(
    written: Written, opened: Rings, before: int
) -> None:
    written.begin_at(5 * SIZE - before)
    records = [bytes([number]) * 700 for number in range(23)]
    for record in records:
        written.put(record)

    assert records == read(opened)


@pytest.mark.parametrize("length", [1, 8, 100, 4096, 5000, 70_000])
def test_any_window_reads_the_same(
    written: Written, opened: Rings, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rings, "_WINDOW_BYTES", 4096)
    written.begin_at(SIZE - 2 * length // 8 * 8)
    records = [bytes([number]) * length for number in range(7)]
    for record in records:
        written.put(record)

    assert records == read(opened)
    assert written.written_to == written.read_to


def test_what_cannot_be_mapped_stays_until_it_can(written: Written, opened: Rings) -> None:
    written.put(b"one")
    kept = os.dup(written.fd)
    os.close(written.fd)

    assert [] == read(opened)
    os.dup2(kept, written.fd)
    os.close(kept)

    assert [b"one"] == read(opened)


def test_what_is_not_a_ring_is_one_sentence() -> None:
    reader, writer = os.pipe()
    try:
        with pytest.raises(ForkTraceError, match="cannot map the ring buffers"):
            Rings({"events": (reader, SIZE)})
    finally:
        os.close(reader)
        os.close(writer)


def test_hardly_anything_is_mapped_while_nothing_is_read(written: Written) -> None:
    def mapped() -> int:
        with open("/proc/self/maps") as file:
            lines = [line for line in file if "memfd:ring" in line]
        bounds = (line.split()[0].split("-") for line in lines)
        return sum(int(end, 16) - int(begin, 16) for begin, end in bounds)

    opened = Rings({"events": (written.fd, SIZE)})
    at_first = mapped()
    written.put(b"one" * 1000)
    assert [b"one" * 1000] == read(opened)

    assert (2 * PAGE, 2 * PAGE) == (at_first, mapped())
    opened.close()
    assert 0 == mapped()
