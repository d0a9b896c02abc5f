"""Installed headers: found as bcc finds them, asked for fields, and named by package where there are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from fork_trace.probes import headers

RELEASE = "6.1.0-56-amd64"

# As in Linux 6.1, and as in 5.10.
NEW = {
    "sched.h": "",
    "user_namespace.h": """
enum ucount_type {
	UCOUNT_USER_NAMESPACES,
	UCOUNT_COUNTS,
};
enum rlimit_type {
	UCOUNT_RLIMIT_NPROC,
};
struct user_namespace {
	int			level;
	long ucount_max[UCOUNT_COUNTS];
	long rlimit_max[UCOUNT_RLIMIT_COUNTS];
} __randomize_layout;
struct ucounts {
	struct user_namespace *ns;
	atomic_long_t ucount[UCOUNT_COUNTS];
	atomic_long_t rlimit[UCOUNT_RLIMIT_COUNTS];
};
""",
    "sched/user.h": "struct user_struct {\n\trefcount_t __count;\t/* reference count, not processes */\n};\n",
    "sched/task.h": """
struct kernel_clone_args {
	u64 flags;
	int cgroup;
};
extern void sched_cgroup_fork(struct task_struct *p, struct kernel_clone_args *kargs);
""",
    "cred.h": "struct cred {\n\tstruct user_struct *user;\n\tstruct ucounts *ucounts;\n};\n",
    "pid_namespace.h": "struct pid_namespace {\n\tunsigned int level;\n};\n",
    "nsproxy.h": "struct nsproxy {\n\tstruct time_namespace *time_ns_for_children;\n};\n",
    "fdtable.h": "struct files_struct *dup_fd(struct files_struct *, struct fd_range *)\n\t__latent_entropy;\n",
}
OLD = {
    **NEW,
    "user_namespace.h": """
enum ucount_type {
	UCOUNT_USER_NAMESPACES,
};
struct user_namespace {
	int ucount_max[UCOUNT_COUNTS];
};
struct ucounts {
	atomic_t ucount[UCOUNT_COUNTS];
};
""",
    "sched/user.h": "struct user_struct {\n\tatomic_t processes;\t/* How many */\n};\n",
    "cred.h": "struct cred {\n\tstruct user_struct *user;\n};\n",
    "fdtable.h": "struct files_struct *dup_fd(struct files_struct *, unsigned, int *) __latent_entropy;\n",
}


def install(root: Path, texts: dict[str, str], release: str = RELEASE) -> None:
    """As Debian does: two trees, and links to them."""
    common, own = root / "usr/src/common", root / "usr/src/own"
    for name, text in texts.items():
        path = common / "include/linux" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (own / "include/generated").mkdir(parents=True)
    (own / "include/generated/autoconf.h").write_text("")
    modules = root / "lib/modules" / release
    modules.mkdir(parents=True)
    (modules / "source").symlink_to(common)
    (modules / "build").symlink_to(own)


def release_file(root: Path, text: str) -> None:
    (root / "etc").mkdir()
    (root / "etc/os-release").write_text(text)


def test_a_field_that_is_declared_is_found_and_one_in_a_comment_is_not(tmp_path: Path) -> None:
    install(tmp_path, NEW)

    found = headers.read(RELEASE, str(tmp_path))

    assert headers.find(RELEASE, str(tmp_path))[0].value is True
    assert {
        "ucounts_rlimit": True,
        "user_namespace_rlimit_max": True,
        "ucount_type___v60_UCOUNT_RLIMIT_NPROC___v60": False,
        "user_struct___v513_processes": False,
        "cred_ucounts": True,
        "pid_namespace_pid_max": False,
        "nsproxy_time_ns_for_children": True,
        "kernel_clone_args_cgroup": True,
    } == found.has


def test_an_older_kernel_has_other_fields(tmp_path: Path) -> None:
    install(tmp_path, OLD)

    found = headers.read(RELEASE, str(tmp_path))

    assert [
        "kernel_clone_args_cgroup",
        "nsproxy_time_ns_for_children",
        "user_struct___v513_processes",
    ] == sorted(name for name, has in found.has.items() if has)


@pytest.mark.parametrize(("texts", "count"), [(NEW, 2), (OLD, 3)])
def test_the_form_of_a_function_is_told_by_its_declaration(
    texts: dict[str, str], count: int, tmp_path: Path
) -> None:
    install(tmp_path, texts)

    assert {"dup_fd": count, "sched_cgroup_fork": None} == headers.read(
        RELEASE, str(tmp_path)
    ).params


def test_a_distribution_with_one_tree_has_no_source_link(tmp_path: Path) -> None:
    install(tmp_path, NEW)
    modules = tmp_path / "lib/modules" / RELEASE
    (tmp_path / "usr/src/own/include/linux").symlink_to(tmp_path / "usr/src/common/include/linux")
    (modules / "source").unlink()

    assert headers.find(RELEASE, str(tmp_path))[0].value is True


@pytest.mark.parametrize(
    ("gone", "why"),
    [
        ("lib/modules/6.1.0-56-amd64/build", "build is not a directory"),
        ("usr/src/own/include/generated/autoconf.h", "has no include/generated/autoconf.h"),
        ("usr/src/common/include/linux/sched.h", "has no include/linux/sched.h"),
    ],
)
def test_what_is_missing_is_said(gone: str, why: str, tmp_path: Path) -> None:
    install(tmp_path, NEW)
    (tmp_path / gone).unlink()

    found, _ = headers.find(RELEASE, str(tmp_path))

    assert found.value is False
    assert why in found.why


@pytest.mark.parametrize(
    ("os_release", "release", "command"),
    [
        ("ID=debian", "6.1.0-56-amd64", "apt install linux-headers-6.1.0-56-amd64"),
        (
            "ID=ubuntu\nID_LIKE=debian",
            "5.4.0-26-generic",
            "apt install linux-headers-5.4.0-26-generic",
        ),
        (
            'ID="rhel"\nID_LIKE="fedora"',
            "5.14.0-70.el9.x86_64",
            "dnf install kernel-devel-5.14.0-70.el9.x86_64",
        ),
        (
            'ID="rocky"\nID_LIKE="rhel centos fedora"',
            "5.14.0-70.el9.x86_64",
            "dnf install kernel-devel-5.14.0-70.el9.x86_64",
        ),
        ("ID=fedora", "6.8.5-301.fc40.x86_64", "dnf install kernel-devel-6.8.5-301.fc40.x86_64"),
        (
            'ID="opensuse-leap"\nID_LIKE="suse opensuse"',
            "6.4.0-150600.21-default",
            "zypper install kernel-default-devel",
        ),
        ("ID=alpine", "6.6.30-0-lts", "apk add linux-lts-dev"),
        ("ID=arch", "6.9.1-arch1-1", "pacman -S linux-headers"),
        ("ID=arch", "6.6.30-1-lts", "pacman -S linux-lts-headers"),
        ("ID=mine\nID_LIKE=debian", "6.1.0", "apt install linux-headers-6.1.0"),
        ("ID=other", "6.1.0", "6.1.0, from your distribution"),
    ],
)
def test_the_package_is_named_as_this_distribution_calls_it(
    os_release: str, release: str, command: str, tmp_path: Path
) -> None:
    release_file(tmp_path, os_release + "\n")

    assert command in headers.find(release, str(tmp_path))[1]


def test_a_host_that_does_not_say_what_it_is_gets_a_sentence_too(tmp_path: Path) -> None:
    assert RELEASE in headers.find(RELEASE, str(tmp_path))[1]
