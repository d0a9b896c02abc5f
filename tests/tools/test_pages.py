"""What scripts/build-docs writes: it is current, whole, and read by groff without a complaint."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import click
import pytest
from docs import __main__ as pages
from docs import blocks, pictures, roff
from docs import records as kinds

from fork_trace.commands import cli
from fork_trace.diagnosis import advice, lookup
from fork_trace.diagnosis.cause import Cause
from fork_trace.diagnosis.causes import CAUSES
from fork_trace.model import records
from fork_trace.output import aggregate, report

SECTIONS = ["NAME", "SYNOPSIS", "DESCRIPTION", "COMMANDS", "FIELDS", "CAUSES", "OVERHEAD"]
SECTIONS += ["PRIVILEGES", "FILES", "EXIT STATUS", "EXAMPLES", "BUGS", "SEE ALSO"]
COMMANDS = cli.COMMANDS


def groff(text: str, width: int = 78) -> str:
    # Since 1.24 groff indents by less and hyphenates more, unless it is told.
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-P-cbou", "-rBP=7n", "-rHY=0", f"-rLL={width}n"],
        input=text,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "" == done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def drawn() -> str:
    return groff((pages.DOCS / "fork-trace.8").read_text())


@pytest.fixture(scope="module")
def capture() -> str:
    return groff((pages.DOCS / "fork-trace-capture.5").read_text())


@pytest.fixture(scope="module")
def causes() -> str:
    return groff((pages.DOCS / "fork-trace-causes.7").read_text())


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

    assert [
        *("records.schema.json", "fork-trace.catalog", "causes.md", "headroom.md"),
        *("fork-trace.8", "fork-trace-causes.7"),
    ] == [each.name for each in pages.stale()]


def test_a_change_of_a_measurement_makes_its_page_and_its_picture_stale(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = json.loads(pages.OVERHEAD.read_text())
    found["overhead_percent"]["fexit-default"]["fork"] = 9.99
    (tmp_path / "overhead.json").write_text(json.dumps(found))
    monkeypatch.setattr(pages, "OVERHEAD", tmp_path / "overhead.json")

    assert ["overhead.md", "overhead.svg"] == [each.name for each in pages.stale()]


def test_another_capture_makes_another_picture_of_the_screen() -> None:
    lines = pages.CAPTURE.read_text().splitlines()
    shown = pictures.live(lines, "q")

    assert shown == pictures.live(lines, "q")
    assert shown != pictures.live([*lines[:-3], lines[-1]], "q")


@pytest.mark.parametrize("name", ["live.svg", "check.svg", "overhead.svg"])
def test_a_picture_is_xml_and_has_its_text_in_it(name: str) -> None:
    root = ElementTree.parse(pages.DOCS / name).getroot()
    text = " ".join(root.itertext())

    for word in {
        "live.svg": ("COUNT", "pids-cgroup", "pid-namespace-dead", "EAGAIN"),
        "check.svg": ("pids-cgroup", "100%", "90%", "Mitigate"),
        "overhead.svg": ("small fork", "getppid", "bpftrace", "kretfunc", "%"),
    }[name]:
        assert word in text


def test_groff_has_nothing_to_say_and_no_line_is_too_long(
    drawn: str, capture: str, causes: str
) -> None:
    for page in (drawn, capture, causes):
        assert max(map(len, page.splitlines())) <= 78
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
def test_every_cause_stands_there_with_its_meaning_and_what_helps(
    cause: Cause, drawn: str, causes: str
) -> None:
    text = section(drawn, "CAUSES")
    found = re.search(rf"^   {cause.slug}\n(.*?)(?=^   \w|^\S)", causes, re.M | re.S)

    assert f"       {cause.slug} (" in text
    assert cause.means in flat(text)
    assert found
    assert cause.means in flat(found[1])
    for kind, remedies in lookup.remedies_of(cause):
        remedy = advice.offline(kind, remedies)[""]
        said = (remedy.text.replace("`", ""), *remedy.commands)
        assert all(flat(each) in flat(found[1]) for each in said)


def test_every_column_stands_there(drawn: str) -> None:
    headings = report.table(aggregate.Table())[0].split()

    assert [] == [
        name
        for name in headings
        if not re.search(rf"^       {name}\b", section(drawn, "FIELDS"), re.M)
    ]


def test_every_key_of_a_record_stands_there_in_its_section(capture: str) -> None:
    for kind, type_ in (
        ("header", records.Header),
        ("failure", records.Failure),
        ("evidence", records.Evidence),
        ("frame", records.Frame),
        ("holder", records.Holder),
        ("advice", records.Advice),
        ("summary", records.Summary),
    ):
        text = section(capture, kinds.KINDS[kind].replace("`", "").upper())

        assert [] == [
            name
            for name in type_.__dataclass_fields__
            if not re.search(rf"^       {name}\b", text, re.M)
        ]


def test_every_exit_code_and_example_stands_there(drawn: str) -> None:
    assert ["0", "1", "2", "3", "130"] == re.findall(
        r"^       (\d+)\b", section(drawn, "EXIT STATUS"), re.M
    )
    assert "fork-trace explain unable to create native thread" in section(drawn, "EXAMPLES")
    assert "exec fork-trace live\n              from the last" in section(drawn, "EXAMPLES")


@pytest.mark.parametrize(
    "text",
    [".so /etc/passwd", "'so x", "back\\slash \\n", "~ ^ ` '", "--long -s", "...", ".TH X 8"],
)
def test_any_text_comes_out_as_it_went_in(text: str) -> None:
    page = f".TH X 8\n.SH A\n{roff.plain(text)}\n.PP\n{roff.code(text)}\n"

    assert 2 == groff(page).count(text)


def test_code_and_stress_are_told_apart() -> None:
    assert "a \\fBb\\-c\\fR \\fId\\fR * e" == roff.inline("a `b-c` *d* * e")


def test_a_link_is_its_words_and_a_list_has_bullets() -> None:
    assert "see it" == roff.inline("see [it](there.md)")
    assert [".IP \\(bu 2", "a b", ".IP \\(bu 2", "c"] == roff.markdown("- a\n  b\n- c\n")


def test_a_page_without_the_place_for_it_is_refused() -> None:
    with pytest.raises(ValueError, match="there are no lines"):
        blocks.put_into("# fork-trace\n", "causes", "- a")
    with pytest.raises(ValueError, match="Overhead"):
        roff.section("# fork-trace\n", "Overhead")


def test_only_the_block_between_its_lines_is_replaced() -> None:
    begin, end = "<!-- a: begin, written by scripts/build-docs -->", "<!-- a: end -->"
    once = blocks.put_into(f"before\n{begin}\nold\n{end}\nafter\n", "a", "new")

    assert f"before\n{begin}\nnew\n{end}\nafter\n" == once
    assert once == blocks.put_into(once, "a", "new")


def test_the_script_says_what_is_stale_and_refuses_what_it_does_not_know(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 0 == pages.main(["--check"])
    assert 2 == pages.main(["--frobnicate"])
    monkeypatch.setattr(pages, "CAUSES", CAUSES[1:])
    assert 1 == pages.main(["--check"])
    assert "fork_trace/docs/causes.md is stale\n" in capsys.readouterr().out
