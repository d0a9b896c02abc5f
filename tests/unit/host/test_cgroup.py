"""Cgroup mounts and paths, of v1, v2 and hybrid hosts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fork_trace.host import cgroup

V2 = "25 24 0:23 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1_PIDS = "39 31 0:36 / /sys/fs/cgroup/pids rw shared:18 - cgroup cgroup rw,pids\n"
V1_MEMORY = "40 31 0:37 / /sys/fs/cgroup/memory rw shared:19 - cgroup cgroup rw,memory\n"
V1_CPU = "33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
HYBRID_V2 = "32 31 0:29 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n"
CONTAINER = (
    "812 790 0:23 /docker/abc /sys/fs/cgroup ro,nosuid master:4 - cgroup2 cgroup rw,nsdelegate\n"
)
OTHERS = (
    "22 27 0:21 / /proc rw,nosuid shared:14 - proc proc rw\n"
    "31 24 0:28 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755\n"
    "\n"
    "not a line of mountinfo\n"
)


def paths(tmp_path: Path, mountinfo: str, lean: int = 1) -> cgroup.CgroupPaths:
    (tmp_path / "self").mkdir()
    (tmp_path / "self/mountinfo").write_bytes(os.fsencode(mountinfo))
    return cgroup.CgroupPaths(str(tmp_path), lean)


def mounts(tmp_path: Path, mountinfo: str) -> list[cgroup.Mount]:
    paths(tmp_path, mountinfo).close()
    return cgroup.mounts(str(tmp_path))


UNIFIED = cgroup.Mount("/sys/fs/cgroup", True, ("rw", "nsdelegate"), "/")
PIDS = cgroup.Mount("/sys/fs/cgroup/pids", False, ("rw", "pids"), "/")
CPU = cgroup.Mount("/sys/fs/cgroup/cpu,cpuacct", False, ("rw", "cpu", "cpuacct"), "/")


@pytest.mark.parametrize(
    ("mountinfo", "expected"),
    [
        (V2, [UNIFIED]),
        (V1_CPU + V1_PIDS, [CPU, PIDS]),
        (HYBRID_V2 + V1_PIDS, [cgroup.Mount("/sys/fs/cgroup/unified", True, ("rw",), "/"), PIDS]),
        (
            CONTAINER,
            [cgroup.Mount("/sys/fs/cgroup", True, ("rw", "nsdelegate"), "/docker/abc")],
        ),
        ("", []),
    ],
    ids=["v2", "v1", "hybrid", "container", "none"],
)
def test_each_hierarchy_is_found_where_it_is_mounted(
    tmp_path: Path, mountinfo: str, expected: list[cgroup.Mount]
) -> None:
    assert expected == mounts(tmp_path, OTHERS + mountinfo)


@pytest.mark.parametrize(
    ("escaped", "path"),
    [
        ("/a\\040b", "/a b"),
        ("/a\\011b", "/a\tb"),
        ("/a\\134040", "/a\\040"),  # an escaped backslash, then three digits
        ("/a\\012b", "/a\nb"),
        ("/\udcff", "/\udcff"),
    ],
)
def test_the_escapes_of_mountinfo_are_undone(tmp_path: Path, escaped: str, path: str) -> None:
    (mount,) = mounts(
        tmp_path, V2.replace("/sys/fs/cgroup", escaped).replace(" / ", f" {escaped} ")
    )

    assert (path, path) == (mount.path, mount.root)


def test_without_mountinfo_there_are_no_mounts(tmp_path: Path) -> None:
    assert [] == cgroup.mounts(str(tmp_path))


@pytest.mark.parametrize(
    ("mountinfo", "directory", "shown"),
    [
        (V2, "/sys/fs/cgroup/a/b", "/a/b"),
        (V2, "/sys/fs/cgroup", "/"),
        (V2, "/sys/fs/cgroups/a", "/sys/fs/cgroups/a"),
        (CONTAINER, "/sys/fs/cgroup/a", "/docker/abc/a"),
        (CONTAINER, "/sys/fs/cgroup", "/docker/abc"),
        (HYBRID_V2 + V1_PIDS, "/sys/fs/cgroup/pids/a", "/a"),
        (HYBRID_V2 + V1_PIDS, "/sys/fs/cgroup/unified/a", "/a"),
        ("", "/sys/fs/cgroup/a", "/sys/fs/cgroup/a"),
    ],
)
def test_a_directory_is_shown_as_proc_would(
    tmp_path: Path, mountinfo: str, directory: str, shown: str
) -> None:
    found = paths(tmp_path, mountinfo)

    assert shown == found.relative(directory)


@pytest.fixture
def tree(tmp_path: Path) -> cgroup.CgroupPaths:
    """A host whose v2 hierarchy is a directory of ours, with a leaf in it."""
    (tmp_path / "v2/app.slice/leaf").mkdir(parents=True)
    return paths(tmp_path, V2.replace("/sys/fs/cgroup", str(tmp_path / "v2")))


@pytest.mark.parametrize(
    ("mountinfo", "is_v2", "path", "shown"),
    [
        (V2, True, "/a/b", "/sys/fs/cgroup/a/b"),
        (HYBRID_V2 + V1_PIDS, False, "/a/b", "/sys/fs/cgroup/pids/a/b"),
        (HYBRID_V2 + V1_PIDS, True, "/a", "/sys/fs/cgroup/unified/a"),
        (CONTAINER, True, "/docker/abc/a", "/sys/fs/cgroup/a"),
        (CONTAINER, True, "/docker/abc", "/sys/fs/cgroup"),
        (CONTAINER, True, "/docker/abcd", None),  # not mounted here
        (V2, False, "/a", None),
        (V2, True, "/", "/sys/fs/cgroup"),
    ],
)
def test_a_path_that_was_noted_stands_for_a_cgroup_that_is_gone(
    tmp_path: Path, mountinfo: str, is_v2: bool, path: str, shown: str | None
) -> None:
    found = paths(tmp_path, mountinfo)

    found.note(2**62, is_v2, path)

    assert shown == found.directory(2**62, is_v2)
    assert found.directory(2**62 + 1, is_v2) is None


def test_a_cgroup_is_gone_though_another_one_is_at_its_path(
    tmp_path: Path, tree: cgroup.CgroupPaths
) -> None:
    leaf = tmp_path / "v2/app.slice/leaf"
    number = leaf.stat().st_ino
    assert not tree.is_gone(number, True)  # nobody has asked for it: not known

    tree.note(number, True, "/app.slice/leaf")
    assert not tree.is_gone(number, True)
    leaf.rename(tmp_path / "v2/app.slice/other")  # or its number might be the next one's
    assert tree.is_gone(number, True)
    leaf.mkdir()
    assert tree.is_gone(number, True)


@pytest.mark.parametrize("text", ["app.slice/leaf", "/app.slice/leaf/", "/app.slice", "/"])
def test_a_cgroup_is_found_by_the_path_that_a_user_gives(
    tmp_path: Path, tree: cgroup.CgroupPaths, text: str
) -> None:
    number = (tmp_path / "v2" / text.strip("/")).stat().st_ino

    assert number == tree.find(text)
    assert number == tree.find(str(tmp_path / "v2") + "/" + text.strip("/"))


@pytest.mark.parametrize("text", ["/..", "app.slice/../app.slice", "app.slice/leaf/pids.max"])
def test_a_path_that_names_no_cgroup_is_not_found(
    tmp_path: Path, tree: cgroup.CgroupPaths, text: str
) -> None:
    (tmp_path / "v2/app.slice/leaf/pids.max").touch()

    assert tree.find(text) is None


def test_a_cgroup_that_is_not_there_is_not_found(tree: cgroup.CgroupPaths) -> None:
    assert tree.find("/app.slice/other") is None


def test_where_pids_is_in_v1_a_cgroup_is_looked_for_there(tmp_path: Path) -> None:
    (tmp_path / "pids/docker").mkdir(parents=True)
    text = V2.replace("/sys/fs/cgroup", str(tmp_path))
    text += V1_PIDS.replace("/sys/fs/cgroup/pids", str(tmp_path / "pids"))
    found = paths(tmp_path, text)

    assert not found.is_pids_v2()
    assert (tmp_path / "pids/docker").stat().st_ino == found.find("/docker")


def test_a_host_without_any_hierarchy_finds_no_cgroup(tmp_path: Path) -> None:
    assert paths(tmp_path, "").find("/") is None


def test_an_id_without_a_mount_has_no_directory(tmp_path: Path) -> None:
    found = paths(tmp_path, "")

    assert found.directory(1) is None
    assert found.directory(1, is_v2=False) is None


def test_an_id_that_no_cgroup_has_has_no_directory(tree: cgroup.CgroupPaths) -> None:
    assert tree.directory((1 << 63) + 1) is None


def test_the_mounts_are_closed_and_closing_twice_does_no_harm(tree: cgroup.CgroupPaths) -> None:
    held = len(os.listdir("/proc/self/fd"))

    tree.close()
    tree.close()

    assert held - 1 == len(os.listdir("/proc/self/fd"))


def held(mountinfo_paths: cgroup.CgroupPaths) -> list[str]:
    """The hierarchies of interest that are held open."""
    return sorted(mountinfo_paths._fds)


@pytest.mark.parametrize(
    ("mountinfo", "hierarchies"),
    [
        (V2, ["v2"]),
        (V2 + V1_PIDS + V1_MEMORY, ["memory", "pids", "v2"]),
        (V1_CPU, []),
        (V1_PIDS, ["pids"]),
        (V2 + V1_PIDS.replace("rw,pids", "rw,memory,pids"), ["memory", "pids", "v2"]),
    ],
)
def test_the_hierarchies_of_pids_and_memory_are_held_open_and_no_other(
    tmp_path: Path, mountinfo: str, hierarchies: list[str]
) -> None:
    for name in ("pids", "memory", "cpu,cpuacct"):
        (tmp_path / "mounted" / name).mkdir(parents=True)

    found = paths(tmp_path, mountinfo.replace("/sys/fs/cgroup", str(tmp_path / "mounted")))

    assert hierarchies == held(found)
    found.close()
    assert [] == held(found)


def test_a_host_whose_memory_alone_is_in_v1_counts_its_tasks_in_v2(tmp_path: Path) -> None:
    assert paths(tmp_path, V2 + V1_MEMORY).is_pids_v2()


def test_a_number_is_looked_up_in_the_hierarchy_of_its_controller(tmp_path: Path) -> None:
    found = paths(tmp_path, "")
    # As they are remembered: the same number is another cgroup in each hierarchy.
    found._known.update({("v2", 7): "/a", ("pids", 7): "/b", ("memory", 7): "/c"})

    assert ["/a", "/a", "/b", "/c"] == [
        found.directory(7),
        found.directory(7, is_v2=True, controller="memory"),
        found.directory(7, is_v2=False),
        found.directory(7, is_v2=False, controller="memory"),
    ]


def test_of_ever_new_cgroups_those_asked_for_lately_are_remembered(tmp_path: Path) -> None:
    found = paths(tmp_path, V2, lean=1000)  # ten of them
    first = 1 << 60  # no cgroup of this host

    for number in range(first, first + 25):
        found.note(number, True, f"/pod{number - first}")
        assert "/sys/fs/cgroup/pod0" == found.directory(first)  # it goes on failing

    known = [found.directory(number) for number in range(first, first + 25)]
    assert [f"/sys/fs/cgroup/pod{number}" for number in (0, *range(16, 25))] == [
        each for each in known if each is not None
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="open_by_handle_at needs root; run as root")
def test_our_own_cgroup_is_found_by_its_id() -> None:
    found = cgroup.CgroupPaths()
    mounted = [mount for mount in cgroup.mounts() if mount.is_v2]
    if not mounted:
        pytest.skip("no v2 hierarchy is mounted; mount -t cgroup2 none /sys/fs/cgroup to run it")
    number = os.stat(mounted[0].path).st_ino

    directory = found.directory(number)
    found.close()

    assert mounted[0].path == directory


@pytest.mark.skipif(os.geteuid() != 0, reason="open_by_handle_at needs root; run as root")
@pytest.mark.parametrize("controller", ["pids", "memory"])
def test_a_cgroup_of_a_v1_hierarchy_is_found_by_its_id_there(controller: str) -> None:
    found = cgroup.CgroupPaths()
    mounted = [m for m in cgroup.mounts() if not m.is_v2 and controller in m.controllers]
    if not mounted:
        pytest.skip(f"{controller} is in no v1 hierarchy; scripts/vm --cgroup v1 has one")
    number = os.stat(mounted[0].path).st_ino

    directory = found.directory(number, is_v2=False, controller=controller)
    found.close()

    assert mounted[0].path == directory


@pytest.mark.parametrize(
    ("path", "levels", "expected"),
    [
        ("/a/b/c", 0, "/a/b/c"),
        ("/a/b/c", 1, "/a/b"),
        ("/a/b/c", 3, "/"),
        ("/a/b/c", 4, None),
        ("/", 0, "/"),
        ("/", 1, None),
    ],
)
def test_an_ancestor_is_so_many_levels_up(path: str, levels: int, expected: str | None) -> None:
    assert expected == cgroup.ancestor(path, levels)


def mountinfo(tmp_path: Path, *lines: str) -> str:
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "mountinfo").write_text("".join(f"{line}\n" for line in lines))
    return str(tmp_path)


def test_a_mount_from_outside_of_our_cgroup_namespace_has_the_host_s_paths(tmp_path: Path) -> None:
    # A container's own, and over it the host's.
    own = "30 20 0:26 / /sys/fs/cgroup ro - cgroup2 cgroup2 rw"
    outer = "31 30 0:26 /../../../.. /sys/fs/cgroup ro - cgroup2 cgroup2 rw"
    root = mountinfo(tmp_path, own, outer)
    paths = cgroup.CgroupPaths(root)

    (mount,) = cgroup.mounts(root)
    assert ("/", True) == (mount.root, mount.is_outer)
    assert "/kubepods.slice/a" == paths.relative("/sys/fs/cgroup/kubepods.slice/a")
    paths.note(1 << 60, True, "/kubepods.slice/gone")
    assert "/sys/fs/cgroup/kubepods.slice/gone" == paths.directory(1 << 60)
    paths.close()


def test_of_mounts_within_one_another_the_inner_one_tells_the_path(tmp_path: Path) -> None:
    unified = "30 20 0:26 / /sys/fs/cgroup ro - cgroup2 cgroup2 rw"
    pids = "31 30 0:27 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids"
    paths = cgroup.CgroupPaths(mountinfo(tmp_path, unified, pids))

    assert "/a" == paths.relative("/sys/fs/cgroup/pids/a")
    paths.close()


def test_what_files_and_the_kernel_hold_is_read_of_both_versions(tmp_path: Path) -> None:
    (tmp_path / "memory.stat").write_text("anon 9\nfile 5\nkernel 3\nslab 2\n")
    assert 8 == cgroup.files_and_kernel(str(tmp_path))
    (tmp_path / "memory.stat").write_text("cache 9\ntotal_cache 5\n")
    assert 5 == cgroup.files_and_kernel(str(tmp_path))
    (tmp_path / "memory.stat").write_text("anon 9\n")
    assert cgroup.files_and_kernel(str(tmp_path)) is None
    assert cgroup.files_and_kernel(str(tmp_path / "none")) is None


def test_the_processes_of_a_cgroup_are_those_below_too(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "cgroup.procs").write_text("1\n2\n")
    assert cgroup.processes(str(tmp_path), 9) is None
    (tmp_path / "inner/cgroup.procs").write_text("3\n")
    assert [1, 2, 3] == cgroup.processes(str(tmp_path), 9)
    assert cgroup.processes(str(tmp_path), 2) is None


@pytest.mark.parametrize(
    ("own", "above", "expected"),
    [
        (("2", "2"), ("3", "max"), False),
        (("1", "2"), ("9", "9"), False),
        (("1", "2"), ("9", "10"), True),
        (("7", "max"), None, True),
        (None, None, True),
    ],
)
@pytest.mark.parametrize("is_v2", [True, False])
def test_whether_another_task_is_allowed_here(
    tmp_path: Path,
    own: tuple[str, str] | None,
    above: tuple[str, str] | None,
    expected: bool,
    is_v2: bool,
) -> None:
    proc, mounted = tmp_path / "proc", tmp_path / "cgroups"
    kind, options = ("cgroup2", "rw") if is_v2 else ("cgroup", "rw,pids")
    line = f"30 25 0:26 / {mounted} rw shared:4 - {kind} none {options}\n"
    for directory in (proc / "self", proc / str(os.getpid()), mounted / "a" / "b"):
        directory.mkdir(parents=True)
    (proc / "self" / "mountinfo").write_text(line)
    controllers = "0::" if is_v2 else "4:pids:"
    (proc / str(os.getpid()) / "cgroup").write_text(f"{controllers}/a/b\n1:cpu:/c\n")
    for place, numbers in ((mounted / "a" / "b", own), (mounted / "a", above)):
        for name, text in zip(("pids.current", "pids.max"), numbers or ()):
            (place / name).write_text(f"{text}\n")

    assert cgroup.has_room(str(proc)) is expected
