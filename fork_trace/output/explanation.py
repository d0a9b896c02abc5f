"""What `explain` tells, as text for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fork_trace import catalogue
from fork_trace.output.wording import wrap

if TYPE_CHECKING:
    # The book of texts is not for those who watch.
    from fork_trace.explain import Answer


def explanation(answer: Answer) -> str:
    """Write what the book has: a list of several causes, one whole, and what applications print."""
    lines: list[str] = []
    if answer.step is not None:
        lines += wrap(f"{answer.step.name}: {answer.step.what}", "", "  ")
    elif answer.kind == "list":
        lines += wrap("Causes of fork and thread failures, most common first:", "", "")
    elif answer.kind == "errno":
        lines += wrap(
            f"Causes of {answer.errno} from fork or thread creation, most common first:", "", ""
        )
    for each in answer.texts:
        lines += wrap(_said(each.application, each.text), "", "  ")
        lines += wrap(each.note, "    ", "    ") if each.note else []
    if answer.texts:
        tells = f" (the text says {answer.errno})" if answer.errno else ""
        lines += wrap(f"Possible causes{tells}, most likely first:", "", "")
    if len(answer.causes) == 1:
        return "\n".join([*lines, *([""] if lines else []), *_whole(answer)]) + "\n"
    for entry in answer.causes:
        errnos = ", ".join(entry.errnos) or "any errno"
        lines += ["", *wrap(f"{entry.cause} ({errnos})", "  ", "    ")]
        lines += wrap(entry.means, "    ", "    ")
    lines += ["", "Run `fork-trace explain CAUSE` to verify, mitigate and fix one of them."]
    return "\n".join(lines) + "\n"


def _whole(answer: Answer) -> list[str]:
    (entry,) = answer.causes
    lines = wrap(f"{entry.cause}: {entry.means}", "", "  ")
    steps = ", ".join(answer.steps_of(entry.cause)) or "none"
    lines += ["", *wrap(f"errno: {', '.join(entry.errnos) or 'any'}", "  ", "         ")]
    lines += wrap(f"limit: {entry.limit.replace('`', '')}", "  ", "         ")
    lines += wrap(f"step:  {steps}", "  ", "         ")
    lines += ["", "With fork-trace"]
    for sentence in catalogue.by_tool(entry.cause):
        lines += wrap(sentence, "  ", "    ")
    for heading, remedy in (
        ("Verify", entry.confirm),
        ("Mitigate", entry.relieve),
        ("Fix", entry.cure),
    ):
        lines += ["", heading]
        by_sentence: dict[str, list[str]] = {}
        for key, sentence in catalogue.offline(remedy).items():
            by_sentence.setdefault(sentence, []).append(catalogue.VARIANTS[key])
        for sentence, names in by_sentence.items():
            where = ", ".join(names)
            lines += wrap(f"{where}: {sentence}" if where else sentence, "  ", "    ")
    if entry.myths:
        lines += ["", "Common misconceptions"]
        for myth in entry.myths:
            lines += wrap(myth, "  ", "    ")
    texts = answer.texts_of(entry.cause)
    if texts:
        lines += ["", "What applications print"]
        for each in texts:
            lines += wrap(_said(each.application, each.text), "  ", "    ")
    return lines


def _said(application: str, text: str) -> str:
    return text if text.lower().startswith(application.lower()) else f"{application}: {text}"
