"""What the person at the screen chose to see, and the keys by which they do. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, replace
from typing import Optional

from fork_trace.model.dataclass import dataclass
from fork_trace.output.live.trends import Trends

RowKey = tuple[Optional[str], ...]
SORTS = ("count", "rate", "latest")
# None: as --by says.
GROUPS: tuple[tuple[str, ...] | None, ...] = (
    None,
    ("caller", "cause"),
    ("cgroup", "cause"),
    ("cause",),
    ("user", "cause"),
)
HELP = (
    ("up, down", "choose a row; in a row that is open, move its lines"),
    ("Enter", "its stack, its limit and who holds it; Esc goes back"),
    ("s", "sort by count, rate or latest"),
    ("g", "group as --by says, or by caller, cgroup, cause or user"),
    ("f or /", "show only rows with these letters; Enter keeps, Esc clears"),
    ("p or space", "pause the screen; everything is counted all the same"),
    ("h or ?", "this help"),
    ("q or Ctrl-C", "stop, and print the report"),
)
_LONGEST = 40  # letters of a filter


@dataclass(frozen=True)
class Look:
    """One state of the screen."""

    sort: str = "count"
    group: int = 0  # of GROUPS
    words: str = ""  # only rows that have them
    is_typing: bool = False
    is_paused: bool = False
    page: str = "rows"  # "rows", "detail" or "help"
    chosen: RowKey | None = None  # wherever it stands
    scrolled: int = 0  # lines of a row that is open, above the screen
    is_ascii: bool = False
    is_slow: bool = False  # a line on which each byte counts
    trends: Trends = field(default_factory=Trends, compare=False)

    @property
    def told(self) -> str:
        """Say what differs from how a screen begins; "": nothing."""
        group = GROUPS[self.group]
        parts = [
            "paused" if self.is_paused else "",
            f"by {', '.join(group)}" if group else "",
            f"sorted by {self.sort}" if self.sort != "count" else "",
            f"filter: {self.words}{'_' if self.is_typing else ''}"
            if self.words or self.is_typing
            else "",
        ]
        return "; ".join(filter(None, parts))


def pressed(look: Look, key: str, rows: Sequence[RowKey] = ()) -> Look:
    """Return what a key makes of the screen with these rows; the key that ends it is not for here."""
    if look.is_typing:
        return _typed(look, key)
    if key in ("h", "?"):
        return replace(look, page="rows" if look.page == "help" else "help")
    if key == "esc":
        if look.page == "rows":
            return replace(look, chosen=None, words="")
        return replace(look, page="rows", scrolled=0)
    if key in ("p", " "):
        return replace(look, is_paused=not look.is_paused)
    if key == "s":
        return replace(look, sort=SORTS[(SORTS.index(look.sort) + 1) % len(SORTS)])
    if key == "g":
        return replace(
            look, group=(look.group + 1) % len(GROUPS), chosen=None, page="rows", scrolled=0
        )
    if key in ("f", "/"):
        return replace(look, is_typing=True, page="rows", chosen=None)
    if key in ("up", "k", "down", "j"):
        return _moved(look, -1 if key in ("up", "k") else 1, rows)
    if key == "enter" and look.page == "rows" and rows:
        chosen = look.chosen if look.chosen in rows else rows[0]
        return replace(look, page="detail", chosen=chosen)
    return look


def _moved(look: Look, step: int, rows: Sequence[RowKey]) -> Look:
    if look.page == "detail":
        return replace(look, scrolled=max(0, look.scrolled + step))
    if look.page == "help" or not rows:
        return look
    at = rows.index(look.chosen) + step if look.chosen in rows else 0
    return replace(look, chosen=rows[min(max(0, at), len(rows) - 1)])


def _typed(look: Look, key: str) -> Look:
    if key == "enter":
        return replace(look, is_typing=False)
    if key == "esc":
        return replace(look, is_typing=False, words="")
    if key == "backspace":
        return replace(look, words=look.words[:-1])
    if len(key) == 1 and key.isprintable():
        return replace(look, words=(look.words + key)[:_LONGEST])
    return look
