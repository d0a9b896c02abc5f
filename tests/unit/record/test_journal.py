"""What the journal is told: each cause with the same id for ever, seldom, exactly, and without waiting."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import make_advice, make_death, make_evidence, make_failure

from fork_trace.diagnosis.causes import CAUSES
from fork_trace.model.records import Level
from fork_trace.record import journal as journal_module
from fork_trace.record.entries import message_id
from fork_trace.record.journal import Journal

ROOT = Path(__file__).resolve().parents[3]
CATALOG = ROOT / "fork_trace" / "deploy" / "systemd" / "fork-trace.catalog"


class Journald:
    """A socket that is read as systemd's docs/JOURNAL_NATIVE_PROTOCOL.md says."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.setblocking(False)

    def entries(self) -> list[dict[str, str]]:
        found = []
        while True:
            try:
                found.append(decoded(self._socket.recv(1 << 20)))
            except BlockingIOError:
                return found


def decoded(data: bytes) -> dict[str, str]:
    fields: dict[str, str] = {}
    while data:
        line, _, data = data.partition(b"\n")
        name, is_plain, value = line.partition(b"=")
        if not is_plain:
            size = int.from_bytes(data[:8], "little")
            value, data = data[8 : 8 + size], data[8 + size :]
            assert data[:1] == b"\n"
            data = data[1:]
        assert name.decode() not in fields
        fields[name.decode()] = value.decode()
    return fields


@pytest.fixture
def journald(tmp_path: Path) -> Journald:
    return Journald(tmp_path / "socket")


def of_unit(unit: str, **changes: Any) -> Any:
    return make_failure(
        cgroup=f"/system.slice/{unit}",
        container={"runtime": "systemd", "id": None, "unit": unit},
        evidence=(make_evidence(where=f"/sys/fs/cgroup/system.slice/{unit}"),),
        **changes,
    )


def test_a_cause_has_its_id_for_ever() -> None:
    # Whoever filters by it, or translated the catalogue, has it written down.
    assert "dfad0b90b14a8e0a90301a4648105293" == message_id("pids-cgroup")
    assert "a0bd76baed2680b68a1cd5d94739de40" == message_id("rlimit-nproc")
    assert len(CAUSES) == len({message_id(cause.slug) for cause in CAUSES})


