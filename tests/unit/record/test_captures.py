"""Captures on disk: where they are found, packed or torn, given twice; and what a report makes of many."""

from __future__ import annotations

import gzip
import json
import os
import re
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from conftest import capture_text, make_failure, make_header, make_summary

from fork_trace.commands import cli
from fork_trace.errors import ForkTraceError
from fork_trace.model.records import Checkpoint, Mark
from fork_trace.record.captures import Captures

PACKAGE = Path(__file__).resolve().parents[3] / "fork_trace"


def report(*arguments: str, **how: Any) -> Result:
    done = CliRunner().invoke(cli.cli, ["report", *arguments], **how)
    assert done.exception is None or isinstance(done.exception, (SystemExit, ForkTraceError))
    return done


def counts(*arguments: str, **how: Any) -> tuple[int, bool]:
    """Return how many failures a report counts, and whether these are a lower bound."""
    merged = json.loads(report("--format", "json", *arguments, **how).stdout)
    return merged["failures"], merged["lower_bound"]


def capture_of(number: int, **changes: Any) -> str:
    header = make_header(time=f"2026-11-28T03:00:{number:02d}.000000Z", **changes)
    return capture_text(header, make_failure(count=2), make_summary(failures=2))


@pytest.fixture
def three(tmp_path: Path) -> Path:
    (tmp_path / "web-1").mkdir()
    (tmp_path / "a.jsonl").write_text(capture_of(1))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(capture_of(2).encode()))
    (tmp_path / "web-1" / "c.jsonl").write_text(capture_of(3, host="web-1"))
    (tmp_path / "notes.txt").write_text("no capture")
    return tmp_path


def test_a_directory_stands_for_all_captures_below_it(three: Path) -> None:
    assert (6, False) == counts(str(three))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read it")
def test_whoever_may_not_read_a_capture_is_told_who_may(three: Path) -> None:
    (three / "a.jsonl").chmod(0)
    with pytest.raises(ForkTraceError, match="Permission denied") as raised:
        list(Captures([str(three / "a.jsonl")]).read())

    assert raised.value.hint.startswith("Run it as root")


def test_a_pattern_stands_for_what_it_matches(three: Path) -> None:
    assert (4, False) == counts(f"{three}/*.jsonl*")
    with pytest.raises(ForkTraceError, match="no file matches"):
        Captures([f"{three}/*.csv"])


def test_stdin_is_read_packed_or_plain(three: Path) -> None:
    for name in ("a.jsonl", "b.jsonl.gz"):
        with open(three / name, "rb") as file:
            read, write = os.pipe()
            os.write(write, file.read())
            os.close(write)
            saved = os.dup(0)
            os.dup2(read, 0)
            try:
                items = list(Captures(["-"]).read())
            finally:
                os.dup2(saved, 0)
                for fd in (saved, read):
                    os.close(fd)
        assert 4 == len(items)


def test_the_same_capture_is_counted_once_however_it_is_given(three: Path) -> None:
    whole = (three / "a.jsonl").read_bytes()
    (three / "copy.jsonl").write_bytes(whole)
    (three / "torn.jsonl").write_bytes(whole[:-30])
    (three / "packed.jsonl.gz").write_bytes(gzip.compress(whole))
    (three / "twice.jsonl").write_bytes((three / "b.jsonl.gz").read_bytes())

    assert (6, False) == counts(str(three))
    assert (6, False) == counts(str(three / "torn.jsonl"), str(three), str(three / "a.jsonl"))
    assert "4 files were given twice and counted once" in report(str(three)).stdout


def test_of_a_torn_copy_alone_what_is_there_is_read(three: Path) -> None:
    (three / "a.jsonl").write_bytes((three / "a.jsonl").read_bytes()[:-30])
    (three / "b.jsonl.gz").write_bytes((three / "b.jsonl.gz").read_bytes()[:-30])

    number, is_least = counts(str(three))

    assert is_least
    assert 4 <= number <= 6
    assert "at least" in report(str(three / "a.jsonl")).stdout.splitlines()[0]


@pytest.mark.parametrize("cut", range(2, 120, 9))
def test_a_packed_capture_cut_anywhere_is_read_as_far_as_it_goes(three: Path, cut: int) -> None:
    path = three / "b.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-cut])

    done = report("--format", "json", str(path))

    if done.exit_code in (0, 1):
        assert json.loads(done.stdout)["failures"] in (0, 2)
    else:
        assert isinstance(done.exception, ForkTraceError)


