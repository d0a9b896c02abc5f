"""What `explain` tells, as text for people. A text that was asked about is hostile: it passes through `escape`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fork_trace.diagnosis import advice
from fork_trace.escape import cut, safe
from fork_trace.output.units import amount
from fork_trace.output.wording import WIDTH, Remedy, wrap

if TYPE_CHECKING:
    # The book of texts is not for those who watch.
    from fork_trace.diagnosis.cause import Cause
    from fork_trace.diagnosis.log import Log
    from fork_trace.diagnosis.lookup import Answer

# Limits of this host that are near or full, as `headroom.here` has them; None: they were not read.
Here = Sequence[Mapping[str, Any]]
_MOST_SHOWN = 300  # letters of a line of a log
_FEW = 4  # causes named in one line


def explanation(answer: Answer, here: Here | None = None, why: str | None = None) -> str:
    """Write what the book has: a list of several causes, one whole, and what applications print.

    `why`: a clause that says why the limits of this host were not read.
    """
    lines = [*_asked(answer), *_said_by(answer), *_refused(answer)]
    if answer.causes and len(lines) and answer.kind in ("text", "application"):
        of = f" of {answer.errno}" if answer.errno else ""
        lines += wrap(f"Possible causes{of}, most likely first:", "", "")
    if len(answer.causes) == 1:
        lines += [*([""] if lines else []), *_whole(answer.causes[0])]
        lines += _here(answer.causes[0].slug, here, "  ")
    for cause in answer.causes if len(answer.causes) > 1 else ():
        errnos = ", ".join(cause.errnos) or ("any errno" if cause.steps else "no errno")
        lines += ["", *wrap(f"{cause.slug} ({errnos})", "  ", "    ")]
        lines += _here(cause.slug, here, "    ")
        lines += wrap(cause.means, "    ", "    ")
    for note in answer.notes:
        lines += ["", *wrap(note, "  ", "  ")]
    if len(answer.causes) > 1:
        lines += ["", "Run `fork-trace explain CAUSE` to verify, mitigate and fix one of them."]
    if answer.kinds and not answer.is_harmless:
        lines += _decides(answer.decides, here, why)
    return "\n".join(lines) + "\n"


def _asked(answer: Answer) -> list[str]:
    if answer.step is not None:
        return wrap(f"{answer.step.name}: {answer.step.what}", "", "  ")
    if answer.kind == "list":
        return wrap("Causes of fork and thread failures, most common first:", "", "")
    if answer.kind == "errno":
        causes = f"Causes of {answer.errno} from fork or thread creation, most common first:"
        return [*_mostly(answer), *wrap(causes, "", "")]
    if answer.kind == "setting":
        return wrap("Causes that this setting has to do with, most likely first:", "", "")
    return []


def _said_by(answer: Answer) -> list[str]:
    lines = []
    for each in answer.texts:
        lines += wrap(_said(each.application, each.text), "", "  ")
        lines += wrap(each.note, "    ", "    ") if each.note else []
    if answer.kind == "application":
        lines += wrap(f"{answer.application} can be refused: {', '.join(answer.kinds)}", "", "  ")
    elif answer.application and not answer.texts:
        the = "the " if answer.application == "kernel" else ""
        lines.append(f"Printed by {the}{answer.application}.")
    return lines


def _mostly(answer: Answer) -> list[str]:
    """Of an errno that other calls give far more often, say so before its causes."""
    from fork_trace.diagnosis import kinds

    if answer.kinds[:1] != ("not-a-fork",):
        return []
    means = kinds.means(answer.kinds[0], answer.errno)
    return wrap(
        means.replace("No fork was refused here", "Mostly no fork was refused", 1), "", "  "
    )


def _refused(answer: Answer) -> list[str]:
    """Say what was refused, and what else the text can mean."""
    from fork_trace.diagnosis import kinds

    if not answer.kinds or answer.kind not in ("text", "call"):
        return []  # what else was asked for is no message
    first, *others = answer.kinds
    lines = wrap(f"{first}: {kinds.means(first, answer.errno)}", "", "  ")
    for name in others:
        lines += wrap(f"or {name}: {kinds.means(name, answer.errno)}", "", "  ")
    return lines


def _here(slug: str, here: Here | None, indent: str) -> list[str]:
    """Mark a cause whose limit is near or full on this host now."""
    lines = []
    for each in [one for one in here or () if one["cause"] == slug][:2]:
        used = f"{amount(each['used'], each['unit'])} of {amount(each['limit'], each['unit'])}"
        level = "FULL" if each["level"] == "full" else "near"
        text = f"{level} on this host: {each['name']} {used} {each['unit']}, {safe(each['where'])}"
        lines += wrap(text, indent + "-> ", indent + "   ")
    return lines


def _decides(commands: Sequence[str], here: Here | None, why: str | None) -> list[str]:
    lines = ["", "To decide here and now:", *(f"  {command}" for command in commands)]
    if why is not None:
        lines += wrap(f"The limits of this host were not read: {safe(why)}.", "", "  ")
    elif here is not None and not here:
        lines += wrap(
            "On this host no limit is near or full now, as far as it can be read.", "", ""
        )
    return lines


def log(found: Log, here: Here | None = None, why: str | None = None) -> str:
    """Write each distinct message of a log, the most frequent first, with what it can be."""
    messages = found.messages()
    total = f"{found.lines} line{'' if found.lines == 1 else 's'}"
    if not messages:
        return f"No message of a refused fork or thread in {total}.\n"
    lines = [f"{found.matched} of {total} tell of a refused fork or thread:"]
    for each in messages:
        answer = each.answer
        lines += ["", *wrap(f"{each.times} x {safe(cut(each.text, _MOST_SHOWN))}", "", "  ")]
        what = ", ".join((answer.kinds[0], *([answer.errno] if answer.errno else [])))
        slugs = [cause.slug for cause in answer.causes]
        more = f" and {len(slugs) - _FEW} more" if len(slugs) > _FEW else ""
        causes = f": {', '.join(slugs[:_FEW])}{more}" if slugs else ""
        by = f" ({answer.application})" if answer.application else ""
        lines += wrap(f"{what}{by}{causes}", "    ", "      ")
    if found.overflowed:
        lines += ["", f"{found.overflowed} lines more tell of it in yet other words."]
    marked = {cause.slug for each in messages for cause in each.answer.causes}
    for slug in dict.fromkeys(one["cause"] for one in here or ()):
        if slug in marked:
            lines += ["", slug, *_here(slug, here, "  ")]
    lines += ["", "Run `fork-trace explain CAUSE` to verify, mitigate and fix one of them."]
    lines += _decides(messages[0].answer.decides, here, why)
    return "\n".join(lines) + "\n"


def _whole(cause: Cause) -> list[str]:
    from fork_trace.diagnosis import lookup

    lines = wrap(f"{cause.slug}: {cause.means}", "", "  ")
    steps = ", ".join(lookup.steps_of(cause)) or "none"
    lines += [
        "",
        *wrap(
            f"errno: {', '.join(cause.errnos) or ('any' if cause.steps else 'none')}",
            "  ",
            "         ",
        ),
    ]
    lines += wrap(f"limit: {cause.limit.replace('`', '')}", "  ", "         ")
    lines += wrap(f"step:  {steps}", "  ", "         ")
    lines += ["", "With fork-trace"]
    for sentence in lookup.by_tool(cause):
        lines += wrap(sentence, "  ", "    ")
    for kind, remedies in lookup.remedies_of(cause):
        lines += ["", kind.capitalize()]
        by_remedy: dict[tuple[str, tuple[str, ...]], list[str]] = {}
        for key, remedy in advice.offline(kind, remedies).items():
            names = by_remedy.setdefault((remedy.text, remedy.commands), [])
            names.append(advice.VARIANTS.get(key, key))
        for (text, commands), names in by_remedy.items():
            where = ", ".join(names)
            found = Remedy(f"{where}: {text}" if where else text, commands)
            lines += found.lines(WIDTH, "  ", "    ")
    lines += ["", "Common misconceptions"]
    for myth in cause.myths:
        lines += wrap(myth, "  ", "    ")
    texts = lookup.texts_of(cause)
    if texts:
        lines += ["", "What applications print"]
        for each in texts:
            lines += wrap(_said(each.application, each.text), "  ", "    ")
    return lines


def _said(application: str, text: str) -> str:
    return text if text.lower().startswith(application.lower()) else f"{application}: {text}"