@pytest.mark.skipif(shutil.which("journalctl") is None, reason="journalctl is not installed")
def test_systemd_takes_the_catalog_and_has_a_text_for_each_cause(tmp_path: Path) -> None:
    place = tmp_path / "usr" / "lib" / "systemd" / "catalog"
    place.mkdir(parents=True)
    shutil.copy(CATALOG, place)
    (tmp_path / "var" / "lib" / "systemd" / "catalog").mkdir(parents=True)

    def journalctl(*options: str) -> str:
        done = subprocess.run(
            ["journalctl", f"--root={tmp_path}", *options],
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert "" == done.stderr
        return done.stdout

    journalctl("--update-catalog")
    assert len(CAUSES) == len(journalctl("--list-catalog").splitlines())
    for cause in CAUSES:
        text = journalctl("--dump-catalog", message_id(cause.slug))
        assert text.splitlines()[1].endswith(f": {cause.slug}")
        assert f"fork-trace explain {cause.slug}" in text
        assert "Mitigate: " in text


def test_an_entry_has_the_numbers_and_whose_unit_it_was(journald: Journald) -> None:
    journal = Journal(journald.path)
    advice = (
        make_advice(kind="verify", text="Look.", commands=("cat a",)),
        make_advice(text="Raise it.", commands=("systemctl set-property app.service TasksMax=N",)),
    )
    journal.take(of_unit("app.service", advice=advice), 0.0)

    (entry,) = journald.entries()
    assert message_id("pids-cgroup") == entry["MESSAGE_ID"]
    assert "pids-cgroup: 1 fork of sh[42] refused (EAGAIN), pids.max 7 of 7 tasks, " \
        "cgroup /system.slice/app.service" == entry["MESSAGE"]  # fmt: skip
    told = {name[11:].lower(): value for name, value in entry.items() if name[:11] == "FORK_TRACE_"}
    assert {
        "cause": "pids-cgroup",
        "certainty": "observed",
        "count": "1",
        "where": "cgroup /system.slice/app.service",
        "errno": "EAGAIN",
        "step": "cgroup_can_fork",
        "limit_name": "pids.max",
        "used": "7",
        "limit": "7",
        "comm": "sh",
        "pid": "42",
        "uid": "1000",
        "caller": "_Fork",
        "cgroup": "/system.slice/app.service",
        "unit": "app.service",
        "mitigate": "Raise it.\nsystemctl set-property app.service TasksMax=N",
    } == told


def test_a_death_is_told_with_the_fork_behind_it(journald: Journald) -> None:
    cgroup = "/system.slice/redis.service"
    level = Level(f"/sys/fs/cgroup{cgroup}", 110 << 20, 110 << 20)
    Journal(journald.path).take_death(make_death(cgroup=cgroup, levels=(level,)), 0.0)

    (entry,) = journald.entries()
    assert message_id("copy-on-write") == entry["MESSAGE_ID"]
    assert "copy-on-write: redis-server[120] killed for lack of memory, memory.max 110 MiB of " \
        "110 MiB, cgroup /system.slice/redis.service" == entry["MESSAGE"]  # fmt: skip
    told = {name[11:].lower(): value for name, value in entry.items() if name[:11] == "FORK_TRACE_"}
    assert {"verify", "fix"}.isdisjoint(told)
    assert "systemctl set-property --runtime redis.service MemoryMax=220M" in told.pop("mitigate")
    assert {
        "cause": "copy-on-write",
        "certainty": "observed",
        "count": "1",
        "where": f"cgroup {cgroup}",
        "limit_name": "memory.max",
        "used": "112640",
        "limit": "112640",
        "comm": "redis-server",
        "pid": "120",
        "uid": "999",
        "cgroup": cgroup,
        "unit": "redis.service",
        "parent_pid": "100",
        "child_pid": "120",
    } == told


def test_deaths_of_a_place_are_one_entry_a_minute_and_none_is_untold(journald: Journald) -> None:
    journal = Journal(journald.path)
    for second in range(150):
        journal.take_death(make_death(pid=second), second)
        journal.take_death(
            make_death(cause="host-oom", fork=None, levels=(), certainty="inferred"), second
        )
        journal.due(second)
    journal.due(150, is_all=True)

    told = journald.entries()
    counts: Counter[str] = Counter()
    for each in told:
        counts[each["FORK_TRACE_CAUSE"]] += int(each["FORK_TRACE_COUNT"])
    assert {"copy-on-write": 150, "host-oom": 150} == counts
    assert 8 == len(told)
    messages = [each["MESSAGE"] for each in told if each["FORK_TRACE_CAUSE"] == "copy-on-write"]
    assert messages[1].startswith("copy-on-write: redis-server[60] and 59 more before killed")
    assert not any("FORK_TRACE_WHERE" in each for each in told if "host-oom" in each["MESSAGE"])


def test_what_is_not_known_is_left_out_and_what_is_inferred_says_so(journald: Journald) -> None:
    failure = make_failure(
        **dict.fromkeys(("comm", "pid", "uid", "cgroup", "caller", "errno", "creates")),
        certainty="inferred",
        evidence=(),
        count=23,
    )
    Journal(journald.path).take(failure, 0.0)

    (entry,) = journald.entries()
    assert (
        "pids-cgroup (inferred): 23 forks or threads of ?[?] refused (errno unknown)"
        == entry["MESSAGE"]
    )
    absent = {f"FORK_TRACE_{name}" for name in ("COMM", "PID", "UID", "USED", "LIMIT", "UNIT")}
    assert not absent & set(entry)


def test_one_entry_a_minute_for_each_cause_place_and_unit_and_no_failure_untold(
    journald: Journald,
) -> None:
    journal = Journal(journald.path)
    for tenth in range(1800):
        for unit in ("app.service", "db.service"):
            journal.take(of_unit(unit), tenth / 10)
        journal.due(tenth / 10)
    told = journald.entries()
    journal.due(240.0)

    assert {"app.service": 3, "db.service": 3} == Counter(each["FORK_TRACE_UNIT"] for each in told)
    every = [*told, *journald.entries()]
    assert 3600 == sum(int(each["FORK_TRACE_COUNT"]) for each in every)
    journal.due(600.0)
    assert [] == journald.entries()


def test_a_limit_of_the_whole_host_is_told_for_each_unit(journald: Journald) -> None:
    journal = Journal(journald.path)
    host = (make_evidence(name="kernel.threads-max", where="/proc/sys/kernel/threads-max"),)
    for unit in ("app.service", "db.service"):
        failure = of_unit(unit, cause="threads-max")
        journal.take(failure.__class__(**{**vars(failure), "evidence": host}), 0.0)

    assert ["app.service", "db.service"] == [each["FORK_TRACE_UNIT"] for each in journald.entries()]


def test_what_was_only_counted_is_told_with_the_place_of_its_samples(journald: Journald) -> None:
    journal = Journal(journald.path)
    journal.take(of_unit("app.service"), 0.0)
    counted = of_unit("app.service", count=22)
    journal.take(counted.__class__(**{**vars(counted), "evidence": (), "pid": None}), 1.0)
    journal.due(61.0)

    first, second = journald.entries()
    assert first["FORK_TRACE_WHERE"] == second["FORK_TRACE_WHERE"]
    assert ("1", "22") == (first["FORK_TRACE_COUNT"], second["FORK_TRACE_COUNT"])
    assert "7" == second["FORK_TRACE_USED"]


def test_names_can_put_nothing_into_an_entry(journald: Journald) -> None:
    hostile = "x\nMESSAGE_ID=fake\x1b[2J\udcff"
    journal = Journal(journald.path)
    journal.take(of_unit("app.service", comm=hostile, caller=hostile, parent_comm=hostile), 0.0)
    journal.take(make_failure(cgroup="/" + "g" * 4000, comm="y" * 4000, evidence=()), 0.0)

    entry, long = journald.entries()
    assert message_id("pids-cgroup") == entry["MESSAGE_ID"]
    assert "x\\nMESSAGE_ID=fake\\x1b[2J\\xff" == entry["FORK_TRACE_COMM"]
    assert all(char.isprintable() for char in entry["MESSAGE"])
    assert max(map(len, long.values())) <= 1024


def test_a_journald_that_does_not_read_is_not_waited_for_and_is_told_later(
    journald: Journald, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "_MOST_ENTRIES", 10_000)
    journal = Journal(journald.path)
    for number in range(3):
        for unit in range(700):
            journal.take(of_unit(f"u{unit}.service"), number)
    told = journald.entries()
    # As many as its queue holds: net.unix.max_dgram_qlen, which systemd makes 512.
    assert 0 < len(told) <= 520

    for second in range(150, 900):
        journal.due(second)
        told += journald.entries()
    assert 2100 == sum(int(each["FORK_TRACE_COUNT"]) for each in told)


def test_where_there_is_no_journald_nothing_happens(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "none"))

    journal.take(make_failure(), 0.0)
    journal.due(61.0, is_all=True)
    journal.close()


