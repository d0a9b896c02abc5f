"""Files of strangers that were made to be dear: what reading them costs, in work and in memory, is bounded."""

from __future__ import annotations

import os
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import hostile
import pytest
from conftest import make_advice, make_failure

from fork_trace import budget, escape
from fork_trace.budget import Budget, Kept, OverBudgetError
from fork_trace.collect.ration import Ration
from fork_trace.host import procfs
from fork_trace.host.procfs import Mapping
from fork_trace.model import records
from fork_trace.model.events import Place
from fork_trace.mounts import OwnMounts
from fork_trace.stacks import cfi, elf, layouts, names, perfmap, runs, symbol_files, symbols
from fork_trace.stacks.layouts import Caller

MOST_PEAK_BYTES = 16 << 20
UID = os.getuid()


@contextmanager
def peak() -> Iterator[Callable[[], int]]:
    """How much more memory is taken at most within this block."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    try:
        yield lambda: tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def ask_all(found: elf.Elf) -> None:
    tables = cfi.Tables(found)
    for vaddr in (hostile.CODE, hostile.CODE + 100, hostile.CALLED):
        for ask in (found.symbol, found.called, tables.row):
            with suppress(OverBudgetError):
                ask(vaddr)


@pytest.mark.parametrize("name", sorted(hostile.ELFS))
def test_no_file_takes_more_work_or_memory_than_one_may(name: str) -> None:
    image = hostile.ELFS[name]()
    read: list[int] = []

    def reader(size: int, offset: int) -> bytes:
        piece = image[offset : offset + size]
        read.append(len(piece))
        return piece

    cost = Budget(budget.of_a_file().most)
    with peak() as most:
        ask_all(elf.Elf(reader, cost))

        assert most() < MOST_PEAK_BYTES
    assert cost.left >= 0
    assert sum(read) < MOST_PEAK_BYTES
    assert len(read) < 20_000


def test_a_section_of_a_kind_is_read_once_and_only_so_far() -> None:
    image = hostile.many_relocations()
    read: list[tuple[int, int]] = []

    def reader(size: int, offset: int) -> bytes:
        read.append((offset, size))
        return image[offset : offset + size]

    found = elf.Elf(reader, Budget(1e9))

    assert found.called(hostile.CALLED) is None
    assert sum(size for offset, size in read if 0x2040 <= offset < 0x2040 + (2 << 20)) < 3 << 20


def test_a_large_table_is_read_on_later_and_names_nothing_before() -> None:
    """As many symbols as are ever read: names come with patience, and they are right."""
    count = (16 << 20) // 24
    strings = b"\0outer\0inner\0".ljust(64, b"\0")
    one = struct.pack("<IBBHQQ", 1, 2, 0, 1, hostile.CODE, 4096)
    last = struct.pack("<IBBHQQ", 7, 2, 0, 1, hostile.CODE + 64, 64)
    image = hostile.image(
        strings + one * (count - 1) + last,
        [
            hostile.section(0, hostile.SHT_SYMTAB, 0x2040, count * 24, 1),
            hostile.section(0, hostile.SHT_STRTAB, 0x2000, 64),
        ],
        (0x2000, 1),
    )
    cost = Budget(100_000)
    found = elf.Elf(lambda size, offset: image[offset : offset + size], cost)
    goes = 0
    while True:
        cost.left = cost.most
        try:
            name = found.symbol(hostile.CODE + 65)
            break
        except OverBudgetError:
            goes += 1

    assert goes >= 2
    assert (b"inner", b"outer") == (name, found.symbol(hostile.CODE + 1))
    assert found.kept_bytes < 6 << 20


def test_work_is_earned_back_and_what_is_above_is_paid_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    above = Budget(15)
    cost = Budget(10, 5, above)
    cost.pay(10)
    with pytest.raises(OverBudgetError):
        cost.pay(1)
    assert 5 == above.left
    now[0] += 1
    cost.pay(5)
    now[0] += 100
    with pytest.raises(OverBudgetError):
        cost.pay(1)
    assert (10, 0) == (cost.left, above.left)


def test_after_so_much_of_our_own_time_nothing_is_paid(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "process_time", lambda: now[0])
    above = Budget(1000)
    cost = Budget(1000, above=above)
    above.within(1)
    cost.pay()
    now[0] = 101
    with pytest.raises(OverBudgetError):
        cost.pay()
    above.within(None)
    cost.pay()


def test_what_is_kept_has_its_size_and_what_was_asked_for_stays() -> None:
    kept: Kept[int, str] = Kept(100)
    for number in range(10):
        kept.put(number, str(number), 10)
    assert "0" == kept.get(0)
    kept.put(10, "10", 15)

    assert [False, False, True] == [number in kept for number in (1, 2, 0)]
    assert 95 == kept.size
    kept.put(11, "too large", 101)
    assert (11 in kept, 95) == (False, kept.size)


def test_numbers_that_come_in_pieces_are_found_nearest_first() -> None:
    found = runs.Runs(8)
    found.add([5 << 8 | 1, 9 << 8 | 2, 1 << 70])
    found.add([7 << 8 | 3, 5 << 8 | 4])

    assert [(9, 2), (7, 3), (5, 4), (5, 1)] == found.before(20, 9)
    assert [(7, 3), (5, 4)] == found.before(8, 2)
    assert [] == found.before(4, 2)
    assert (4, None) == (found.latest(5), found.latest(6))
    assert found.before((1 << 64) - 1, 1) == [(9, 2)]


def proc(root: Path, content: bytes) -> Path:
    (root / "42/root/tmp").mkdir(parents=True, exist_ok=True)
    (root / "42/status").write_text("NSpid:\t42\n")
    (root / "42/root/tmp/perf-42.map").write_bytes(content)
    return root / "42/root/tmp/perf-42.map"


def patiently(maps: perfmap.PerfMaps, address: int, goes: int = 20) -> str | None:
    for _ in range(goes):
        name = maps.name(42, UID, address)
        known = maps._maps.get(42)
        assert known is not None
        if known.is_whole or known.is_too_long:
            break
        known.cost.left = known.cost.most
    return name


def test_a_map_of_more_lines_than_any_honest_one_has_names_nothing_and_takes_little(
    tmp_path: Path,
) -> None:
    proc(tmp_path, hostile.perf_map(300_000))
    maps = perfmap.PerfMaps(OwnMounts(), str(tmp_path))
    with peak() as most:
        assert patiently(maps, 0x10005) is None

        assert most() < 8 << 20
    assert maps.kept_bytes < 8192


def test_of_a_map_that_grows_only_what_was_appended_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = proc(tmp_path, hostile.perf_map(100_000))
    maps = perfmap.PerfMaps(OwnMounts(), str(tmp_path))
    assert "a" == patiently(maps, 0x10005)
    known = maps._maps.get(42)
    assert known is not None and known.kept_bytes < 1 << 20
    read: list[int] = []
    pread = os.pread

    def noted(fd: int, size: int, offset: int) -> bytes:
        read.append(size)
        return pread(fd, size, offset)

    monkeypatch.setattr(os, "pread", noted)
    for number in range(3):
        known.looked_s -= 10
        with path.open("ab") as file:
            file.write(b"%x 1 later\n10005 1 newer%d\n" % (0x90000 + number, number))

        assert "later" == maps.name(42, UID, 0x90000 + number)
        assert f"newer{number}" == maps.name(42, UID, 0x10005)

    assert 0 < sum(read) < 16384


def test_a_map_that_is_not_read_to_its_end_names_nothing(tmp_path: Path) -> None:
    proc(tmp_path, hostile.perf_map(200_000) + b"10005 1 newer\n")
    maps = perfmap.PerfMaps(OwnMounts(), str(tmp_path))

    assert maps.name(42, UID, 0x10005) is None
    assert "newer" == patiently(maps, 0x10005)


def test_a_map_that_was_written_anew_is_read_anew_on_the_same_budget(tmp_path: Path) -> None:
    path = proc(tmp_path, hostile.perf_map(50_000))
    maps = perfmap.PerfMaps(OwnMounts(), str(tmp_path))
    assert "a" == maps.name(42, UID, 0x10005)
    known = maps._maps.get(42)
    assert known is not None
    known.looked_s -= 10
    left = known.cost.left
    path.unlink()
    proc(tmp_path, b"10005 1 other\n")

    assert "other" == maps.name(42, UID, 0x10005)
    again = maps._maps.get(42)
    assert again is not None and again.cost is known.cost
    assert again.cost.left < left + 50_000


def mapped(number: int, path: Path) -> Mapping:
    start = 0x10_0000_0000 + (number << 20)
    return Mapping(start, start + 4096, hostile.CODE_AT, "fe:00", 10_000_000 + number, str(path))


def test_all_that_is_kept_of_many_hostile_files_stays_below_16_mb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kind of file many times over, each as another file, under paths that are long."""
    place = tmp_path / ("d" * 200) / ("e" * 200)
    place.mkdir(parents=True)
    mappings: list[Mapping] = []
    for kind, make in hostile.ELFS.items():
        first = place / kind
        first.write_bytes(make())
        for number in range(3):
            mapping = mapped(len(mappings), place / f"{kind}{number}{'f' * 200}")
            os.link(first, str(mapping.path))
            mappings.append(Mapping(**{**vars(mapping), "inode": first.stat().st_ino + 0}))
    found = symbols.Symbols()
    monkeypatch.setattr(procfs, "mappings", lambda pid: mappings)
    # Each is another file by its device.
    mappings = [
        Mapping(**{**vars(each), "device": f"{number:02x}:00"})
        for number, each in enumerate(mappings)
    ]
    caller = Caller(2**22 + 1, UID)
    with peak() as most:
        for each in mappings:
            places = [Place(each.start + at) for at in (0, 100, hostile.CALLED - hostile.CODE)]
            found._work.left = found._work.most
            found.note(caller, places, None)
            frames, _ = found.frames(caller, places, None)

            assert len(frames) == 3
            assert found.kept_bytes < 16 << 20
        assert most() < 48 << 20
    found.close()


