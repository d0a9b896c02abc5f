"""Which file system a file is on, from lists of mounts, and which are asked nothing."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from fork_trace import mounts
from fork_trace.budget import Budget, OverBudgetError
from fork_trace.host import procfs
from fork_trace.mounts import Mounts, OwnMounts, UntouchedError, View

LINES = b"""\
21 1 8:1 / / rw - ext4 /dev/sda1 rw
22 21 8:2 /root /with\\040space rw,relatime shared:1 master:2 - ext4 /dev/sda2 rw
23 21 0:60 / /srv rw - fuse.sshfs host:/ rw
24 23 0:61 / /srv/inner rw - tmpfs tmpfs rw
25 21 0:62 / /srv rw - nfs4 host:/ rw
26 1 0:299 / /layers rw - overlay overlay rw,lowerdir=/a
not a line
"""


def host(root: Path, theirs: bytes, ours: bytes = b"", user: str = "user:[1]") -> View:
    """What process 42 sees, of these mounts."""
    for name, raw in (("self", ours), ("42", theirs)):
        (root / name / "ns").mkdir(parents=True)
        (root / name / "mountinfo").write_bytes(raw)
    (root / "self/ns/user").symlink_to("user:[1]")
    (root / "42/ns/user").symlink_to(user)
    return View(OwnMounts((), str(root)), 42, str(root))


@pytest.mark.parametrize(
    ("path", "type_"),
    [
        ("/usr/bin/x", "ext4"),
        ("/srv/x", "nfs4"),
        ("/srvx", "ext4"),
        ("/srv/inner/x", "tmpfs"),
        ("/layers", "overlay"),
    ],
)
def test_a_path_lies_on_the_nearest_mount_above_it(path: str, type_: str) -> None:
    found = Mounts(LINES).at(path)

    assert found is not None
    assert type_ == found.type


def test_numbers_and_paths_are_those_of_maps() -> None:
    found = Mounts(LINES)
    each = [mount for mount in map(found.of_number, range(20, 28)) if mount is not None]

    assert [21, 22, 23, 24, 25, 26] == [mount.number for mount in each]
    assert each == [found.of_device(mount.device) for mount in each]
    assert [[mount] for mount in each] == [
        list(found.all_of_device(mount.device)) for mount in each
    ]
    assert ("/root", "/with space", "00:12b") == (each[1].root, each[1].point, each[5].device)
    for nowhere in (Mounts(b""), found):
        assert (None, None) == (nowhere.of_number(2), nowhere.of_device("00:6"))
        assert nowhere.of_device("") is None
    assert Mounts(b"").at("/") is None


def test_a_file_is_looked_for_where_its_file_system_is_mounted(tmp_path: Path) -> None:
    host(tmp_path, b"", LINES)
    own = OwnMounts((), str(tmp_path))

    assert ["/with space/bin/app"] == own.find("/root/bin/app", "08:02")
    assert [] == own.find("/root/bin/app", "08:03")
    assert [] == own.find("/other/bin/app", "08:02")
    own.close()


@pytest.mark.parametrize(
    ("device", "why"),
    [
        ("00:3c", "not read: its file system, fuse, may never answer"),
        ("00:3e", "not read: its file system, nfs4, may never answer"),
        ("00:63", "not read: its file system is mounted nowhere that can be seen"),
    ],
)
def test_what_a_server_answers_for_is_not_asked(tmp_path: Path, device: str, why: str) -> None:
    with pytest.raises(UntouchedError) as raised:
        host(tmp_path, LINES).demand_device(device, "/opt/x")

    assert why == str(raised.value)


@pytest.mark.parametrize("device", ["08:01", "08:02", "00:3d"])
def test_what_the_kernel_answers_for_is(tmp_path: Path, device: str) -> None:
    host(tmp_path, LINES).demand_device(device, "/opt/x")


def test_what_this_program_runs_from_is_waited_for_anyhow(tmp_path: Path) -> None:
    host(tmp_path, LINES)

    View(OwnMounts({"00:3c"}, str(tmp_path)), 42, str(tmp_path)).demand_device("00:3c", "/x")


def test_below_an_overlay_the_device_may_be_that_of_a_layer(tmp_path: Path) -> None:
    host(tmp_path, LINES).demand_device("00:63", "/layers/x")


def test_an_overlay_that_anybody_can_have_mounted_is_not_asked(tmp_path: Path) -> None:
    strange, known, ours = (tmp_path / name for name in ("strange", "known", "ours"))

    with pytest.raises(UntouchedError, match="another user namespace"):
        host(strange, LINES, user="user:[2]").demand_device("00:12b", "/layers/x")
    host(known, LINES, ours=LINES, user="user:[2]").demand_device("00:12b", "/layers/x")
    host(ours, LINES).demand_device("00:12b", "/layers/x")


def test_whoever_mounts_much_pays_for_the_reading_of_it(tmp_path: Path) -> None:
    """A user has 100,000 in a namespace of his own, read again for each name of a path.

    Each is looked at where the device is in none of them.
    """
    many = b"".join(b"%d 1 8:1 / /m%d rw - ext4 d rw\n" % (each, each) for each in range(2, 20_000))
    host(tmp_path, many)
    cost = Budget(4000)
    view = View(OwnMounts((), str(tmp_path)), 42, str(tmp_path), cost)

    with pytest.raises(OverBudgetError):
        for _ in range(50):
            view.demand_device("08:01", "/m2/x")
    assert cost.left < 1000
    cost.left = cost.most = 60_000
    with pytest.raises(OverBudgetError):
        for _ in range(3):
            with suppress(UntouchedError):
                view.demand_device("00:99", "/m2/x")


def test_of_a_process_that_is_gone_nothing_is_said(tmp_path: Path) -> None:
    host(tmp_path, LINES)

    with pytest.raises(OSError) as raised:
        View(OwnMounts((), str(tmp_path)), 43, str(tmp_path)).demand_device("00:3c", "/x")

    assert not isinstance(raised.value, UntouchedError)


def test_memory_that_has_a_name_is_on_a_file_system_of_its_own() -> None:
    fd = os.memfd_create("program")
    own = OwnMounts()

    assert own.memory == View(own).demand(fd)
    os.close(fd)
    own.close()


def test_of_our_own_files_the_mount_is_known() -> None:
    own = OwnMounts()
    found = 0
    for mapping in procfs.mappings(os.getpid()):
        if mapping.path and os.path.exists(mapping.path):
            fd = os.open(mapping.path, os.O_PATH)
            found += own.now().of_number(mounts.mount_number(fd)) is not None
            os.close(fd)
    own.close()

    assert found


def test_what_is_mounted_meanwhile_is_seen(tmp_path: Path) -> None:
    own = OwnMounts()
    before = own.now().at(str(tmp_path))
    if subprocess.run(["mount", "-t", "tmpfs", "ours", tmp_path], capture_output=True).returncode:
        pytest.skip("needs the right to mount; run it as root")
    try:
        there = own.now().at(str(tmp_path))
        assert there is not None
        assert ("tmpfs", str(tmp_path)) == (there.type, there.point)
        assert own.of_number(there.number) == own.of_device(there.device) == there
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    assert before == own.now().at(str(tmp_path))
    own.close()
