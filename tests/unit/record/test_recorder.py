"""What a recorder leaves: all that happened, in files within bounds, whatever happens to it or to the disk."""

from __future__ import annotations

import errno
import gzip
import json
import os
import shutil
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import schema
from click.testing import CliRunner
from conftest import make_death, make_evidence, make_failure, make_header, make_summary

from fork_trace.collect.clock import Jump
from fork_trace.commands import cli
from fork_trace.errors import ForkTraceError
from fork_trace.model.records import Failure, Frame, Header, Incident, Summary, to_json
from fork_trace.output.aggregate import Table
from fork_trace.record import recorder as recorder_module
from fork_trace.record import segments as segments_module
from fork_trace.record.account import Account
from fork_trace.record.captures import Captures
from fork_trace.record.packing import Packer
from fork_trace.record.recorder import CHECKPOINT_S, Recorder
from fork_trace.record.segments import Bounds, Segments
from fork_trace.record.selection import Selection
from fork_trace.record.times import iso_ns

WIDE = Bounds(64 << 20, 30 * 86400.0, 0)


class Watched:
    """A host whose failures are known: what `Session` is to the recorder, with a clock of its own."""

    def __init__(self) -> None:
        self.now_s, self.wall_s = 1000.0, 1_764_000_000.0
        self.truth: Counter[str | None] = Counter()  # all that happened
        self._owed: Counter[str] = Counter()  # counted, and not sampled
        self._segment: Counter[str] = Counter()
        self._next: list[Failure] = []
        self.jumps: list[Jump] = []
        self.deaths: list[Incident] = []
        self._segments = self._failures = 0
        self.tick = 1.0

    def fail(self, comm: str, count: int = 1, sampled: bool = True) -> None:
        self.truth[comm] += count
        self._segment[comm] += count
        self._failures += count
        if sampled:
            self._next.append(self._made(comm, count))
        else:
            self._owed[comm] += count

    def _made(self, comm: str, count: int) -> Failure:
        frame = Frame(4096, "popen", "/lib/libc.so.6")
        return make_failure(
            **{"comm": comm, "count": count, "cause": "pids-cgroup", "stack": (frame,) * 9},
            evidence=(make_evidence(),),
            time_ns=1_764_000_000 * 10**9 + round(self.now_s * 1e9),
        )

    def header(self) -> Header:
        return make_header(time=f"2026-11-28T03:00:00.{self._segments:06d}Z", boot_id="b" * 32)

    def tick_s(self) -> float:
        return self.tick

    def poll(self, timeout_s: float) -> list[Failure]:
        self.now_s += timeout_s
        self.wall_s += timeout_s
        told, self._next = self._next, []
        return told

    def incidents(self) -> list[Incident]:
        told, self.deaths = self.deaths, []
        return list(told)

    def settle(self) -> list[Failure]:
        owed, self._owed = self._owed, Counter()
        return [self._made(comm, count) for comm, count in owed.items()]

    def failures(self) -> int:
        return self._failures

    def totals(self, ended: str) -> Summary:
        totals = tuple(
            {
                **{"comm": comm, "uid": 0, "cgroup": "/", "syscall": "clone", "creates": "process"},
                **{"errno": "EAGAIN", "step": "cgroup_can_fork", "cause": "pids-cgroup"},
                **{"certainty": "observed", "count": count},
            }
            for comm, count in self._segment.most_common(300)
        )
        number = sum(self._segment.values())
        causes = {"pids-cgroup": number} if number else {}
        return make_summary(failures=number, causes=causes, totals=totals, ended=ended)

    def renew(self) -> tuple[list[Failure], Summary]:
        told = self.poll(0.0) + self.settle()
        summary = self.totals("rotation")
        self._segment = Counter()
        self._segments += 1
        return told, summary

    def follow_clock(self) -> list[Jump]:
        jumps, self.jumps = self.jumps, []
        return jumps

    def stop(self) -> list[Failure]:
        return self.poll(0.0) + self.settle()

    def finish(self, ended: str) -> Summary:
        return self.totals(ended)


