"""What a person reads is plain English: no phrase is left of which a better one is known."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from fork_trace.commands import cli

CHECKOUT = Path(__file__).resolve().parent.parent
PACKAGE = CHECKOUT / "fork_trace"
# What was said -> what is said instead.
BETTER = {
    "To confirm": "Verify",
    "For now": "Mitigate",
    "For good": "Fix",
    "Do as if the host had not this feature": "Pretend the host lacks this feature",
    "End after so many seconds": "Stop after this many seconds",
    "Write over FILE": "Overwrite FILE",
    "How to write it": "Output format",
    "Watch only the fork's end until one fails": "Attach only to copy_process until a fork fails",
    "Ctrl-C ends it": "Stops ..., or on Ctrl-C",
    "by the system calls' exits": "using syscall tracepoints; causes are inferred",
    "seen refusing": "rejected by X (observed)",
    "the state at that instant": "kernel state",
    "It can be as well": "Also possible",
    "no function to watch on this kernel for": "not observable on this kernel",
    "the numbers at that instant": "inferred from kernel state, not observed",
    "in all by then": "total when sampled",
    "Whatever refuses a fork": "Waiting for fork or thread failures...",
    "wrongly believed": "Common misconceptions",
    "fine as far as it could be read": "ok (some limits unreadable)",
    "nothing to refuse": "not limited",
    "with the errno it likes": "with an errno of its choice",
    "its init has died": "its init has exited",
    "The same again, counted otherwise": "same data, grouped differently",
    "vowed never to fork": "has RLIMIT_NPROC 0",
    "can be named by anybody with anything": "names are untrusted input",
    "When nothing else starts": "When the host can no longer fork",
    "is not whole": "is incomplete",
    "not asked: needs the right to load": "not checked: requires permission to load",
    "not seen refusing": "not observed",
    "what relieves": "how to mitigate",
    "the likeliest first": "likeliest first",
    # Words that are named otherwise now.
    "rung": "attach mode",
    "passed over": "fallbacks",
    "passed_over": "fallbacks",
    "--runbook": "fork-trace docs runbook",
}
PATTERNS = {
    # What begins with a capital is a label or a heading: the same words can be right in a sentence.
    old: re.compile(
        rf"(?<![\w-]){re.escape(old)}(?![\w-])".replace(r"\ ", r"\s+"),
        0 if old[0].isupper() else re.IGNORECASE,
    )
    for old in BETTER
}
PAGES = [
    CHECKOUT / "README.md",
    CHECKOUT / ".github" / "CONTRIBUTING.md",
    *sorted(path for path in (PACKAGE / "docs").iterdir() if path.is_file()),
    *sorted((PACKAGE / "docs" / "data").iterdir()),
]
SOURCES = sorted(PACKAGE.rglob("*.py"))


def said(text: str) -> list[str]:
    """Return each old phrase that the text has, with the better one."""
    # Roff marks up within a phrase.
    plain = re.sub(r"\\f[BIR]|\\(?=-)", "", text)
    return [f"{old} -> {BETTER[old]}" for old in BETTER if PATTERNS[old].search(plain)]


def strings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Return the strings that a person may come to read, with their lines: docstrings only describe the code."""
    described = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in described
        ):
            yield node.lineno, node.value


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_no_page_has_an_old_phrase(path: Path) -> None:
    assert [] == said(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_message_has_an_old_phrase(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [f"line {line}: {old}" for line, text in strings(tree) for old in said(text)]

    assert [] == found


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_no_help_has_an_old_phrase(name: str) -> None:
    command = cli.load(name)
    helped = [option.help or "" for option in command.params if isinstance(option, click.Option)]

    assert [] == [old for text in (command.help or "", *helped) for old in said(text)]


def test_no_description_of_the_schema_has_an_old_phrase() -> None:
    assert [] == said((PACKAGE / "records.schema.json").read_text(encoding="utf-8"))


def test_a_phrase_is_found_whatever_breaks_it() -> None:
    assert ["For now -> Mitigate"] == said("  -> For\n     now: this")
    assert [] == said("wrung, a rung-less thing")
