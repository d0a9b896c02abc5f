"""Why no user namespace may be created, from files as /proc has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from fork_trace.host import userns

WHOLE = "         0          0 4294967295\n"
SOME = "         0     100000      65536\n         70000          5         1\n"


def made(
    root: Path, link: str = "/", ids: str = "1000", maps: tuple[str, str] = (WHOLE, WHOLE)
) -> str:
    """A process 42 with that root, effective uid and gid, and maps."""
    place = root / "proc" / "42"
    place.mkdir(parents=True)
    (place / "root").symlink_to(link)
    lines = "".join(f"{kind}:\t7\t{ids}\t7\t7\n" for kind in ("Uid", "Gid"))
    (place / "status").write_text(f"Name:\tsh\n{lines}")
    (place / "uid_map").write_text(maps[0])
    (place / "gid_map").write_text(maps[1])
    return str(root)


@pytest.mark.parametrize(
    ("given", "reason", "detail"),
    [
        ({"link": "/srv/build"}, "a chroot", "/srv/build"),
        ({"ids": "0", "maps": (SOME, SOME)}, "unmapped ids", "uid"),
        ({"ids": "165536", "maps": (SOME, SOME)}, "unmapped ids", "uid"),
        ({"ids": "100000", "maps": (SOME, "")}, "unmapped ids", "gid"),
        ({"ids": "165535", "maps": (SOME, SOME)}, "a security module", "mapped"),
        ({"ids": "5", "maps": (SOME, SOME)}, "a security module", "mapped"),
        ({}, "a security module", "mapped"),
    ],
)
def test_the_first_reason_in_the_kernel_s_order_is_told(
    tmp_path: Path, given: dict[str, str], reason: str, detail: str
) -> None:
    found = userns.why_denied(42, made(tmp_path, **given))  # type: ignore[arg-type]

    assert found is not None and reason == found[0] and detail in found[1]


def test_apparmor_s_restriction_is_named(tmp_path: Path) -> None:
    root = made(tmp_path)
    setting = tmp_path / "proc/sys/kernel/apparmor_restrict_unprivileged_userns"
    setting.parent.mkdir(parents=True)
    setting.write_text("1\n")

    found = userns.why_denied(42, root)

    assert found is not None and "kernel.apparmor_restrict_unprivileged_userns" == found[0]


def test_of_a_process_that_is_gone_nothing_is_told(tmp_path: Path) -> None:
    assert userns.why_denied(42, str(tmp_path)) is None
