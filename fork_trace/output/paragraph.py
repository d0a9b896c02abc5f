"""One cause in sentences, as every report tells it. Pure: what they say is `telling`'s and `deaths`'."""

from __future__ import annotations

from fork_trace.model.dataclass import dataclass
from fork_trace.output.wording import WIDTH, Remedy, wrap


@dataclass(frozen=True)
class Told:
    """One cause in sentences; all but the title are to be indented under it."""

    title: str
    facts: tuple[str, ...]  # how often and how it is known, the numbers, who holds the pool
    advice: tuple[Remedy, ...]
    places: tuple[Remedy, ...] = ()  # the other places, each with its numbers and commands
    more: str = ""  # what is left out

    def lines(self, width: int = WIDTH) -> list[str]:
        """Write it as lines, the advice marked with arrows; no command is ever broken."""
        lines = wrap(self.title, "", "  ", width)
        for fact in self.facts:
            lines += wrap(fact, "  ", "    ", width)
        for each in self.advice:
            lines += each.lines(width, "  -> ", "     ")
        for place in self.places:
            lines += place.lines(width, "  + ", "    ")
        return lines + (wrap(self.more, "  ", "    ", width) if self.more else [])
