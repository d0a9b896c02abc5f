"""What doctor found, as text for people. All names from the host are hostile: they pass through `names`."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from fork_trace.escape import safe
from fork_trace.model.steps import BY_NAME, MAY_BE_INLINED, SEEN_IN_PART
from fork_trace.output.tables import draw
from fork_trace.output.wording import WIDTH, wrap

_GAP = 2  # blanks between two columns


def _how(attached: dict[str, Any]) -> str:
    if attached["step"] in MAY_BE_INLINED:
        return "unless inlined"
    if attached["step"] in SEEN_IN_PART:
        return "in part"
    return "on demand" if attached["later"] else "observed"


def _drawn(rows: Sequence[Sequence[str]], headings: Sequence[str]) -> str:
    """Draw rows whose last cell is a sentence, which gets the room that the others leave."""
    others = list(zip(headings, *rows))[:-1]
    room = WIDTH - sum(max(map(len, cells)) + _GAP for cells in others)
    told = [[*row[:-1], "\n".join(textwrap.wrap(row[-1], room))] for row in rows]
    return draw(told, headings)


def doctor(found: dict[str, Any]) -> str:
    """Draw what doctor found: the verdict, the features, the steps."""
    if found["usable"]:
        first = f"fork-trace works here, using {found['attach']} via {found['backend']}."
    else:
        first = f"fork-trace cannot watch forks here: {safe(str(found['why']))}."
    lines = wrap(first, "", "  ")
    if found["remedy"]:
        lines += wrap(safe(found["remedy"]), "  -> ", "     ")
    lines += [
        "",
        f"kernel {safe(found['kernel'])} on {found['machine']}, lockdown: "
        f"{found['lockdown'] or 'not built into this kernel'}",
        "",
    ]
    words = {True: "yes", False: "no", None: "?"}
    rows = [
        [name, words[fact["value"]], safe(fact["why"])] for name, fact in found["features"].items()
    ]
    lines.append(_drawn(rows, ["FEATURE", "HERE", "WHY"]))
    better = [
        [item["attach"], item["backend"], safe(item["reason"])] for item in found["fallbacks"]
    ]
    if better:
        lines += ["", _drawn(better, ["NOT USED", "BACKEND", "WHY"])]
    if found["unseen"]:
        lines += ["", *wrap(f"Not seen: {found['unseen']}.", "", "  ")]
    steps = [[item["step"] or "-", _how(item), item["function"]] for item in found["attached"]]
    steps += [
        [item["step"], "inferred", safe(item["reason"])]
        for item in found["missing"]
        if item["step"] in BY_NAME
    ]
    if steps:
        lines += ["", _drawn(steps, ["STEP", "HOW", "FUNCTION OR REASON"])]
    unread = [str(item["reason"]) for item in found["missing"] if item["step"] not in BY_NAME]
    if unread:
        text = f"Not readable here: {'; '.join(unread)}. Counts are exact; what is read there is not told."
        lines += ["", *wrap(safe(text), "", "  ")]
    return "\n".join(lines) + "\n"
