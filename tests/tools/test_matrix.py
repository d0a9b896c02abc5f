"""The matrix of the live tests and what scripts/test makes of it, without running any of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from accuracy.capturing import ATTACH_MODES
from accuracy.watching import WATCHERS
from live import matrix
from live.matrix import ALL, DEFAULT, LANES, NAMED, QUICK, Lane
from pythons import __main__ as pythons
from run import choosing, reading, running
from vm.kernels import KERNELS

CHECKOUT = Path(__file__).resolve().parents[2]
LIVE = CHECKOUT / "tests" / "live"
FILES = {path.name for path in LIVE.glob("test_*.py")}
OLDEST, NEWEST = KERNELS[0].version, KERNELS[-1].version
BETWEEN = {kernel.version for kernel in KERNELS[1:-1]}


def files_of(*when: str) -> set[str]:
    return {file for lane in LANES if lane.when in when for file in lane.files}


# Each about one part of the tool, or minutes long.
BY_NAME_ALONE = {
    *("test_advice.py", "test_asked.py", "test_bcc.py", "test_container.py", "test_edges.py"),
    *("test_late.py", "test_latency.py", "test_service.py"),
}


def test_every_live_file_is_run_by_default_or_with_all_or_known_to_be_run_by_name() -> None:
    assert FILES
    assert {"test_faults.py"} == files_of(ALL) - files_of(DEFAULT)
    by_command = set(matrix.BY_COMMAND)
    assert BY_NAME_ALONE | by_command == FILES - files_of(DEFAULT, ALL)
    assert by_command == FILES - files_of(DEFAULT, ALL, NAMED)


def test_every_file_that_the_matrix_names_is_there_or_expected() -> None:
    named = {path for lane in LANES for path in running.files(lane)}

    assert len(named) > 10
    assert [] == [path for path in sorted(named) if not (CHECKOUT / path).exists()]


def test_a_file_that_is_missing_and_not_expected_is_not_left_out() -> None:
    lane = Lane("x", None, 1, ("test_gone.py", matrix.EXPECTED[0]))

    assert "tests/live/test_gone.py" in running.files(lane)


def test_what_is_deselected_exists() -> None:
    deselected = {each for lane in LANES for each in lane.deselect}

    assert deselected
    for each in deselected:
        file, _, test = each.partition("::")
        assert f"def {test}(" in (LIVE / file).read_text()


def test_each_lane_has_a_name_of_its_own_and_either_files_or_a_command() -> None:
    names = [lane.name for lane in LANES]

    assert sorted(set(names)) == sorted(names)
    assert [] == [lane.name for lane in LANES if bool(lane.files) == bool(lane.command)]
    assert {lane.when for lane in LANES} <= {DEFAULT, ALL, QUICK, NAMED}


def test_by_default_the_oldest_and_the_newest_kernel_are_run_and_with_all_every_one() -> None:
    default = {lane.kernel for lane in choosing.lanes(LANES)}
    every = {lane.kernel for lane in choosing.lanes(LANES, is_all=True)}

    assert {None, OLDEST, NEWEST} == default
    assert {None, *(kernel.version for kernel in KERNELS)} == every


def test_the_rehearsals_are_made_on_every_kernel_and_each_layout_of_cgroups() -> None:
    for kernel in KERNELS:
        assert any(
            lane.kernel == kernel.version and matrix.REHEARSALS[0] in lane.files for lane in LANES
        )
    layouts = {
        lane.cgroup
        for lane in choosing.lanes(LANES, is_all=True)
        if matrix.REHEARSALS[0] in lane.files
    }
    assert {"v1", "hybrid", "v2"} == layouts


def watched_by(kernel: str, *, is_all: bool) -> list[set[str]]:
    """Of each lane that rehearses on that kernel, its watchers."""
    return [
        set(lane.watchers) or set(WATCHERS) - {"bcc"}
        for lane in choosing.lanes(LANES, is_all=is_all)
        if lane.kernel == kernel and matrix.REHEARSALS[0] in lane.files and lane.cgroup == "v2"
    ]


def test_every_attach_mode_is_rehearsed_by_default_and_with_all_on_every_kernel() -> None:
    natively = {name for lane in LANES if lane.name == "native" for name in lane.watchers}
    by_default = [*watched_by(OLDEST, is_all=False), *watched_by(NEWEST, is_all=False), natively]
    assert set(WATCHERS) - {"bcc"} == set().union(*by_default)
    assert {"kprobe", "kprobe-all"} <= set().union(*watched_by(OLDEST, is_all=False))
    assert set(WATCHERS) == set().union(*watched_by(OLDEST, is_all=True))
    assert {"fexit", "fexit-all"} <= set().union(*watched_by(NEWEST, is_all=False))
    for kernel in KERNELS:
        lanes = watched_by(kernel.version, is_all=True)
        assert set(WATCHERS) - {"bcc"} <= set().union(*lanes), kernel.version
        # A cell is told by both of a pair.
        for plain, early in ATTACH_MODES.values():
            assert all((plain in lane) == (early in lane) for lane in lanes)


# Of which the lanes of the newest kernel run a part each.
DIVIDED = (
    *("blame", "conditions", "lockdown", "moved", "nested", "on_demand", "privileges", "stripped"),
)


def collected(select: str) -> set[str]:
    """The tests of the divided files that pytest's -k would choose."""
    argv = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    argv += ["-m", "live or not live"]
    argv += [*(f"tests/live/test_{name}.py" for name in DIVIDED), "-k", select]
    environment = {**os.environ, "FORK_TRACE_WATCHERS": ""}
    done = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, env=environment)
    return {line for line in done.stdout.splitlines() if "::" in line}