def test_ever_new_places_are_few_entries_and_no_failure_is_untold(journald: Journald) -> None:
    journal = Journal(journald.path)
    told: list[dict[str, str]] = []
    for number in range(20_000):
        journal.take(of_unit(f"run-{number}.scope"), number / 100)
        told += journald.entries()
    assert len(told) <= 100 * 4  # of 200 s
    for second in range(300, 1800):
        journal.due(second)
        told += journald.entries()

    assert 20_000 == sum(int(each["FORK_TRACE_COUNT"]) for each in told)
    others = [each for each in told if each["FORK_TRACE_WHERE"] == "other places"]
    assert others and "FORK_TRACE_UNIT" not in others[0]
    assert "refused at other places" in others[0]["MESSAGE"]


def test_deaths_at_ever_new_places_are_few_entries_and_none_is_untold(journald: Journald) -> None:
    journal = Journal(journald.path)
    told: list[dict[str, str]] = []
    for number in range(5_000):
        level = Level(f"/sys/fs/cgroup/run-{number}.scope", 1 << 20, 1 << 20)
        journal.take_death(make_death(levels=(level,), pid=number), number / 100)
        told += journald.entries()
    for second in range(300, 1800):
        journal.due(second)
        told += journald.entries()

    assert 5_000 == sum(int(each["FORK_TRACE_COUNT"]) for each in told)
    others = [each for each in told if each["FORK_TRACE_WHERE"] == "other places"]
    assert "processes killed for lack of memory at other places" in others[0]["MESSAGE"]
