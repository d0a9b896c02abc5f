"""Roots of Debian's suites: when they are made anew, and what is told if they cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
from vm import debian
from vm.cache import VmError


def kept(place: Path, wanted: str, text: str) -> str:
    """What is in the root that is kept for this, if a new one would hold the text."""

    def prepare(root: Path) -> None:
        root.mkdir()
        (root / "file").write_text(text)

    return (debian.kept(place, wanted, prepare) / "file").read_text()


def test_a_root_is_made_once_and_anew_for_other_packages(tmp_path: Path) -> None:
    place = tmp_path / "unstable"

    assert "first" == kept(place, "one", "first")
    assert "first" == kept(place, "one", "second")
    assert "third" == kept(place, "one two", "third")
    assert [place] == list(tmp_path.iterdir())


def test_a_root_that_could_not_be_made_leaves_the_old_one(tmp_path: Path) -> None:
    place = tmp_path / "unstable"
    kept(place, "one", "first")

    def prepare(root: Path) -> None:
        raise VmError("no network")

    with pytest.raises(VmError):
        debian.kept(place, "two", prepare)
    assert "first" == kept(place, "one", "second")


def test_the_last_word_of_what_failed_is_told() -> None:
    with pytest.raises(VmError, match="cannot do it: second"):
        debian.run(["sh", "-c", "echo first; echo second >&2; exit 1"], "do it")
    with pytest.raises(VmError, match="no-such-program is missing. Run scripts/setup --vm."):
        debian.run(["no-such-program"], "do it")
    assert "fine\n" == debian.run(["echo", "fine"], "do it")