def test_what_one_lane_of_the_newest_kernel_leaves_out_another_one_runs() -> None:
    files = {f"test_{name}.py" for name in DIVIDED}
    lanes = [lane for lane in LANES if lane.kernel == NEWEST and files & {*lane.files}]
    every = collected("")
    run = {
        test
        for select in {lane.select for lane in lanes}
        for test in collected(select)
        for lane in lanes
        if lane.select == select and Path(test.partition("::")[0]).name in lane.files
    }

    assert files == {Path(test.partition("::")[0]).name for test in every}
    assert every == run


def test_the_newest_kernel_may_skip_nothing_on_cgroup_v2() -> None:
    lanes = [lane for lane in LANES if lane.kernel == NEWEST and lane.cgroup == "v2"]

    assert lanes
    assert all(lane.is_strict for lane in lanes)


def test_quick_has_no_virtual_machine_and_two_minutes() -> None:
    lanes = choosing.lanes(LANES, is_quick=True)

    assert {None} == {lane.kernel for lane in lanes}
    # scripts/check runs beside them.
    assert max(matrix.CHECK_BUDGET_S, sum(lane.budget_s for lane in lanes)) <= 120


@pytest.mark.parametrize(("is_all", "minutes"), [(False, 20), (True, 60)])
def test_the_budgets_of_all_lanes_add_up_to_what_was_promised(is_all: bool, minutes: int) -> None:
    lanes = choosing.lanes(LANES, is_all=is_all)
    total_s = matrix.CHECK_BESIDE_S + sum(lane.budget_s for lane in lanes)

    assert total_s / 2 <= 60 * minutes


def test_a_named_lane_is_run_by_its_name_alone() -> None:
    assert NAMED == {lane.name: lane.when for lane in LANES}["python"]
    assert "python" not in {lane.name for lane in choosing.lanes(LANES, is_all=True)}
    assert ["python"] == [lane.name for lane in choosing.lanes(LANES, names=["python"])]


def test_the_oldest_python_that_is_tried_is_the_oldest_that_is_supported() -> None:
    oldest = f'python_requires=">={pythons.PYTHONS[0].version}"'

    assert oldest in (CHECKOUT / "setup.py").read_text()


def test_of_a_kernel_every_lane_is_run_and_no_other() -> None:
    between = sorted(BETWEEN)[0]
    lanes = choosing.lanes(LANES, kernels=[between])

    assert {between} == {lane.kernel for lane in lanes}
    assert choosing.lanes(LANES, names=[lanes[0].name]) == lanes[:1]


def test_only_keeps_a_file_by_either_name_and_lanes_without_it_fall_out() -> None:
    lanes = choosing.lanes(LANES)

    for name in ("blame", "test_blame", "test_blame.py", "tests/live/test_blame.py"):
        kept = choosing.only(lanes, [name])
        assert kept
        assert {("test_blame.py",)} == {lane.files for lane in kept}
    assert [] == choosing.only(lanes, ["nothing"])


def test_a_lane_in_a_guest_writes_its_results_into_the_share(tmp_path: Path) -> None:
    lane = Lane(
        *("x", "7.2", 500, ("test_a.py",)),
        cgroup="v1",
        is_strict=True,
        watchers=("fexit", "bcc"),
        deselect=("test_a.py::test_b",),
    )
    command = running.command(lane, tmp_path, 500)

    assert command[:5] == ["scripts/vm", "--kernel", "7.2", "--cgroup", "v1"]
    assert "1500" == command[command.index("--timeout") + 1]
    assert "FORK_TRACE_WATCHERS=fexit,bcc" in command
    assert "FORK_TRACE_NO_SKIPS=1" in command
    assert "tests/live/test_a.py --deselect tests/live/test_a.py::test_b" in command[-1]
    assert command[-1].endswith('--junitxml="$FORK_TRACE_VM_SHARE/x.xml"')