def test_what_has_room_in_each_cache_is_below_16_mb_together() -> None:
    path = symbol_files._MOST_PATH
    rooms = [
        *(symbol_files._FILES_BYTES, layouts._LAYOUTS_BYTES, symbols._ROWS_BYTES),
        *(names._NAMES_BYTES, names._STACKS_BYTES),
        *(perfmap._KEPT_MAPS_BYTES, perfmap._KEPT_NAMES_BYTES),
        symbol_files._PATHS * (2 * path + 512),
        symbol_files._PROGRAMS * (2 * path + 1664),
        *(128 * symbol_files._MISSED, 512 * symbol_files._LOST_FILES),
    ]

    assert sum(rooms) <= 16 << 20


def test_a_process_that_maps_more_than_any_honest_one_is_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = symbols.Symbols()
    calls: list[int] = []
    many = [mapped(number, Path("/srv/app")) for number in range(4096)]

    def noted(pid: int) -> list[Mapping]:
        calls.append(pid)
        return many

    monkeypatch.setattr(procfs, "mappings", noted)
    for _ in range(5):
        found.note(Caller(7, UID), [Place(many[9].start)], None)

    assert 0 < len(calls) < 5
    assert found._layouts.kept.size < 1024
    found.close()


def test_a_long_name_is_cut_in_its_middle_where_it_can_be_seen() -> None:
    cut = escape.cut("a" * 600 + "/app.so")

    assert (512, True, True) == (len(cut), cut.endswith("/app.so"), "\u2026" in cut)
    assert "short" == escape.cut("short")


