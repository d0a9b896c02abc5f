"""Numbers as people read them. Pure: values in, text out."""

from __future__ import annotations


def amount(value: int | None, unit: str) -> str:
    """Write a number for people: KiB in MiB or GiB where they get long; unknown is "?"."""
    if value is None:
        return "?"
    if unit != "KiB":
        return str(value)
    for name, size in (("TiB", 1 << 30), ("GiB", 1 << 20), ("MiB", 1 << 10)):
        if value >= 10 * size or (value >= size and name != "MiB"):
            return f"{value / size:.1f} {name}" if value < 100 * size else f"{value // size} {name}"
    return f"{value} KiB"


def short(value: int | None, unit: str) -> str:
    """Write a number for a narrow column: "8448K" for 8448 KiB."""
    return amount(value, unit).replace("iB", "").replace(" ", "")


def count(number: int, word: str, words: str) -> str:
    """Write a number with its noun."""
    return f"{number} {word if number == 1 else words}"
