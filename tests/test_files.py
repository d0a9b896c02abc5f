"""Files of others: what is opened, and how much is read."""

from __future__ import annotations

import os
from pathlib import Path

from fork_trace import files


def test_a_small_file_is_read_and_a_large_one_is_not(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"12345")

    assert b"12345" == files.read(str(tmp_path / "f"), 5)
    assert files.read(str(tmp_path / "f"), 4) is None
    assert files.read(str(tmp_path / "none"), 4) is None


def test_nobody_is_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (str(tmp_path / "pipe"), str(tmp_path), "/dev/zero", "a\0b"):
        assert files.read(path, 10) is None


def test_a_file_that_has_no_end_is_read_as_far_as_is_allowed() -> None:
    fd = os.open("/dev/zero", os.O_RDONLY)
    raw = files.read_all(fd, 3 << 20)
    os.close(fd)

    assert bytes(3 << 20) == raw
