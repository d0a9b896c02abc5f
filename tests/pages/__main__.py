"""Write what is made of other files, as `scripts/build-docs`; with --check only compare.

The man page, the causes in README and schema, the steps in the schema, and their table.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
from readme import put_into

from fork_trace import __version__, documents
from fork_trace.commands import cli
from fork_trace.diagnosis.causes import CAUSES
from pages import causes, manual, step_table

CHECKOUT = Path(__file__).resolve().parent.parent.parent
README = CHECKOUT / "README.md"
SCHEMA = CHECKOUT / "fork_trace" / documents.SCHEMA
MANUAL = CHECKOUT / "fork_trace" / "fork-trace.8"


def made() -> dict[Path, str]:
    """Each file with the text that it should have."""
    readme = README.read_text(encoding="utf-8")
    probes = step_table.PROBES.read_text(encoding="utf-8")
    schema = causes.put_into_schema(SCHEMA.read_text(encoding="utf-8"), CAUSES)
    schema = step_table.put_into_schema(schema, probes)
    commands = click.Group(
        "fork-trace", {each: cli.load(each) for each in cli.COMMANDS}, help=cli.cli.help
    )
    page = manual.page("fork-trace", __version__, commands, readme, CAUSES, json.loads(schema))
    tables = put_into(readme, causes.PLACE, causes.table(CAUSES))
    return {
        README: put_into(tables, causes.CHECKED, causes.checked_table(CAUSES)),
        SCHEMA: schema,
        MANUAL: page,
        step_table.STEP_TABLE: step_table.page(probes),
    }


def stale() -> list[Path]:
    """Those that have another text, or none."""
    return [
        path
        for path, text in made().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]


def main(argv: list[str]) -> int:
    """Write what is stale, or with --check only name it; the exit code."""
    if argv not in ([], ["--check"]):
        print("scripts/build-docs: unknown option. Give --check or nothing.", file=sys.stderr)
        return 2
    texts = made()
    for path in stale():
        print(path.relative_to(CHECKOUT), "is stale" if argv else "is written")
        if argv:
            return 1
        path.write_text(texts[path], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