@pytest.fixture
def host() -> Watched:
    return Watched()


@pytest.fixture
def make(tmp_path: Path, host: Watched) -> Callable[..., Recorder]:
    """Make a recorder into `tmp_path / "log"` whose time is the host's."""

    def made(bounds: Bounds = WIDE, report: Callable[[str], None] = print) -> Recorder:
        files = Segments(
            str(tmp_path / "log"), bounds, None, lambda: host.now_s, lambda: host.wall_s
        )
        recorder = Recorder(host, files, report, lambda: host.now_s)
        recorder.begin()
        return recorder

    return made


def closed(recorder: Recorder) -> None:
    recorder.end()
    recorder._segments.close()


def files(directory: Path) -> list[Path]:
    """The captures, packed or not, oldest first; nothing else may be there."""
    found = sorted((directory / "log").glob("*.jsonl*"))
    assert {file.suffix for file in found} <= {".jsonl", ".gz"}
    return found


def text_of(file: Path) -> str:
    data = file.read_bytes()
    return (gzip.decompress(data) if file.suffix == ".gz" else data).decode()


def read(directory: Path, by: str = "command") -> Table:
    account = Account((by,), Selection())
    for _ in account.take(Captures([str(directory)]).read()):
        pass
    return account.counted


def counted(directory: Path) -> Counter[str | None]:
    return Counter({row.key[0]: row.count for row in read(directory).rows()})


def test_what_was_recorded_is_what_happened(
    tmp_path: Path, host: Watched, make: Callable[..., Recorder]
) -> None:
    recorder = make()
    for second in range(300):
        host.fail("sh", 1 + second % 3)
        host.fail(f"job{second % 7}", sampled=second % 2 == 0)
        recorder.step(begins_anew=second % 100 == 99)
    closed(recorder)

    assert host.truth == counted(tmp_path / "log")
    assert not read(tmp_path / "log").completeness.is_lower_bound
    assert 4 == len(files(tmp_path))
    assert 2 == len(list((tmp_path / "log").glob("*.jsonl.gz")))
    for file in files(tmp_path):
        kinds = [each["type"] for each in schema.read(text_of(file))]
        assert ("header", "summary") == (kinds[0], kinds[-1])
        assert 0o600 == file.stat().st_mode & 0o777
    assert 0o700 == (tmp_path / "log").stat().st_mode & 0o777


def test_killed_at_any_moment_it_has_told_no_more_than_happened_nor_less_than_its_checkpoint(
    tmp_path: Path, host: Watched, make: Callable[..., Recorder]
) -> None:
    recorder = make()
    proved = at_60 = at_120 = 0
    for second in range(140):
        host.fail("sh", 1 + second % 3, sampled=second % 5 != 0)
        host.fail(f"job{second % 7}")
        recorder.step(begins_anew=second == 100)
        if second == CHECKPOINT_S:
            at_60 = sum(host.truth.values()) - 10
        if second == 2 * CHECKPOINT_S:
            at_120 = sum(host.truth.values()) - 10
        if second % 9:
            continue
        left = tmp_path / f"left-{second}"
        shutil.copytree(tmp_path / "log", left)
        found = counted(left)
        assert not found - host.truth
        if second > CHECKPOINT_S:
            proved = at_60 if second < 2 * CHECKPOINT_S else at_120
        assert sum(found.values()) >= proved
        shutil.rmtree(left)


def test_a_storm_takes_few_records_and_keeps_its_count(
    tmp_path: Path, host: Watched, make: Callable[..., Recorder]
) -> None:
    recorder = make()
    for _ in range(600):
        for _ in range(30):
            host.fail("java")
        recorder.step()
    closed(recorder)

    (file,) = (tmp_path / "log").glob("*.jsonl")
    assert file.stat().st_size < 200_000
    (row,) = read(tmp_path / "log").rows()
    assert 18_000 == row.count
    assert row.sample and row.sample.stack  # the first one is whole
    failures = [each for each in schema.read(file.read_text()) if each["type"] == "failure"]
    assert {()} == {tuple(each["advice"]) for each in failures}
    assert 1 == sum(bool(each["stack"]) for each in failures)
    # What to do follows from the rest.
    done = CliRunner().invoke(cli.cli, ["report", str(file)])
    assert "-> Mitigate" in done.stdout


