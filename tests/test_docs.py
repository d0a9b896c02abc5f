"""The book, the README and the CHANGELOG against the code: what exists is documented. Each failure lists what is missing."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from conftest import MadeHost, make_failure
from docs import roff
from vm.kernels import KERNELS

from fork_trace import __version__, documents
from fork_trace.commands import cli
from fork_trace.diagnosis import lookup
from fork_trace.headroom import check
from fork_trace.model import records, steps
from fork_trace.output import aggregate, check_formats, columns, formats, tables
from fork_trace.probes import privileges
from fork_trace.probes.request import ATTACH_MODES, BACKENDS

CHECKOUT = Path(__file__).resolve().parent.parent
DOCS = CHECKOUT / "fork_trace" / "docs"
COMMANDS = cli.COMMANDS
BOOK = {name: (DOCS / f"{name}.md").read_text(encoding="utf-8") for name in documents.PAGES}
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")


def missing(names: object, text: str, form: str = "{}") -> list[str]:
    """Return the names that the text does not hold as whole words in this form."""
    return [
        name
        for name in map(str, names)  # type: ignore[call-overload]
        if not re.search(rf"(?<![\w-]){re.escape(form.format(name))}(?![\w-])", text)
    ]


def headings() -> list[str]:
    counted = aggregate.Table()
    counted.add(make_failure())
    return tables.rows(counted.rows(), counted.by).splitlines()[0].split()


def run(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli.cli, ["docs", *words])
    return done.exit_code, done.output


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 200
    assert len(README.encode()) <= 15_000


def test_the_readme_shows_the_screen_and_the_overhead() -> None:
    assert ["fork_trace/docs/live.svg", "fork_trace/docs/overhead.svg"] == re.findall(
        r"^!\[.+\]\((.+)\)$", README, re.MULTILINE
    )


@pytest.mark.parametrize("text", [README, *BOOK.values()], ids=["README", *BOOK])
def test_every_link_leads_to_a_file(text: str) -> None:
    base = CHECKOUT if text == README else DOCS
    links = re.findall(r"\]\(([^)#:]+)\)", text)

    assert [] == [link for link in links if not (base / link).exists()]


def test_the_readme_s_symptoms_are_known_and_can_be_the_causes_beside_them() -> None:
    rows = roff.table(roff.section(README, "Why"), "what you read")[1:]

    for printed, _ in rows:
        for text in re.findall(r"`([^`]+)`", printed):
            assert lookup.look_up(text.split()).causes, text
    assert 7 == len(rows)


CODE = "".join(re.findall(r"^```\n(.*?)^```\n", README, re.MULTILINE | re.DOTALL))
WRITTEN = [
    *re.findall(r"^(?:\$ )?(?:exec )?(?:sudo )?(fork-trace [^#\n]*)", CODE, re.MULTILINE),
    *re.findall(r"`(?:exec )?(?:sudo )?(fork-trace [^`]+)`", README),
]


@pytest.mark.parametrize("line", sorted({each.strip() for each in WRITTEN}))
def test_every_command_of_the_readme_is_one(line: str) -> None:
    _, name, *words = shlex.split(line.replace("TOPIC", "runbook"))

    cli.load(name).make_context(name, words, **cli.cli.context_settings).close()


def test_every_command_is_in_the_readme() -> None:
    assert [] == missing(COMMANDS, README, "fork-trace {}")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_its_help(name: str) -> None:
    command = cli.load(name)
    silent = [
        option.name
        for option in command.params
        if isinstance(option, click.Option) and not option.help
    ]

    assert command.help
    assert [] == silent


@pytest.mark.parametrize("name", documents.PAGES)
def test_each_page_is_printed_and_fits_a_terminal(name: str) -> None:
    code, printed = run(name)

    assert 0 == code
    assert printed.startswith("# ")
    assert "<!--" not in printed
    assert BOOK[name].isascii()
    assert max(map(len, printed.splitlines())) < 80


def test_without_a_topic_each_is_listed_with_what_it_is_about() -> None:
    code, printed = run()
    listed = re.findall(r"^  ([a-z-]+) +(\S.*)$", printed, re.MULTILINE)

    assert 0 == code
    assert [*documents.PAGES, "schema"] == [name for name, _ in listed]
    assert max(map(len, printed.splitlines())) < 80
    assert list(documents.PAGES) == [
        name for name, _ in re.findall(r"^- \[([a-z-]+)\]\((.+)\): ", README, re.MULTILINE)
    ]


def test_every_file_of_the_book_is_a_topic() -> None:
    assert sorted(documents.PAGES) == sorted(path.stem for path in DOCS.glob("*.md"))


@pytest.mark.parametrize(
    ("word", "near"), [("kernel", "kernels"), ("schem", "schema"), ("zzz", "lists them")]
)
def test_an_unknown_topic_is_refused_with_the_nearest(
    word: str, near: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["docs", word])
    said = capsys.readouterr().err

    assert 2 == ended.value.code
    assert 1 == len(said.splitlines())
    assert near in said


def test_every_column_of_the_default_report_is_explained() -> None:
    assert headings() == [row[0] for row in roff.table(BOOK["report"], "column")[1:]]


def test_every_column_that_can_be_asked_for_is_named() -> None:
    assert [] == missing(columns.COLUMNS, BOOK["report"])


def test_every_step_is_named() -> None:
    assert [] == missing((step.name for step in steps.STEPS), BOOK["steps"])
    assert f"tells apart {len(lookup.STEPS)} steps" in " ".join(BOOK["steps"].split())


def test_every_kernel_that_is_tested_is_named() -> None:
    versions = [kernel.version for kernel in KERNELS]

    assert f"Tried on Linux {', '.join(versions[:-1])} and {versions[-1]} (x86-64)" in " ".join(
        README.split()
    )
    assert [] == missing(versions, BOOK["kernels"])


def test_every_way_to_attach_and_backend_is_named() -> None:
    assert [] == missing((*ATTACH_MODES, *BACKENDS), BOOK["kernels"])


def test_every_format_and_exit_code_is_told() -> None:
    codes = [row[0] for row in roff.table(BOOK["formats"], "exit code")[1:]]

    assert [] == missing(formats.FORMATS, BOOK["formats"], "`{}`")
    assert ["0", "1", "2", "3", "130"] == codes
    assert [] == [each for each in check_formats.FORMATS[2:] if f"{each}`" not in BOOK["headroom"]]


def test_every_key_and_cause_of_a_check_is_documented(made_host: MadeHost) -> None:
    found = check.examine(80, 100, str(made_host.root))
    names = {*found, *found["limits"][0], *(each["cause"] for each in found["limits"])}

    assert [] == missing(sorted(names), BOOK["headroom"], "`{}`")


def test_every_capability_has_its_reason() -> None:
    assert [] == missing(
        (each.name for each in privileges.CAPABILITIES), BOOK["privileges"], "- {}:"
    )


def test_the_format_version_is_documented() -> None:
    assert f"This is format version {records.VERSION}." in " ".join(BOOK["capture-file"].split())


@pytest.mark.parametrize(
    "path", [CHECKOUT / "README.md", CHECKOUT / "CHANGELOG.md", *DOCS.iterdir()]
)
def test_nothing_is_left_to_be_filled_in(path: Path) -> None:
    if path.is_file():
        assert [] == re.findall(r"\S*(?:PLACEHOLDER|TODO|FIXME|XXX)\S*", path.read_text())


def test_every_script_that_is_named_is_there() -> None:
    text = "\n".join((README, *BOOK.values()))
    named = sorted(set(re.findall(r"scripts/([a-z-]+)", text)))

    assert [] == [name for name in named if not (CHECKOUT / "scripts" / name).is_file()]


def test_every_script_is_named() -> None:
    scripts = [path.name for path in (CHECKOUT / "scripts").iterdir()]
    text = "\n".join((README, BOOK["development"], BOOK["install"]))

    assert [] == missing(set(scripts) - {"build-bpf"}, text, "scripts/{}")


def test_the_changelog_has_the_current_version() -> None:
    assert f"## [{__version__}]" in (CHECKOUT / "CHANGELOG.md").read_text(encoding="utf-8")
