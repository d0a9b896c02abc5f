"""`fork-trace schema`: the JSON Schema of all JSON output."""

from __future__ import annotations

import sys

import click


@click.command("schema")
def command() -> None:
    """Print the JSON Schema of the records

    It covers capture files, --json of live, capture and report, and the output
    of --format json and `check --json`.

    \b
    fork-trace schema > records.schema.json
    """
    from fork_trace import documents

    sys.stdout.write(documents.text(documents.SCHEMA))
