"""systemd's default for TasksMax=, from its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from fork_trace.headroom import units


def booted(tmp_path: Path) -> str:
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    return str(tmp_path)


def test_without_a_setting_it_is_15_percent_of_what_the_host_can_have(tmp_path: Path) -> None:
    root = booted(tmp_path)

    assert 9457 == units.default_tasks_max(63053, 4194304, root)
    assert 4915 == units.default_tasks_max(63053, 32768, root)


def test_where_systemd_is_not_the_init_nothing_is_its_default(tmp_path: Path) -> None:
    assert units.default_tasks_max(63053, 4194304, str(tmp_path)) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[Manager]\nDefaultTasksMax=1234\n", 1234),
        ("[Manager]\nDefaultTasksMax = 10%\n", 1000),
        ("[Manager]\n#DefaultTasksMax=1\n", 1500),
        ("[Manager]\nDefaultTasksMax=infinity\n", None),
        ("[Other]\nDefaultTasksMax=7\n", 1500),
        ("[Manager]\nDefaultTasksMax=7\nDefaultTasksMax=\n", 1500),
    ],
)
def test_a_setting_is_read(tmp_path: Path, text: str, expected: int | None) -> None:
    root = booted(tmp_path)
    (tmp_path / "etc/systemd").mkdir(parents=True)
    (tmp_path / "etc/systemd/system.conf").write_text(text)

    assert expected == units.default_tasks_max(10_000, 4194304, root)


def test_drop_ins_win_by_name_and_a_directory_over_another(tmp_path: Path) -> None:
    root = booted(tmp_path)
    for path, number in (
        ("etc/systemd/system.conf", 1),
        ("usr/lib/systemd/system.conf.d/90-a.conf", 2),
        ("run/systemd/system.conf.d/50-b.conf", 3),
        ("etc/systemd/system.conf.d/90-a.conf", 4),
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(f"[Manager]\nDefaultTasksMax={number}\n")

    assert 4 == units.default_tasks_max(10_000, 4194304, root)


def test_without_the_sysctls_a_part_of_them_is_not_known(tmp_path: Path) -> None:
    assert units.default_tasks_max(None, 32768, booted(tmp_path)) is None
