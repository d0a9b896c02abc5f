"""Write the parts of the book that are made: `scripts/build-docs`, with --check only compare."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
from accuracy import table as accuracy
from bench import table as bench

from docs import blocks, catalog, manual, pictures, records, step_table
from fork_trace import __version__, documents
from fork_trace.commands import cli
from fork_trace.diagnosis import lookup
from fork_trace.diagnosis.causes import CAUSES
from fork_trace.output.live import terminal
from fork_trace.probes import privileges

CHECKOUT = Path(__file__).resolve().parents[3]
README = CHECKOUT / "README.md"
DOCS = CHECKOUT / "fork_trace" / "docs"
ACCURACY = DOCS / "data" / "accuracy.json"
OVERHEAD = DOCS / "data" / "overhead.json"
NOTED = DOCS / "data" / "noted.json"
CATALOG = CHECKOUT / "fork_trace" / "deploy" / "systemd" / "fork-trace.catalog"
SCHEMA = CHECKOUT / "fork_trace" / "records.schema.json"
# A real capture, for the picture of the screen.
CAPTURE = CHECKOUT / "tests" / "data" / "live.jsonl"
# A real check, for the picture of its bars.
CHECK = CHECKOUT / "tests" / "data" / "check.json"


def _blocks(schema: Any) -> dict[Path, dict[str, str]]:
    """Each page with its blocks by their names."""
    found = {
        "causes": {"causes": blocks.causes(CAUSES)},
        "steps": {"steps": blocks.steps(lookup.STEPS)},
        "headroom": {"checked": blocks.checked(CAUSES)},
        "capture-file": {"records": records.block(schema)},
        "privileges": {"capabilities": blocks.capabilities(privileges.CAPABILITIES)},
        "kernels": {"accuracy": accuracy.docs(json.loads(ACCURACY.read_text()))},
        "overhead": {
            "bench": bench.docs(json.loads(OVERHEAD.read_text())),
            "noted": blocks.noted(json.loads(NOTED.read_text())),
        },
    }
    index = blocks.index(documents.topics()[:-1], "fork_trace/docs")
    return {README: {"book": index}, **{DOCS / f"{key}.md": each for key, each in found.items()}}


def made() -> dict[Path, str]:
    """Each file with the text that it should have."""
    probes = step_table.PROBES.read_text(encoding="utf-8")
    written = records.put_causes(SCHEMA.read_text(encoding="utf-8"), CAUSES)
    texts = {
        SCHEMA: step_table.put_into_schema(written, probes),
        step_table.STEP_TABLE: step_table.page(probes),
        CATALOG: catalog.catalog(CAUSES),
    }
    schema = json.loads(texts[SCHEMA])
    for path, parts in _blocks(schema).items():
        texts[path] = path.read_text(encoding="utf-8")
        for name, block in parts.items():
            texts[path] = blocks.put_into(texts[path], name, block)
    commands = click.Group(
        "fork-trace", {each: cli.load(each) for each in cli.COMMANDS}, help=cli.cli.help
    )

    def page(topic: str) -> str:
        path = DOCS / f"{topic}.md"
        return texts.get(path) or path.read_text(encoding="utf-8")

    return {
        **texts,
        DOCS / "fork-trace.8": manual.command_page(
            __version__, commands, page, texts[README], CAUSES
        ),
        DOCS / "fork-trace-capture.5": manual.capture_page(__version__, page, schema),
        DOCS / "fork-trace-causes.7": manual.causes_page(__version__, page, CAUSES),
        DOCS / "live.svg": pictures.live(
            CAPTURE.read_text(encoding="utf-8").splitlines(), _how_to_end()
        ),
        DOCS / "check.svg": pictures.check(json.loads(CHECK.read_text(encoding="utf-8"))),
        DOCS / "overhead.svg": pictures.overhead(json.loads(OVERHEAD.read_text())),
    }


def _how_to_end() -> str:
    """What a terminal with keys says at its upper right."""
    on_a_terminal = terminal.Terminal()
    on_a_terminal.redraws = on_a_terminal._has_keys = True
    return on_a_terminal.keys_to_end


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
    found = stale()
    for path in found:
        print(path.relative_to(CHECKOUT), "is stale" if argv else "is written")
        if not argv:
            path.write_text(texts[path], encoding="utf-8")
    return int(bool(argv and found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