def long_stack(symbol: str) -> tuple[records.Frame, ...]:
    return tuple(
        records.Frame(number, symbol, f"/{symbol}", number, "ab" * 20) for number in range(118)
    )


@pytest.mark.parametrize("char", ["x", "\u00fc", "\U0001f600", "\x01", "\udcff"])
def test_a_record_has_at_most_64_kb_and_tells_what_it_lacks(char: str) -> None:
    whole = make_failure(
        **{name: char * 4096 for name in ("exe", "cgroup", "caller", "script")},
        advice=(make_advice(text=char * 9000, commands=(char * 9000,)),) * 4,
        container={"runtime": "docker", "id": char * 4096, "name": None, "pod": char * 4096},
        stack=long_stack(char * 512),
        stack_by="unwinding",
    )
    bounded = records.bounded(whole)

    assert len(records.to_json(bounded)) <= records.MOST_BYTES
    assert 118 == len(bounded.stack) + bounded.frames_omitted
    assert bounded.frames_omitted > 0
    assert bounded == records.bounded(bounded)


def test_an_ordinary_record_is_as_it_was() -> None:
    failure = make_failure(stack=long_stack("run_job"), stack_by="unwinding")

    assert failure is records.bounded(failure)


def test_a_storm_of_long_stacks_is_short_soon_and_then_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Half a minute of eighty samples a second."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    ration = Ration()
    failure = make_failure(stack=long_stack("x" * 512), stack_by="unwinding")
    sizes, left_out = [], 0
    for number in range(30 * 80):
        now[0] += 1 / 80
        told = ration.fitted(failure, is_first=number == 0)
        if told is None:
            left_out += 1
        else:
            sizes.append(len(records.to_json(told)))

    assert sum(sizes) < 25 << 20
    assert max(sizes) <= records.MOST_BYTES
    assert left_out and 30 * 80 == len(sizes) + left_out
    assert ration.fitted(failure, is_first=True) is not None
