"""The release script: fragments become the changelog, the version is set, a commit and a tag are made."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from release import __main__ as release
from release import changing

HEAD = "# Changelog\n\nThe form.\n"
FRAGMENTS = {"b.fixed.md": "Mended\nit.\n", "a.added.md": "New.\n", "c.added.md": "Newer."}
SECTIONS = "### Added\n\n- New.\n- Newer.\n\n### Fixed\n\n- Mended it.\n"


def test_fragments_become_a_section_at_the_top() -> None:
    old = f"{HEAD}\n## [0.1.0] - 2026-01-01\n\n### Added\n\n- Old.\n"

    assert (
        f"{HEAD}\n## [0.2.0] - 2026-02-02\n\n{SECTIONS}\n"
        "## [0.1.0] - 2026-01-01\n\n### Added\n\n- Old.\n"
    ) == changing.changelog(old, FRAGMENTS, "0.2.0", "2026-02-02")


def test_what_is_unreleased_is_released_with_them() -> None:
    old = f"{HEAD}\n## [0.1.0] - unreleased\n\n### Added\n\n- Old.\n\n### Removed\n\n- Gone.\n"

    assert (
        f"{HEAD}\n## [0.1.0] - 2026-02-02\n\n### Added\n\n- Old.\n- New.\n- Newer.\n\n"
        "### Removed\n\n- Gone.\n\n### Fixed\n\n- Mended it.\n"
    ) == changing.changelog(old, FRAGMENTS, "0.1.0", "2026-02-02")


@pytest.mark.parametrize("name", ["x.md", "x.new.md", "X.added.md", "README.md", "x.added.txt"])
def test_a_fragment_without_a_kind_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no NAME"):
        changing.kind_of(name)


@pytest.mark.parametrize("version", ["1", "1.2", "v1.2.3", "1.2.03", "1.2.3-rc1"])
def test_what_is_no_version_is_refused(version: str) -> None:
    with pytest.raises(ValueError, match="no version"):
        changing.numbers(version)


def test_the_fragments_that_wait_have_a_kind_and_a_text() -> None:
    found = release.fragments()

    assert [] == [name for name, text in found.items() if not text.strip()]
    assert sum(map(len, changing.sections(found).values())) == len(found)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small repository with a version, a changelog, a fragment and pages that change nothing."""
    (tmp_path / "fork_trace").mkdir()
    (tmp_path / "fork_trace" / "__init__.py").write_text('__version__ = "0.1.0"\n')
    (tmp_path / "pages.py").write_text("")
    (tmp_path / "CHANGELOG.md").write_text(f"{HEAD}\n## [0.1.0] - 2026-01-01\n\n- Old.\n")
    (tmp_path / ".changelog").mkdir()
    (tmp_path / ".changelog" / "a.added.md").write_text("New.\n")
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "A Tester")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "tester@localhost")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setattr(release, "CHECKOUT", tmp_path)
    monkeypatch.setattr(release, "CHANGELOG", tmp_path / "CHANGELOG.md")
    monkeypatch.setattr(release, "FRAGMENTS", tmp_path / ".changelog")
    monkeypatch.setattr(release, "VERSION", tmp_path / "fork_trace" / "__init__.py")
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "begin"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    return tmp_path


def git(checkout: Path, *words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=checkout, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_a_release_is_one_commit_with_its_tag(checkout: Path) -> None:
    assert 0 == release.main(["0.2.0"])
    assert "release: 0.2.0" == git(checkout, "log", "-1", "--format=%s")
    assert "v0.2.0" == git(checkout, "tag", "--points-at", "HEAD")
    assert "" == git(checkout, "status", "--porcelain")
    assert '__version__ = "0.2.0"\n' == (checkout / "fork_trace/__init__.py").read_text()
    assert "\n- New.\n" in (checkout / "CHANGELOG.md").read_text()
    assert not (checkout / ".changelog" / "a.added.md").exists()


@pytest.mark.parametrize("version", ["0.1.0", "0.0.9", "next", "--help"])
def test_another_version_is_refused_and_nothing_is_changed(checkout: Path, version: str) -> None:
    assert 2 == release.main([version])
    assert "" == git(checkout, "status", "--porcelain")
    assert "" == git(checkout, "tag")


def test_changes_that_are_not_committed_are_not_released(checkout: Path) -> None:
    (checkout / "new").write_text("")

    assert 2 == release.main(["0.2.0"])


def test_without_a_version_it_shows_what_waits(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 0 == release.main([])
    assert "### Added\n- New.\n" == capsys.readouterr().out