@pytest.mark.parametrize("partial", [0, 100])
def test_a_full_disk_costs_details_and_no_count(
    tmp_path: Path,
    host: Watched,
    make: Callable[..., Recorder],
    monkeypatch: pytest.MonkeyPatch,
    partial: int,
) -> None:
    said: list[str] = []
    monkeypatch.setattr(segments_module, "_MOST_WAITING_BYTES", 20_000)
    recorder = make(report=said.append)
    put, is_full = recorder._segments._put, False
    room = [partial]

    def until_full(data: bytes) -> int:
        if not is_full:
            return put(data)
        if room[0]:
            done = put(data[: room[0]])
            room[0] -= done
            return done
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(recorder._segments, "_put", until_full)
    for second in range(200):
        is_full = 50 <= second < 150
        for number in range(5):
            host.fail(f"job{(second * 5 + number) % 90}")
        recorder.step(begins_anew=second == 100)
    closed(recorder)

    assert recorder._segments.dropped > 0
    assert sum(host.truth.values()) == sum(counted(tmp_path / "log").values())
    assert not counted(tmp_path / "log") - host.truth
    assert "No space left on device" in said[0]
    assert f"{recorder._segments.dropped} records were dropped so far" in said[1]
    for file in files(tmp_path):
        schema.read(text_of(file))  # no line is torn


@pytest.mark.parametrize("room", [0, 1, 700, 3_000, 6_000, 9_000, 12_000, 15_000])
def test_a_disk_that_fills_up_while_a_file_ends_costs_neither_of_the_two(
    tmp_path: Path,
    host: Watched,
    make: Callable[..., Recorder],
    monkeypatch: pytest.MonkeyPatch,
    room: int,
) -> None:
    """What has no room any more belongs to the old file, and none of it into the new one before its header."""
    recorder = make(report=lambda _: None)
    put, is_full, left = recorder._segments._put, False, [room]

    def until_full(data: bytes) -> int:
        done = put(data[: left[0]] if is_full else data)
        left[0] -= done if is_full else 0
        return done or _no_room()

    def _no_room() -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(recorder._segments, "_put", until_full)
    for second in range(60):
        is_full = 30 <= second < 45
        for number in range(5):
            host.fail(f"job{number}")
            host.fail(f"counted{number}", sampled=False)
        recorder.step(begins_anew=second in (30, 50))
    closed(recorder)

    assert host.truth == counted(tmp_path / "log")
    assert not read(tmp_path / "log").completeness.is_lower_bound
    assert 3 == len(files(tmp_path))
    for file in files(tmp_path):
        kinds = [each["type"] for each in schema.read(text_of(file))]
        assert ("header", "summary") == (kinds[0], kinds[-1])