def test_what_is_not_known_of_an_unclosed_capture_is_null(tmp_path: Path) -> None:
    path = tmp_path / "open.jsonl"
    path.write_text(capture_text(make_header(), make_failure()))
    merged = json.loads(report("--format", "json", str(path)).stdout)

    assert [None] * 3 == [merged[name] for name in ("lost", "missed", "rate_limited")]
    assert (1, "unclosed") == (merged["unclosed"], merged["captures"][0]["ended"])

    checkpoint = Checkpoint(**vars(make_summary(failures=5, causes={"pids-cgroup": 5}, lost=3)))
    path.write_text(capture_text(make_header(), make_failure(), checkpoint))
    merged = json.loads(report("--format", "json", str(path)).stdout)

    assert (5, 3, 0) == tuple(merged[name] for name in ("failures", "lost", "missed"))


def test_nothing_in_a_torn_capture_is_not_no_failure(tmp_path: Path) -> None:
    path = tmp_path / "open.jsonl"
    path.write_text(capture_text(make_header()))

    done = report(str(path))

    assert 0 == done.exit_code
    assert "as far as it was recorded; the captures are incomplete" in done.stdout


def test_a_filter_that_hides_all_failures_says_so(three: Path) -> None:
    done = report(str(three), "--comm", "nobody")

    assert 0 == done.exit_code
    assert "No failure matches; 6 others were recorded" in done.stdout


