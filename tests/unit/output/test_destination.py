"""What --output may name: the kernel's own files and devices are neither written nor even opened."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from fork_trace.errors import ForkTraceError
from fork_trace.output.destination import open_named

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="makes devices; run as root")


def refusal(path: object, force: bool = True) -> str:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ForkTraceError) as caught:
        open_named(str(path), force)
    assert before == len(os.listdir("/proc/self/fd"))
    assert caught.value.hint
    return caught.value.message


def written(path: object, force: bool = False) -> bool:
    """Write a word there, and say whether the file was made for it."""
    fd, is_new = open_named(str(path), force)
    os.write(fd, b"word")
    os.close(fd)
    return is_new


def device(place: Path, major: int, minor: int, kind: int = stat.S_IFCHR) -> Path:
    os.mknod(place / "device", 0o600 | kind, os.makedev(major, minor))
    return place / "device"


def test_a_new_file_is_made_for_its_owner_only(tmp_path: Path) -> None:
    assert written(tmp_path / "new")
    assert 0o600 == stat.S_IMODE((tmp_path / "new").stat().st_mode)
    assert "word" == (tmp_path / "new").read_text()


def test_an_empty_file_is_written_and_one_with_something_in_it_if_forced(tmp_path: Path) -> None:
    (tmp_path / "file").touch(0o666)

    assert not written(tmp_path / "file")
    assert "exists and is not empty" in refusal(tmp_path / "file", force=False)
    assert not written(tmp_path / "file", force=True)
    assert 0o600 == stat.S_IMODE((tmp_path / "file").stat().st_mode)


def test_a_relative_name_is_one_of_this_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert written("new")
    assert written("./-")
    assert {"new", "-"} == {each.name for each in tmp_path.iterdir()}


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="no tmpfs there")
def test_a_file_in_memory_is_a_file() -> None:
    path = Path(f"/dev/shm/ft-destination-{os.getpid()}")
    try:
        assert written(path)
        assert not written(path, force=True)
    finally:
        path.unlink()


@pytest.mark.parametrize(
    "path",
    [
        "/proc/self/comm",
        "/proc/self/oom_score_adj",
        "/proc/sys/kernel/threads-max",
        "/proc/self/root/proc/self/comm",
        "/proc/new",
        "/proc/self/fd/new",
        "/sys/kernel/mm/transparent_hugepage/enabled",
        "/sys/kernel/uevent_helper",
        "/sys/new",
        "/sys/fs/cgroup/unified/new",
        "/dev/pts/new",
    ],
)
def test_no_file_of_the_kernels_own_is_written(path: str) -> None:
    if not os.path.isdir(os.path.dirname(path)):
        pytest.skip("there is none here")
    before = None
    if os.access(path, os.R_OK):
        before = Path(path).read_bytes()

    assert "is on a kernel file system such as /proc or /sys" in refusal(path)
    if before is not None:
        assert before == Path(path).read_bytes()


def test_an_empty_name_and_a_dash_are_told_what_to_give() -> None:
    assert "--output has an empty name" == refusal("")
    assert "--output - is not a file: the report goes to stdout" == refusal("-")


@as_root
@pytest.mark.parametrize(
    ("major", "minor"),
    [(1, 1), (1, 2), (1, 5), (1, 8), (1, 11), (5, 2), (10, 130), (10, 1), (128, 0)],
    ids=["mem", "kmem", "zero", "random", "kmsg", "ptmx", "watchdog", "psaux", "ptm"],
)
def test_a_device_is_refused_without_being_opened(tmp_path: Path, major: int, minor: int) -> None:
    assert "is a device, not a terminal" in refusal(device(tmp_path, major, minor))


@as_root
def test_a_disk_and_a_socket_are_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        assert "neither a file nor a pipe" in refusal(tmp_path / "socket")
    # Major 7, minor 200: a loop device that nobody has.
    assert "neither a file nor a pipe" in refusal(device(tmp_path, 7, 200, stat.S_IFBLK))


@as_root
@pytest.mark.parametrize("minor", [3, 7], ids=["null", "full"])
def test_null_and_full_are_taken(tmp_path: Path, minor: int) -> None:
    fd, is_new = open_named(str(device(tmp_path, 1, minor)), False)
    os.close(fd)

    assert not is_new


def test_a_terminal_is_taken_and_does_not_become_the_own_one() -> None:
    master, slave = os.openpty()
    try:
        assert not written(os.ttyname(slave))
        assert b"word" == os.read(master, 4)
    finally:
        os.close(slave)
        os.close(master)


def test_a_link_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/null")

    assert "it is a symbolic link" in refusal(tmp_path / "link")
    assert "it is a symbolic link" in refusal("/proc/self/fd/1")
    assert "it is a symbolic link" in refusal("/proc/self/exe")


@pytest.mark.parametrize("end", ["", "/", "/.", "/.."])
def test_a_directory_is_named_as_such(tmp_path: Path, end: str) -> None:
    assert "Is a directory" in refusal(f"{tmp_path}{end}")


def test_a_name_with_a_nul_in_it_is_refused() -> None:
    assert "contains a NUL byte" in refusal("/tmp/a\0b")
