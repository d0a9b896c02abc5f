"""The changelog with its fragments, and the next version. Pure: text in, text out."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping

KINDS = ("added", "changed", "removed", "fixed")
_WIDTH = 110


def kind_of(name: str) -> str:
    """Return the kind that the name of a fragment says; ValueError if it says none."""
    match = re.fullmatch(r"[a-z0-9-]+\.([a-z]+)\.md", name)
    if not match or match[1] not in KINDS:
        raise ValueError(f"{name} is no NAME.KIND.md with a kind of {', '.join(KINDS)}")
    return match[1]


def sections(fragments: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the entries of each kind by its heading, in the changelog's order."""
    found: dict[str, list[str]] = {}
    for kind in KINDS:
        texts = [text for name, text in sorted(fragments.items()) if kind_of(name) == kind]
        if texts:
            found[f"### {kind.capitalize()}"] = [_entry(text) for text in texts]
    return found


def _entry(text: str) -> str:
    return textwrap.fill(
        " ".join(text.split()),
        _WIDTH,
        initial_indent="- ",
        subsequent_indent="  ",
        break_on_hyphens=False,
        break_long_words=False,
    )


def changelog(text: str, fragments: Mapping[str, str], version: str, date: str) -> str:
    """Return the changelog with a section for the version: the unreleased one, or a new one at the top."""
    head, found, rest = text.partition("\n## [")
    if not found:
        raise ValueError("CHANGELOG.md has no line that begins with ## [")
    first = f"## [{rest}"
    if re.match(r"## \[.*\] - unreleased\n", first):
        body, next_one, older = first.partition("\n## [")
        body = body.partition("\n")[2].strip("\n")
        older = f"{next_one}{older}".lstrip("\n")
    else:
        body, older = "", first
    for heading, entries in sections(fragments).items():
        added = "\n".join(entries)
        if f"{heading}\n" in body:
            before, _, after = body.partition(f"{heading}\n")
            mine, other_heading, others = after.partition("\n### ")
            body = f"{before}{heading}\n{mine.rstrip()}\n{added}"
            body += f"\n{other_heading}{others}" if other_heading else ""
        else:
            body = f"{body}\n\n{heading}\n\n{added}".lstrip("\n")
    made = f"{head}\n## [{version}] - {date}\n\n{body.rstrip()}\n"
    return f"{made}\n{older}" if older else made


def numbers(version: str) -> tuple[int, ...]:
    """Return a version's three numbers; ValueError if it has others."""
    match = re.fullmatch(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)", version)
    if not match:
        raise ValueError(f"{version} is no version such as 0.2.0")
    return tuple(map(int, match.groups()))
