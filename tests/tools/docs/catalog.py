"""The systemd journal's message catalog: what `journalctl -x` says below an entry of the recorder. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from docs.blocks import wrapped
from fork_trace.diagnosis import advice, lookup
from fork_trace.diagnosis.cause import Cause
from fork_trace.diagnosis.causes.late import COPY_ON_WRITE
from fork_trace.output.wording import WIDTH, remedy
from fork_trace.record.entries import message_id


def catalog(causes: Sequence[Cause]) -> str:
    """Write an entry for each cause, as systemd's docs/CATALOG.md has them."""
    lines = [
        "# What fork-trace records in the journal, cause by cause.",
        "# Written by scripts/build-docs. Change what it is made from instead.",
        *(line for cause in causes for line in _entry(cause)),
    ]
    return "\n".join(lines) + "\n"


def _entry(cause: Cause) -> Iterator[str]:
    yield ""
    yield f"-- {message_id(cause.slug)}"
    what = "The kernel refused a fork"
    if not cause.steps:
        what = f"A process was killed{' after a fork' if cause is COPY_ON_WRITE else ''}"
    yield f"Subject: {what}: {cause.slug}"
    yield "Defined-By: fork-trace"
    yield "Documentation: man:fork-trace-causes(7)"
    yield ""
    yield wrapped(f"{cause.slug}: {cause.means}.")
    for kind, remedies in lookup.remedies_of(cause):
        # As it is where nothing is known of the place; FORK_TRACE_MITIGATE has it for the place.
        yield from remedy(advice.offline(kind, remedies)[""]).lines(WIDTH, "", "  ")
    for myth in cause.myths[:1]:
        yield wrapped(f"Common misconception: {myth}", "", "  ")
    yield wrapped(
        f"All about it: `fork-trace explain {cause.slug}`. What was recorded: "
        f"`fork-trace report --cause {cause.slug}`."
    )
