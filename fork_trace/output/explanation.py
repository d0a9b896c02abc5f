"""What `explain` tells, as text for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fork_trace.diagnosis import advice
from fork_trace.output.wording import advised, wrap

if TYPE_CHECKING:
    # The book of texts is not for those who watch.
    from fork_trace.diagnosis.lookup import Answer


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
    for cause in answer.causes:
        errnos = ", ".join(cause.errnos) or ("any errno" if cause.steps else "no errno")
        lines += ["", *wrap(f"{cause.slug} ({errnos})", "  ", "    ")]
        lines += wrap(cause.means, "    ", "    ")
    lines += ["", "Run `fork-trace explain CAUSE` to verify, mitigate and fix one of them."]
    return "\n".join(lines) + "\n"


def _whole(answer: Answer) -> list[str]:
    from fork_trace.diagnosis import lookup

    (cause,) = answer.causes
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
        by_sentence: dict[str, list[str]] = {}
        for key, remedy in advice.offline(kind, remedies).items():
            sentence = advised(remedy).partition(": ")[2]
            by_sentence.setdefault(sentence, []).append(advice.VARIANTS.get(key, key))
        for sentence, names in by_sentence.items():
            where = ", ".join(names)
            lines += wrap(f"{where}: {sentence}" if where else sentence, "  ", "    ")
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
