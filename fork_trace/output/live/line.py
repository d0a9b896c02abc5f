"""A line of a screen, and which parts of it stand out. Pure."""

from __future__ import annotations

from typing import NamedTuple

from fork_trace.output.wording import columns, cut


class Span(NamedTuple):
    """Characters of a line with a style of their own: "full", "near", "fine" or "dim"."""

    begin: int
    end: int
    style: str


class Line(NamedTuple):
    """One line of a screen, which can stand out: as a "bar", "heading", "strong", "chosen", "command", "dim" or, ordinarily, not ("")."""

    text: str
    style: str = ""
    spans: tuple[Span, ...] = ()

    def fitted(self, width: int) -> Line:
        """Return it cut to so many columns."""
        if columns(self.text) <= width:
            return self
        text = cut(self.text, width)
        kept = (each for each in self.spans if each.begin < len(text) - 1)
        return Line(text, self.style, tuple(Span(a, min(b, len(text) - 1), c) for a, b, c in kept))

    def cells(self) -> list[tuple[str, str]]:
        """Return each character with its style."""
        styles = [self.style] * len(self.text)
        # What is chosen or a bar is so from end to end.
        for begin, end, style in self.spans if self.style not in ("bar", "chosen") else ():
            styles[begin:end] = [style] * (min(end, len(styles)) - begin)
        return list(zip(self.text, styles))
