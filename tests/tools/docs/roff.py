"""Markdown, as far as the book has it, as roff for a man page. Pure."""

from __future__ import annotations

import re


def section(page: str, heading: str | None) -> str:
    """Return one section of a page; None: what stands between its title and the first heading."""
    parts = re.split(r"^##? +(.*)$", page, flags=re.MULTILINE)
    if heading is None:
        return parts[2]
    found = dict(zip(parts[1::2], parts[2::2]))
    if heading not in found:
        raise ValueError(f"the page has no section {heading!r}")
    return found[heading]


def table(page: str, first: str) -> list[list[str]]:
    """Return the rows of the table whose first heading this is, headings included."""
    lines = page.splitlines()
    begin = next(i for i, line in enumerate(lines) if line.startswith(f"| {first} |"))
    cells = []
    for line in lines[begin:]:
        if not line.startswith("|"):
            break
        cells.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip()[1:-1])])
    return [row for row in cells if set("".join(row)) != {"-"}]


def rows(cells: list[list[str]]) -> list[str]:
    """Write a table of two columns as a list of items, the headings left out."""
    return [line for first, what in cells[1:] for line in item(_tag(first), what)]


def _tag(first: str) -> str:
    return inline(first) if "`" in first else code(first)


def markdown(page: str) -> list[str]:
    """Write paragraphs, lists, tables and code."""
    lines: list[str] = []
    pieces = re.split(r"^```\n(.*?)^```\n", re.sub(r"<!--.*?-->\n", "", page), flags=re.M | re.S)
    for number, piece in enumerate(pieces):
        if number % 2:
            lines += [".PP", ".nf", *map(plain, piece.splitlines()), ".fi"]
            continue
        for block in re.split(r"\n{2,}", piece.strip("\n")):
            if block.startswith("|"):
                lines += rows(table(block, block[2:].split(" |")[0]))
            elif block.startswith("- "):
                for each in re.split(r"^- ", block, flags=re.MULTILINE)[1:]:
                    lines += [".IP \\(bu 2", inline(" ".join(each.split()))]
            elif block.strip() and not block.startswith("!["):
                lines += [".PP", inline(" ".join(block.split()))]
    return lines


def item(tag: str, what: str) -> list[str]:
    """Write one item of a list, its tag as it is."""
    return [".TP", tag, what if what == "\\&" else inline(what)]


def inline(words: str) -> str:
    """Write text with its code and what is strong, in bold, what is stressed, in italics, no links."""
    words = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", words)
    parts = []
    for number, piece in enumerate(re.split(r"`([^`]+)`", words)):
        if number % 2:
            parts.append(code(piece))
            continue
        for count, strong in enumerate(re.split(r"\*\*([^*]+)\*\*", piece)):
            if count % 2:
                parts.append(f"\\fB{text(strong)}\\fR")
                continue
            stressed = re.split(r"\*([^* ][^*]*)\*", strong)
            parts += [
                f"\\fI{text(each)}\\fR" if i % 2 else text(each) for i, each in enumerate(stressed)
            ]
    return _guard("".join(parts))


def code(words: str) -> str:
    """Write words to be copied, in bold."""
    return f"\\fB{plain(words)}\\fR"


def text(words: str) -> str:
    """Write running text."""
    return _guard(_escaped(words).replace("--", "\\-\\-"))


def plain(words: str) -> str:
    """Write text to be copied: what groff would set otherwise stays as it is."""
    return _guard(_escaped(words).replace("-", "\\-"))


def _escaped(words: str) -> str:
    for char, name in (
        ("\\", "\\e"),
        ("'", "\\(aq"),
        ("`", "\\(ga"),
        ("^", "\\(ha"),
        ("~", "\\(ti"),
    ):
        words = words.replace(char, name)
    return words


def _guard(line: str) -> str:
    return f"\\&{line}" if line.startswith((".", "'")) else line