@pytest.mark.parametrize(
    ("text", "value"),
    [("", 1.5), ("3", 3), ("0.5", 0.5), ("0", None), ("-1", None), ("fast", None), ("inf", None)],
)
def test_the_factor_is_a_number_above_0(
    text: str, value: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORK_TRACE_BUDGET_FACTOR", text)

    assert value == running.factor()


def run_command(tmp_path: Path, script: str, budget_s: int, *must_say: str) -> running.Ended:
    lane = Lane("x", None, budget_s, command=("/bin/sh", "-c", script), must_say=must_say)
    return running.run(lane, tmp_path)


def test_a_lane_fails_by_its_status_by_what_it_does_not_say_and_by_its_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FORK_TRACE_BUDGET_FACTOR", raising=False)

    assert "" == run_command(tmp_path, "echo one two", 60, "one", "two").why
    assert "exit 3" == run_command(tmp_path, "exit 3", 60).why
    assert "did not say two" == run_command(tmp_path, "echo one", 60, "one", "two").why
    assert "over its budget of 0 s" == run_command(tmp_path, "sleep 0.1", 0).why


def test_a_lane_that_died_does_not_lose_its_output(tmp_path: Path) -> None:
    ended = run_command(tmp_path, "echo before; kill -9 $$", 60)

    assert "exit -9" == ended.why
    assert "before\n" == (tmp_path / "x.out").read_text()


JUNIT = (
    '<testsuites><testsuite name="pytest"><testcase classname="tests.live.test_a" name="test_{0}" '
    'time="{0}.5"/></testsuite></testsuites>'
)


def test_the_slowest_twenty_of_all_lanes_are_told_and_the_cells_are_collected(
    tmp_path: Path,
) -> None:
    for number in range(25):
        (tmp_path / f"lane{number}.xml").write_text(JUNIT.format(number))
    cell = {"scenario": "s", "kernel": "7.2", "attach": "fexit", "result": "right", "why": ""}
    again = {**cell, "result": "wrong"}
    by_kprobes = {**cell, "attach": "kprobe"}
    parts: tuple[tuple[str, list[dict[str, str]]], ...]
    parts = (("7.2-a", [again]), ("7.2-b", [cell, by_kprobes]), ("7.2-c", []))
    for name, cells in parts:
        part = {"cells": cells, "releases": {"7.2": "7.2.1-amd64"}}
        (tmp_path / f"cells-{name}.json").write_text(json.dumps(part))
    ended = [
        running.Ended("lane1", 0, 10, 20, 9, ""),
        running.Ended("lane2", 1, 10, 20, None, "exit 1"),
    ]
    text = reading.told(ended, tmp_path)

    assert 20 == text.count("test_a::test_")
    assert text.index("test_a::test_24") < text.index("test_a::test_5")
    assert "test_a::test_4\n" not in text
    assert "Accuracy: 2 right" in text
    assert {"cells": [cell, by_kprobes], "releases": {"7.2": "7.2.1-amd64"}} == json.loads(
        (tmp_path / "accuracy.json").read_text()
    )
    assert "passed" in text and "FAILED: exit 1" in text


def test_what_an_earlier_run_left_is_taken_away_and_nothing_else(tmp_path: Path) -> None:
    for name in ("7.2.xml", "check.xml", "cells-7.2-x.json", "mine.xml", "notes.txt"):
        (tmp_path / name).write_text("")
    reading.clear(tmp_path)

    assert ["mine.xml", "notes.txt"] == sorted(path.name for path in tmp_path.iterdir())


def scripts_test(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [CHECKOUT / "scripts" / "test", *options], capture_output=True, text=True, timeout=60
    )


def test_what_would_be_run_is_listed() -> None:
    listed = scripts_test("--list").stdout
    quick = scripts_test("--list", "--quick").stdout
    one = scripts_test("--list", "--kernel", "6.1", "--only", "kprobe").stdout

    assert "scripts/check" in listed and "scripts/demo" in listed
    assert "6.12" not in listed
    assert "test_commands.py" in quick and "7.2" not in quick
    assert "6.1" in one and "test_kprobe.py" in one and "scripts/check" not in one


@pytest.mark.parametrize(
    "options", [["--lane", "none"], ["--only", "none"], ["--all", "--quick"], ["--jobs", "0"]]
)
def test_bad_options_are_told_in_one_line_and_exit_2(options: list[str]) -> None:
    done = scripts_test("--list", *options)

    assert 2 == done.returncode
    assert "scripts/test: error: " in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
