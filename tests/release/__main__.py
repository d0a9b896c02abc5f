"""scripts/release: the checks, the files, the commit and its tag. It pushes nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

from release import changing

CHECKOUT = Path(__file__).resolve().parents[2]
CHANGELOG = CHECKOUT / "CHANGELOG.md"
FRAGMENTS = CHECKOUT / ".changelog"
VERSION = CHECKOUT / "fork_trace" / "__init__.py"
_LINE = re.compile(r'__version__ = "(.+)"')


def _git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=CHECKOUT, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()


def fragments() -> dict[str, str]:
    """Each fragment's text by its name."""
    return {
        path.name: path.read_text(encoding="utf-8")
        for path in FRAGMENTS.glob("*.md")
        if path.name != "README.md"
    }


def _refused(sentence: str) -> int:
    print(f"scripts/release: {sentence}", file=sys.stderr)
    return 2


def main(argv: list[str]) -> int:
    """Show what the next release has, or make it; the exit code."""
    try:
        waiting = fragments()
        if not argv:
            for heading, entries in changing.sections(waiting).items():
                print("\n".join([heading, *entries]))
            return 0
        if len(argv) > 1 or argv[0].startswith("-"):
            return _refused("give one version, such as 0.2.0, or nothing to see what waits.")
        version, current = argv[0], _LINE.search(VERSION.read_text())
        assert current is not None
        is_first = f"## [{current[1]}] - unreleased" in CHANGELOG.read_text()
        newer = changing.numbers(version), changing.numbers(current[1])
        if newer[0] < newer[1] or (newer[0] == newer[1] and not is_first):
            return _refused(f"{version} is not after {current[1]}.")
        if _git("status", "--porcelain"):
            return _refused("there are changes that are not committed. Commit or stash them.")
        if _git("tag", "--list", f"v{version}"):
            return _refused(f"the tag v{version} is there already.")
        date = datetime.now(timezone.utc).strftime("%Y-%m-%d")
        CHANGELOG.write_text(
            changing.changelog(CHANGELOG.read_text(), waiting, version, date), encoding="utf-8"
        )
    except ValueError as error:
        return _refused(f"{error}.")
    VERSION.write_text(_LINE.sub(f'__version__ = "{version}"', VERSION.read_text()))
    for name in waiting:
        (FRAGMENTS / name).unlink()
    # In a process of its own: this one knows the old version.
    subprocess.run([sys.executable, "-m", "pages"], cwd=CHECKOUT, check=True)
    _git("add", "--all")
    _git("commit", "--signoff", "--message", f"release: {version}")
    _git("tag", "--annotate", f"v{version}", "--message", f"fork-trace {version}")
    print(f"v{version} is committed and tagged. To publish it: git push --follow-tags")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
