"""What scripts/build-docs writes: it is current, whole, and read by groff without a complaint."""

from __future__ import annotations

import re
import subprocess

import click
import pytest
from docs import __main__ as pages
from docs import causes, manual
from readme import put_into

from fork_trace import records
from fork_trace.commands import cli
from fork_trace.diagnosis.cause import Cause
from fork_trace.diagnosis.causes import CAUSES
from fork_trace.output import aggregate, report

SECTIONS = ["NAME", "SYNOPSIS", "DESCRIPTION", "COMMANDS", "FIELDS", "CAUSES", "OVERHEAD"]
SECTIONS += ["PRIVILEGES", "FILES", "EXIT STATUS", "EXAMPLES", "BUGS", "SEE ALSO"]
COMMANDS = cli.COMMANDS


def groff(text: str, width: int = 78) -> str:
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-P-cbou", f"-rLL={width}n"],
        input=text,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "" == done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def drawn() -> str:
    return groff(pages.MANUAL.read_text())


def flat(text: str) -> str:
    return " ".join(text.split())


def section(drawn: str, heading: str) -> str:
    found = re.search(rf"^{heading}\n(.*?)(?=^\S|\Z)", drawn, re.MULTILINE | re.DOTALL)
    assert found, heading
    return found[1]


def test_what_is_written_is_current() -> None:
    assert [] == pages.stale(), "run scripts/build-docs"


def test_a_change_of_the_causes_makes_it_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "CAUSES", CAUSES[1:])

    assert [pages.README, pages.SCHEMA, pages.MANUAL] == pages.stale()


def test_groff_has_nothing_to_say_and_no_line_is_too_long(drawn: str) -> None:
    assert max(map(len, drawn.splitlines())) <= 78
    assert SECTIONS == re.findall(r"^([A-Z][A-Z ]+)$", drawn, re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_stands_there_with_its_options(name: str, drawn: str) -> None:
    found = re.search(rf"^   {name}\n(.*?)(?=^   \w|^\S)", drawn, re.MULTILINE | re.DOTALL)
    options = [each for each in cli.load(name).params if isinstance(each, click.Option)]

    assert found
    assert f"fork-trace {name}" in section(drawn, "SYNOPSIS")
    for option in options:
        assert option.opts[0] in found[1]
        assert flat(option.help or "") in flat(found[1])


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.slug)
def test_every_cause_stands_there_with_its_meaning(cause: Cause, drawn: str) -> None:
    text = section(drawn, "CAUSES")

    assert f"       {cause.slug} (" in text
    assert cause.means in flat(text)


def test_every_column_and_field_stands_there(drawn: str) -> None:
    text = section(drawn, "FIELDS")
    counted = aggregate.Table()
    headings = report.table(counted)[0].split()
    names = [
        each
        for type_ in (records.Failure, records.Evidence, records.Summary)
        for each in type_.__dataclass_fields__
    ]

    assert [] == [
        name for name in (*headings, *names) if not re.search(rf"^       {name}\b", text, re.M)
    ]


def test_every_exit_code_and_example_stands_there(drawn: str) -> None:
    assert ["0", "1", "2", "130"] == re.findall(
        r"^       (\d+)\b", section(drawn, "EXIT STATUS"), re.M
    )
    assert "fork-trace explain unable to create native thread" in section(drawn, "EXAMPLES")
    assert "exec fork-trace live\n              from the last" in section(drawn, "EXAMPLES")


@pytest.mark.parametrize(
    "text",
    [".so /etc/passwd", "'so x", "back\\slash \\n", "~ ^ ` '", "--long -s", "...", ".TH X 8"],
)
def test_any_text_comes_out_as_it_went_in(text: str) -> None:
    page = f".TH X 8\n.SH A\n{manual._plain(text)}\n.PP\n{manual._code(text)}\n"

    assert 2 == groff(page).count(text)


def test_code_and_stress_are_told_apart() -> None:
    assert "a \\fBb\\-c\\fR \\fId\\fR * e" == manual._inline("a `b-c` *d* * e")


def test_a_readme_without_the_place_for_it_is_refused() -> None:
    with pytest.raises(ValueError, match="there are no lines"):
        put_into("# fork-trace\n", causes.PLACE, "| a |")
    with pytest.raises(ValueError, match="Overhead"):
        manual._section("# fork-trace\n", "Overhead")


def test_the_script_says_what_is_stale_and_refuses_what_it_does_not_know(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 0 == pages.main(["--check"])
    assert 2 == pages.main(["--frobnicate"])
    monkeypatch.setattr(pages, "CAUSES", CAUSES[1:])
    assert 1 == pages.main(["--check"])
    assert "README.md is stale\n" == capsys.readouterr().out
