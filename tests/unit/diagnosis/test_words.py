"""What is said about causes is said in the words of today."""

from __future__ import annotations

from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent.parent.parent
PACKAGE = CHECKOUT / "fork_trace"
TEXTS = [
    *(path for kind in ("*.py", "*.md", "*.json", "*.8") for path in PACKAGE.rglob(kind)),
    *(CHECKOUT / name for name in ("README.md", "CHANGELOG.md", ".github/CONTRIBUTING.md")),
]
# What stood there once -> what is said now.
OLD = {
    "To confirm": "Verify",
    "For now:": "Mitigate:",
    "For good:": "Fix:",
    "It can be as well": "Also possible",
    "wrongly believed": "misconceptions",
    "seen refusing in": "rejected by ... (observed)",
    "not seen refusing": "not observed",
    "by the state at that instant": "from kernel state",
    "in all by then": "total when sampled",
    "as far as it could be read": "some limits unreadable",
    "nothing to refuse": "not limited",
    "errno it likes": "errno of its choice",
    "init has died": "init has exited",
    "vowed": "has RLIMIT_NPROC 0",
    "no function to watch on this kernel": "not observable on this kernel",
    "what relieves": "how to mitigate",
    "the likeliest first": "likeliest first",
}


@pytest.mark.parametrize("phrase", OLD)
def test_an_old_phrase_is_gone(phrase: str) -> None:
    found = [
        str(path.relative_to(CHECKOUT))
        for path in TEXTS
        if phrase.lower() in " ".join(path.read_text(encoding="utf-8").split()).lower()
    ]

    assert [] == found, f"say: {OLD[phrase]}"
