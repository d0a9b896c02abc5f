"""`fork-trace docs`: the book and the JSON Schema, offline."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import click

from fork_trace.commands import options


def _topics(_start: str) -> Iterable[tuple[str, str]]:
    from fork_trace import documents

    return documents.topics()


@click.command("docs")
@click.argument("topic", required=False, shell_complete=options.offering(_topics))
def command(topic: str | None) -> None:
    """Print a page of the book, offline

    Without TOPIC, lists the topics.

    \b
    fork-trace docs runbook                # five symptoms, each with its fix
    fork-trace docs schema > records.schema.json
    """
    from fork_trace import documents

    sys.stdout.write(documents.index() if topic is None else documents.text(topic))