def test_a_night_without_a_failure_is_recorded_and_no_gap(
    tmp_path: Path,
    host: Watched,
    make: Callable[..., Recorder],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begin_ns, begin_s = iso_ns(host.header().time), host.now_s
    assert begin_ns is not None

    def now_ns() -> int:
        return begin_ns + round((host.now_s - begin_s) * 1e9)

    monkeypatch.setattr(recorder_module, "time", SimpleNamespace(time_ns=now_ns))
    recorder = make()
    while host.now_s < begin_s + 7200:
        recorder.step()

    for since_s, is_known in ((3600, True), (60, True), (-3600, False)):
        account = Account(("command",), Selection(since_ns=now_ns() - since_s * 10**9))
        for _ in account.take(Captures([str(tmp_path / "log")]).read()):
            pass
        assert bool(account.unrecorded()) != is_known, since_s
    size = sum(len(file.read_bytes()) for file in files(tmp_path))
    closed(recorder)
    assert size < 10_000


def test_deaths_that_wait_for_room_are_dropped_as_failures_are(
    host: Watched, make: Callable[..., Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments_module, "_MOST_WAITING_BYTES", 20_000)
    recorder = make()

    def full(data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(recorder._segments, "_put", full)
    host.deaths = [make_death() for _ in range(230)]
    recorder.step()

    assert recorder._segments._waiting_bytes <= 20_000
    assert 0 < recorder._segments.dropped < 230


def test_the_files_stay_within_their_bounds_and_the_oldest_go_first(
    tmp_path: Path, host: Watched, make: Callable[..., Recorder]
) -> None:
    bounds = Bounds(256 << 10, 30 * 86400.0, 0)
    recorder = make(bounds)
    for second in range(8000):
        host.fail(f"job{second}")
        recorder.step()
        if second % 200 == 0:
            assert size_of(tmp_path / "log") <= bounds.size
    closed(recorder)

    assert 9 <= len(files(tmp_path))  # packed, more of them fit in
    assert size_of(tmp_path / "log") <= bounds.size
    text = "".join(map(text_of, files(tmp_path)))
    assert '"job7999"' in text and '"job0"' not in text


def size_of(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.glob("2*"))


def test_keep_free_leaves_the_rest_of_the_disk_to_others(
    tmp_path: Path, host: Watched, make: Callable[..., Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    recorder = make(Bounds(1 << 30, 1e9, 1000), said.append)
    host.fail("before")
    recorder.step()

    with monkeypatch.context() as changed:
        changed.setattr(recorder._segments, "_lacks_room", lambda: True)
        recorder._segments.tend()
        size = size_of(tmp_path / "log")
        host.fail("meanwhile")
        recorder.step()
        assert size == size_of(tmp_path / "log")
    recorder._segments.tend()
    closed(recorder)

    assert Counter({"before": 1, "meanwhile": 1}) == counted(tmp_path / "log")
    assert "--keep-free" in said[0]


def test_a_clock_that_was_set_is_marked_and_removes_nothing(
    tmp_path: Path, host: Watched, make: Callable[..., Recorder]
) -> None:
    host.wall_s = time.time()  # which the files have
    recorder = make(Bounds(1 << 20, 86400.0, 0))
    host.fail("sh")
    recorder.step(begins_anew=True)
    for ahead_s in (10 * 365 * 86400.0, -9 * 365 * 86400.0):
        host.now_s += 7200
        host.wall_s += ahead_s
        host.jumps = [Jump("clock", 0, round(host.wall_s * 1e9))]
        recorder.step(begins_anew=True)
    assert 4 == len(files(tmp_path))

    # Once it stood still for an hour, it is believed.
    host.now_s += 7200
    recorder._segments.tend()
    closed(recorder)

    assert 1 == len(files(tmp_path))


def test_a_suspend_and_a_time_without_a_recorder_are_told(
    tmp_path: Path, host: Watched, make: Callable[..., Recorder]
) -> None:
    recorder = make()
    host.jumps = [Jump("resumed", 10**18, 10**18 + 3600 * 10**9)]
    recorder.step()
    closed(recorder)
    host.now_s += 7200
    host.renew()
    closed(make())

    gaps = read(tmp_path / "log").completeness.gaps

    assert ["resumed", "gap"] == sorted((gap.kind for gap in gaps), reverse=True)
    text = CliRunner().invoke(cli.cli, ["report", str(tmp_path / "log")]).stdout
    assert "suspended on" in text
    assert "not watching on" in text


def test_a_restart_begins_a_file_of_its_own(
    tmp_path: Path, host: Watched, make: Callable[..., Recorder]
) -> None:
    recorder = make()
    host.fail("sh")
    recorder.step()
    (file,) = (tmp_path / "log").glob("*.jsonl")
    recorder._segments.close()  # as if it were killed
    with open(file, "ab") as torn:
        torn.write(b'{"type": "failu')
    before = file.read_bytes()
    host.renew()

    closed(make())

    assert before == file.read_bytes()
    assert Counter({"sh": 1}) == counted(tmp_path / "log")
    assert read(tmp_path / "log").completeness.is_lower_bound


def test_a_week_with_many_commands_takes_no_more_memory_than_its_first_day(
    tmp_path: Path, host: Watched, make: Callable[..., Recorder]
) -> None:
    recorder = make(Bounds(2 << 20, 30 * 86400.0, 0))
    host.tick = 7 * 86400 / 300
    tracemalloc.start()
    base = 0
    for number in range(300):
        for each in range(8):
            host.fail(f"c{number}-{each}")
        host.truth.clear()
        recorder.step()
        if number == 150:
            base = tracemalloc.get_traced_memory()[0]
    grown = tracemalloc.get_traced_memory()[0] - base
    tracemalloc.stop()
    recorder._segments.close()

    assert size_of(tmp_path / "log") <= 2 << 20
    assert grown < 1 << 20, grown
    assert len(recorder._folder._states) == 1024


def test_deaths_are_recorded_and_counted_at_a_checkpoint(
    tmp_path: Path, host: Watched, make: Callable[..., Recorder]
) -> None:
    recorder = make()
    host.deaths = [make_death(), make_death(pid=121)]
    recorder.step()
    host.now_s += CHECKPOINT_S
    recorder.step()
    recorder._segments.close()  # as if it were killed

    written = [
        json.loads(line) for file in (tmp_path / "log").glob("*.jsonl") for line in file.open()
    ]
    assert [120, 121] == [each["pid"] for each in written if each["type"] == "death"]
    assert "checkpoint" == written[-1]["type"]
    assert 2 == sum(
        each["count"] for each in read(tmp_path / "log").incidents.as_json()["death_places"]
    )


def test_two_recorders_do_not_share_a_directory(
    tmp_path: Path, make: Callable[..., Recorder]
) -> None:
    recorder = make()
    with pytest.raises(ForkTraceError, match="another recorder writes to") as raised:
        Segments(str(tmp_path / "log"), WIDE)
    assert raised.value.hint
    closed(recorder)
    Segments(str(tmp_path / "log"), WIDE).close()


def test_a_directory_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    for path, words in (("open", "can be written by others"), ("none/at/all", "No such file")):
        with pytest.raises(ForkTraceError, match=words):
            Segments(str(tmp_path / path), WIDE)
    (tmp_path / "file").touch()
    with pytest.raises(ForkTraceError, match="Not a directory"):
        Segments(str(tmp_path / "file"), WIDE)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write there")
def test_who_may_not_record_there_is_told_of_root_and_not_only_of_another_directory(
    tmp_path: Path,
) -> None:
    (tmp_path / "closed").mkdir(0o500)

    with pytest.raises(ForkTraceError, match="Permission denied") as raised:
        Segments(str(tmp_path / "closed" / "log"), WIDE)

    assert raised.value.hint.startswith("Run it as root")


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--max-size=1K", "at least 1M"),
        ("--max-size=much", "give a size"),
        ("--keep-free=-1", "give a size"),
        ("--keep-free=100%", "give a size"),
        ("--max-age=soon", "give a time"),
        ("--max-age=1s", "at least a minute"),
    ],
)
def test_bounds_that_make_no_sense_are_refused(argument: str, words: str) -> None:
    done = CliRunner().invoke(cli.cli, ["record", argument])

    assert 2 == done.exit_code
    assert words in " ".join(done.output.replace("\u2502", " ").split())


def test_a_record_goes_through_every_format(
    tmp_path: Path, host: Watched, make: Callable[..., Recorder]
) -> None:
    """Header, failure, checkpoint, each mark and summary: in files, read, printed and held to the schema."""
    recorder = make()
    host.fail("sh", 3)
    host.jumps = [Jump("resumed", 10**18, 2 * 10**18), Jump("clock", 2 * 10**18, 10**18)]
    for _ in range(65):
        recorder.step()
    host.fail("sh")
    closed(recorder)
    host.renew()
    closed(make())
    seen = Counter(
        each["type"] if each["type"] != "mark" else each["kind"]
        for file in files(tmp_path)
        for each in schema.read(file.read_text())
    )

    assert {"header", "failure", "checkpoint", "summary"} <= set(seen)
    assert {"started", "stopped", "gap", "resumed", "clock"} <= set(seen)
    for format_ in ("table", "json", "jsonl", "markdown", "csv"):
        done = CliRunner().invoke(cli.cli, ["report", str(tmp_path / "log"), "--format", format_])
        assert 1 == done.exit_code, done.output
        if format_ in ("json", "jsonl"):
            *records, last = schema.read(done.stdout)
            assert (4, 3) == (last["failures"], len(last["gaps"]))
            json.dumps(records)


def test_a_file_is_packed_a_little_at_a_time_and_read_all_the_while(
    tmp_path: Path, host: Watched, make: Callable[..., Recorder]
) -> None:
    recorder = make()
    for number in range(2000):
        host.fail(f"job{number}")
        recorder.step(begins_anew=number == 1999)
    (plain,) = (file for file in files(tmp_path) if file.stat().st_size > 1 << 20)
    age_ns = plain.stat().st_mtime_ns
    found = Captures([str(plain)])
    looks = 0
    while plain.exists():
        recorder.step()
        looks += 1
        if looks % 4 == 0:
            assert 2000 == sum(counted(tmp_path / "log").values())
    packed = plain.with_suffix(".jsonl.gz")

    assert looks > 8
    assert 10 * packed.stat().st_size < len(text_of(packed))
    assert (0o600, age_ns) == (packed.stat().st_mode & 0o777, packed.stat().st_mtime_ns)
    # Who listed the directory before finds it.
    assert 2000 == sum(each.count for each in found.read() if isinstance(each, Failure))


def test_killed_while_it_packs_it_leaves_the_file_and_no_part_of_it(
    tmp_path: Path, host: Watched, make: Callable[..., Recorder]
) -> None:
    recorder = make()
    for number in range(500):
        host.fail(f"job{number}")
        recorder.step(begins_anew=number == 499)
    for _ in range(3):
        recorder.step()
    (part,) = (tmp_path / "log").glob("*.packing")
    data = part.read_bytes()
    closed(recorder)
    part.write_bytes(data)  # as a killed one leaves it

    again = make()
    assert not list((tmp_path / "log").glob("*.packing"))
    for _ in range(60):
        host.now_s += 1
        again.step()
    closed(again)
    assert [".gz", ".gz", ".jsonl"] == [file.suffix for file in files(tmp_path)]
    assert host.truth == counted(tmp_path / "log")


def test_a_file_that_may_not_be_read_keeps_none_of_the_others_from_being_packed(
    tmp_path: Path, host: Watched, make: Callable[..., Recorder]
) -> None:
    (tmp_path / "log").mkdir(mode=0o700)
    (tmp_path / "other").write_text(to_json(make_header()) + "\n")
    (tmp_path / "log" / "20200101T000000Z-b.jsonl").symlink_to(tmp_path / "other")
    recorder = make()
    for number in range(50):
        host.now_s += 1
        host.fail("sh")
        recorder.step(begins_anew=number == 20)
    closed(recorder)

    assert [".jsonl", ".gz", ".jsonl"] == [file.suffix for file in files(tmp_path)]


def test_a_disk_without_room_for_a_packed_file_leaves_it_as_it_is(
    tmp_path: Path,
    host: Watched,
    make: Callable[..., Recorder],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(_self: Packer, _data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    recorder = make()
    for number in range(50):
        host.fail(f"job{number}")
        recorder.step(begins_anew=number == 49)
    with monkeypatch.context() as changed:
        changed.setattr(Packer, "_put", full)
        for _ in range(30):
            host.now_s += 1
            recorder.step()
    assert [".jsonl", ".jsonl"] == [file.suffix for file in (tmp_path / "log").glob("2*")]
    host.now_s += 3600
    for _ in range(30):
        host.now_s += 1
        recorder.step()
    closed(recorder)

    assert [".gz", ".jsonl"] == [file.suffix for file in files(tmp_path)]
    assert host.truth == counted(tmp_path / "log")
