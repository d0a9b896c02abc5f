"""Files of others: what is opened, and how much is read."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fork_trace import files, mounts
from fork_trace.mounts import OwnMounts, UntouchedError, View


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


@pytest.fixture
def view() -> Iterator[View]:
    own = OwnMounts()
    yield View(own)
    own.close()


def kinds(place: Path) -> dict[str, Path]:
    """One thing of each kind that is no regular file, and a link to one."""
    os.mkfifo(place / "pipe")
    (place / "directory").mkdir()
    (place / "f").write_bytes(b"1")
    (place / "link").symlink_to(place / "f")
    (place / "device").symlink_to("/dev/zero")
    if os.geteuid() == 0:
        os.mknod(place / "node", 0o600 | stat.S_IFCHR, os.makedev(1, 5))
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(place / "socket"))
    server.close()
    names = ("pipe", "directory", "link", "device", "node", "socket")
    return {name: place / name for name in names if os.path.lexists(place / name)}


def test_below_a_root_only_a_regular_file_is_opened(tmp_path: Path, view: View) -> None:
    for path in kinds(tmp_path).values():
        named, _ = files.below(str(tmp_path), path.name, view)
        with pytest.raises(OSError, match="not a regular file"):
            files.regular(named)
    fd, status = files.regular(files.below(str(tmp_path), "f", view)[0])

    assert (1, b"1") == (status.st_size, os.read(fd, 9))
    os.close(fd)


def test_no_link_is_followed_below_a_root_nor_is_its_parent(tmp_path: Path, view: View) -> None:
    (tmp_path / "root/inner").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    for place in ("outside", "root/inner"):
        (tmp_path / place / "f").write_bytes(b"1")
    (tmp_path / "root/away").symlink_to(tmp_path / "outside")
    (tmp_path / "root/near").symlink_to("inner")
    paths = (
        "away/f",
        "near/f",
        "../outside/f",
        "inner/../inner/f",
        "inner/\0f",
        "none",
        "inner/f/g",
    )
    before = len(os.listdir("/proc/self/fd"))
    for path in paths:
        with pytest.raises((OSError, ValueError)):
            files.below(str(tmp_path / "root"), path, view)

    assert before == len(os.listdir("/proc/self/fd"))
    os.close(files.below(str(tmp_path / "root"), "/inner//f", view)[0])


def test_within_a_directory_links_lead_nowhere_else(tmp_path: Path, view: View) -> None:
    (tmp_path / "root/usr").mkdir(parents=True)
    (tmp_path / "root/usr/f").write_bytes(b"inside")
    (tmp_path / "usr").mkdir()
    (tmp_path / "usr/f").write_bytes(b"outside")
    (tmp_path / "root/lib").symlink_to("/usr")
    (tmp_path / "root/up").symlink_to("../../usr/f")
    for path in ("lib/f", "up"):
        fd, _ = files.regular(files.within(str(tmp_path / "root"), path, view)[0])
        assert b"inside" == os.read(fd, 9)
        os.close(fd)


def test_a_file_of_somebody_else_is_not_opened(tmp_path: Path, view: View) -> None:
    (tmp_path / "f").write_bytes(b"1")

    with pytest.raises(OSError, match="somebody else"):
        files.regular(files.below(str(tmp_path), "f", view)[0], (os.getuid() + 1,))


def test_on_a_file_system_that_may_not_answer_nothing_is_named(
    tmp_path: Path, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f").write_bytes(b"1")
    os.close(files.below(str(tmp_path), "f", view)[0])
    monkeypatch.setattr(mounts, "_LOCAL", frozenset())

    with pytest.raises(UntouchedError):
        files.below(str(tmp_path), "f", view)


def test_what_cannot_be_read_is_as_if_the_file_ended_there() -> None:
    fd = os.open("/proc/self/mem", os.O_RDONLY)
    with pytest.raises(OSError):
        os.pread(fd, 8, 0)

    assert b"" == files.piece(fd, 8, 0)
    os.close(fd)


WITHOUT_OPENAT2 = """
import ctypes, struct, sys
from fork_trace import files, mounts
from fork_trace.mounts import OwnMounts, View
libc, view = ctypes.CDLL(None, use_errno=True), View(OwnMounts())
rules = ((0x20, 0, 0, 0), (0x15, 0, 1, 437), (0x6, 0, 0, 0x50026), (0x6, 0, 0, 0x7FFF0000))
code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *rule) for rule in rules))
program = struct.pack("@HP", len(rules), ctypes.addressof(code))
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program, 0, 0) == 0
try:
    files.below("/", sys.argv[1], view)
except OSError as error:
    print(error.errno)
"""


def test_a_kernel_without_the_careful_way_has_no_other(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"1")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_OPENAT2, str(tmp_path / "f")],
        capture_output=True,
        text=True,
    )

    assert f"{errno.ENOSYS}\n" == done.stdout, done.stderr
