"""Numbers as heights and lengths, of characters: bars and sparklines. Pure.

In ASCII where a terminal may not have the block elements: a serial console, the kernel's own.
"""

from __future__ import annotations

from collections.abc import Sequence

_EIGHTHS = "\u258f\u258e\u258d\u258c\u258b\u258a\u2589"  # from one to seven
_HEIGHTS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
_ASCII_HEIGHTS = ".:-=+*#%"
NEAR = 80.0  # percent, from which on a limit is near


def bar(percent: float, width: int, is_ascii: bool = False) -> str:
    """Draw how much of 100 percent this is; more is not longer, and what is not nothing shows."""
    part = min(1.0, max(0.0, percent / 100)) * width
    if is_ascii:
        filled = min(width, max(round(part), int(percent > 0)))
        return "#" * filled + "." * (width - filled)
    eighths = min(8 * width, max(round(8 * part), int(percent > 0)))
    whole, rest = divmod(eighths, 8)
    text = "\u2588" * whole + (_EIGHTHS[rest - 1] if rest else "")
    return text + "\u2591" * (width - len(text))


def spark(values: Sequence[float], width: int, is_ascii: bool = False) -> str:
    """Draw the last values as heights up to the highest of them, the newest at the right; 0 is blank."""
    heights = _ASCII_HEIGHTS if is_ascii else _HEIGHTS
    shown = list(values)[-width:] if width > 0 else []
    most = max(shown, default=0)
    text = "".join(
        heights[min(len(heights) - 1, int(value / most * len(heights) - 1e-9))]
        if value > 0
        else " "
        for value in shown
    )
    return " " * (width - len(text)) + text


def chart(values: Sequence[float], width: int, height: int, is_ascii: bool = False) -> list[str]:
    """Draw the last values as columns of so many lines up to the highest of them, the newest at the right."""
    heights = _ASCII_HEIGHTS if is_ascii else _HEIGHTS
    shown = list(values)[-width:] if width > 0 else []
    most = max(shown, default=0) or 1
    # In parts of a line; what is not nothing shows.
    parts = [max(round(each / most * height * len(heights)), int(each > 0)) for each in shown]
    drawn = []
    for line in reversed(range(height)):
        over = (min(len(heights), max(0, each - line * len(heights))) for each in parts)
        drawn.append("".join(heights[each - 1] if each else " " for each in over))
    return drawn


def level(percent: float) -> str:
    """Say how bad a usage is: "full", "near" or "fine"."""
    return "full" if percent >= 100 else "near" if percent >= NEAR else "fine"
