"""What doctor found, as text for people. All names from the host are hostile: they pass through `names`."""

from __future__ import annotations

import textwrap
from typing import Any

from fork_trace.escape import safe
from fork_trace.model.steps import BY_NAME, MAY_BE_INLINED
from fork_trace.output.tables import draw
from fork_trace.output.wording import wrap


def _how(attached: dict[str, Any]) -> str:
    if attached["step"] in MAY_BE_INLINED:
        return "unless inlined"
    return "on demand" if attached["later"] else "observed"


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
        [name, words[fact["value"]], "\n".join(textwrap.wrap(safe(fact["why"]), 58))]
        for name, fact in found["features"].items()
    ]
    lines.append(draw(rows, ["FEATURE", "HERE", "WHY"]))
    better = [
        [
            item["attach"],
            item["backend"],
            "\n".join(textwrap.wrap(safe(item["reason"]), 53)),
        ]
        for item in found["fallbacks"]
    ]
    if better:
        lines += ["", draw(better, ["NOT USED", "BACKEND", "WHY"])]
    if found["unseen"]:
        lines += ["", *wrap(f"Not seen: {found['unseen']}.", "", "  ")]
    steps = [[item["step"] or "-", _how(item), item["function"]] for item in found["attached"]]
    steps += [
        [item["step"], "inferred", "\n".join(textwrap.wrap(safe(item["reason"]), 47))]
        for item in found["missing"]
        if item["step"] in BY_NAME
    ]
    if steps:
        lines += ["", draw(steps, ["STEP", "HOW", "FUNCTION OR REASON"])]
    unread = [str(item["reason"]) for item in found["missing"] if item["step"] not in BY_NAME]
    if unread:
        text = f"Not readable here: {'; '.join(unread)}. Counts are exact; what is read there is not told."
        lines += ["", *wrap(safe(text), "", "  ")]
    return "\n".join(lines) + "\n"