def test_since_leaves_out_what_was_before(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    old, new = (make_failure(time_ns=each * 10**9) for each in (1_764_000_000, 1_764_003_600))
    path.write_text(capture_text(make_header(), old, new, make_summary(failures=2)))

    assert (1, False) == counts(str(path), "--since", "@1764000001")
    assert (1, False) == counts(str(path), "--until", "@1764000001")
    assert (2, False) == counts(str(path), "--since", "@1764000000", "--until", "@1764003600")
    with pytest.raises(ForkTraceError, match="is before"):
        raise report(str(path), "--since", "1h", "--until", "2h").exception or AssertionError


def test_a_gap_never_looks_like_calm(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    gap = Mark(
        "2026-11-28T04:00:00Z", "web-1", "gap", "2026-11-28T03:00:00Z", "2026-11-28T04:00:00Z"
    )
    path.write_text(capture_text(make_header(host="web-1"), gap, make_summary(failures=0)))

    for format_ in ("table", "markdown"):
        text = " ".join(report(str(path), "--format", format_).stdout.split())
        assert "not watching on web-1 from 2026-11-28T03:00:00Z to 2026-11-28T04:00:00Z" in text
    (told,) = json.loads(report(str(path), "--json").stdout.splitlines()[-1])["gaps"]
    assert ("web-1", "gap") == (told["host"], told["kind"])


def test_a_time_that_nobody_recorded_never_looks_like_calm(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    began = datetime(2026, 11, 28, 3, tzinfo=timezone.utc)
    path.write_text(
        capture_text(
            make_header(time="2026-11-28T03:00:00Z"),
            make_summary(time="2026-11-28T05:00:00Z", failures=0),
        )
    )

    def told(since: float, until: float) -> str:
        at = began.timestamp()
        done = report(str(path), "--since", f"@{at + since:.0f}", "--until", f"@{at + until:.0f}")
        return " ".join(done.stdout.split())

    assert "nothing was recorded in that time: that it has no failures says nothing" in told(
        -7200, -3600
    )
    assert "nothing was recorded before 2026-11-28T03:00:00" in told(-3600, 3600)
    assert "nothing was recorded" not in told(600, 3600)
    assert "nothing was recorded" not in report(str(path)).stdout


def test_a_fleet_fits_on_two_screens(tmp_path: Path) -> None:
    for number in range(40):
        header = make_header(host=f"web-{number % 20}", time=f"2026-11-28T03:00:{number:02d}Z")
        failures = [make_failure(comm=f"app{each}") for each in range(20)]
        text = capture_text(header, *failures, make_summary(failures=20))
        (tmp_path / f"{number}.jsonl").write_text(text)

    done = report(str(tmp_path))

    assert len(done.stdout.splitlines()) <= 48
    assert "800 failures on 20 hosts" in done.stdout
    assert "20 hosts, 40 captures" in done.stdout
    assert re.search(r"^ *40 +app0 ", done.stdout, re.M)


def test_without_a_file_the_recorders_directory_is_meant(tmp_path: Path) -> None:
    with pytest.raises(ForkTraceError, match="no FILE was given") as raised:
        Captures([], str(tmp_path / "none"))
    assert "fork-trace record" in raised.value.hint
    (tmp_path / "a.jsonl").write_text(capture_text())

    assert 4 == len(list(Captures([], str(tmp_path)).read()))


def hours(tmp_path: Path) -> Path:
    """One capture with a failure each hour from 00:00 to 23:00, and one that was not closed."""
    failures = [
        make_failure(comm=f"c{each % 2}", time_ns=(1_764_000_000 + each * 3600) * 10**9)
        for each in range(24)
    ]
    path = tmp_path / "a.jsonl"
    path.write_text(capture_text(make_header(), *failures, make_summary(failures=24)))
    last = make_failure(comm="c0", time_ns=(1_764_000_000 + 22 * 3600) * 10**9)
    (tmp_path / "b.jsonl").write_text(capture_text(make_header(time="later"), last))
    return path


def test_a_snapshot_is_a_capture_of_what_was_chosen(tmp_path: Path) -> None:
    path, part = hours(tmp_path), tmp_path / "part"
    arguments = ["snapshot", str(tmp_path), "-o", str(part), "--since", "@1764036000"]
    done = CliRunner().invoke(cli.cli, [*arguments, "--comm", "c0"])

    assert 0 == done.exit_code, done.output
    assert 0o600 == part.stat().st_mode & 0o777
    found = [json.loads(line) for line in part.read_text().splitlines()]
    (summary,) = (each for each in found if each["type"] == "summary")
    assert ("header", 7) == (found[0]["type"], summary["failures"])
    number, is_least = counts(str(part))
    assert (8, True) == (number, is_least)
    assert (8, True) == counts(str(tmp_path), "--since", "@1764036000", "--comm", "c0")
    assert path.exists()


def test_a_snapshot_of_nothing_leaves_no_file(tmp_path: Path) -> None:
    hours(tmp_path)
    part = tmp_path / "part"
    done = CliRunner().invoke(
        cli.cli, ["snapshot", str(tmp_path), "-o", str(part), "--boot", "ffff"]
    )

    assert isinstance(done.exception, ForkTraceError)
    assert not part.exists()


def test_a_replay_shows_each_interval_and_then_the_report(tmp_path: Path) -> None:
    hours(tmp_path)
    arguments = ["live", "--replay", str(tmp_path / "a.jsonl"), "--until", "@1764018000"]
    done = CliRunner().invoke(cli.cli, [*arguments, "--by", "command"])

    lines = [line for line in done.stdout.splitlines() if re.match(r"\d\d:\d\d:\d\dZ", line)]
    assert 6 == len(lines)
    assert "6 failures" in done.stdout
    printed = CliRunner().invoke(cli.cli, [*arguments, "--json"]).stdout.splitlines()
    kinds = [json.loads(line)["type"] for line in printed]
    assert ["header", *["failure"] * 6, "summary"] == kinds


@pytest.mark.parametrize("option", [["--since", "1h"], ["--boot"], ["--cause", "pid-max"]])
def test_what_chooses_among_records_needs_some(option: list[str]) -> None:
    done = CliRunner().invoke(cli.cli, ["live", *option])

    assert 2 == done.exit_code
    assert "it needs --replay" in " ".join(done.output.split())


@pytest.mark.parametrize(
    ("words", "expected"),
    [(["--boot", "-1"], 1), (["--boot=-1"], 1), (["--boot", "1"], 1), (["--boot", "0"], 2)],
)
def test_a_boot_is_named_as_with_journalctl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], expected: int
) -> None:
    monkeypatch.setattr("fork_trace.commands.recorded.running_boot", lambda: "b" * 32)
    for boot, number in (("a" * 32, 1), ("b" * 32, 2)):
        header = make_header(boot_id=boot, time=f"2026-11-28T0{number}:00:00Z")
        text = capture_text(header, make_failure(count=number), make_summary(failures=number))
        (tmp_path / f"{number}.jsonl").write_text(text)

    assert (expected, False) == counts(str(tmp_path), *words)
    assert (2, False) == counts(str(tmp_path), "--boot", "--cause", "pids-cgroup")


def test_the_runbook_explains_sentences_that_are_told() -> None:
    page = (PACKAGE / "docs" / "runbook.md").read_text()
    page = page.partition("Read its last lines first:")[2].partition("\n\nThis")[0]
    said = [
        " ".join(sentence.split())
        for item in re.findall(r"^- (.*?): ", page, re.MULTILINE | re.DOTALL)
        for sentence in re.findall(r"`([^`]+)`", item)
    ]
    sources = " ".join(
        path.read_text() for room in ("output", "record") for path in (PACKAGE / room).rglob("*.py")
    )

    assert 8 == len(said)
    for sentence in said:
        # Up to its numbers and names.
        assert re.split(r" \.\.\.| \d|\d| HOST|;", sentence)[0] in sources, sentence
