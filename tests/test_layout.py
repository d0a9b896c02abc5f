"""That scripts/check refuses C which is laid out otherwise than .clang-format says."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
RIGHT = "static int twice(int number)\n{\n\treturn 2 * number;\n}\n"


pytestmark = pytest.mark.skipif(
    not (CHECKOUT / ".venv/bin/clang-format").exists(),
    reason="needs clang-format; scripts/setup installs it",
)


def check_of_layout() -> str:
    """The line of scripts/check that does it."""
    (line,) = (
        line
        for line in (CHECKOUT / "scripts" / "check").read_text().splitlines()
        if "clang-format" in line
    )
    return line


def checked(root: Path) -> subprocess.CompletedProcess[str]:
    """Let that line judge a tree of its own."""
    shutil.copy(CHECKOUT / ".clang-format", root)
    (root / ".venv").symlink_to(CHECKOUT / ".venv")
    for name in ("bpf", "tests"):
        (root / name).mkdir(exist_ok=True)
    return subprocess.run(
        ["bash", "-c", check_of_layout()], cwd=root, capture_output=True, text=True
    )


@pytest.mark.parametrize("name", ["bpf/limits/one.h", "bpf/one.bpf.c", "tests/tools/bench/one.c"])
@pytest.mark.parametrize(
    ("text", "is_right"),
    [
        (RIGHT, True),
        (RIGHT.replace("\t", "    "), False),
        (RIGHT.replace(")\n{", ") {"), False),
        (RIGHT.replace("2 * number", "2 * number" + " + 1" * 30), False),
    ],
)
def test_a_wrong_layout_of_c_fails_and_is_shown(
    tmp_path: Path, name: str, text: str, is_right: bool
) -> None:
    file = tmp_path / name
    file.parent.mkdir(parents=True)
    file.write_text(text)
    done = checked(tmp_path)

    assert is_right == (done.returncode == 0)
    assert is_right == (name not in done.stderr)


def test_the_table_of_probes_is_laid_out_by_hand(tmp_path: Path) -> None:
    (tmp_path / "bpf").mkdir()
    shutil.copy(CHECKOUT / "bpf" / "probes.def", tmp_path / "bpf")
    (tmp_path / "bpf" / "one.h").write_text(RIGHT)

    assert 0 == checked(tmp_path).returncode
