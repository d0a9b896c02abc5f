"""README and CHANGELOG against the code: what exists is documented. Each failure lists what is missing."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import click
import pytest
from conftest import MadeHost, make_failure
from vm.kernels import KERNELS

from fork_trace import __version__, check, plan, privileges, records, steps
from fork_trace.commands import cli
from fork_trace.diagnosis.causes import CAUSES
from fork_trace.output import aggregate, tables

CHECKOUT = Path(__file__).resolve().parent.parent
COMMANDS = cli.COMMANDS


def text_of(name: str) -> str:
    path = CHECKOUT / name
    assert path.exists(), f"there is no {name}"
    return path.read_text(encoding="utf-8")


def section(heading: str) -> str:
    """Return one section of the README, without those that follow it."""
    parts = re.split(r"^## ", text_of("README.md"), flags=re.MULTILINE)
    found = [part for part in parts if part.startswith(heading + "\n")]
    assert found, f"README.md has no section {heading!r}"
    return found[0]


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


def test_every_command_is_in_the_readme() -> None:
    assert [] == missing(COMMANDS, text_of("README.md"), "fork-trace {}")


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


def test_every_cause_is_in_the_table_of_causes() -> None:
    causes = [cause.slug for cause in CAUSES]
    listed = re.findall(r"^\| `([a-z-]+)` \|", section("Causes"), re.MULTILINE)

    assert sorted(causes) == sorted(listed)


def test_every_column_of_the_default_report_is_explained() -> None:
    listed = re.findall(r"^\| ([A-Z/]+) \|", section("How to read a report"), re.MULTILINE)

    assert headings() == listed


def test_every_column_that_can_be_asked_for_is_named() -> None:
    assert [] == missing(aggregate.COLUMNS, section("How to read a report"))


def test_every_step_is_named() -> None:
    names = [step.name for step in steps.STEPS]

    assert [] == missing(names, text_of("README.md"))


def test_every_kernel_that_is_tested_is_in_the_table_of_kernels_and_no_other() -> None:
    listed = re.findall(r"(\d+\.\d+) fexit", section("Kernels"))

    assert [kernel.version for kernel in KERNELS] == listed


def test_every_rung_and_backend_is_named() -> None:
    assert [] == missing((*plan.RUNGS, *plan.BACKENDS), text_of("README.md"))


@pytest.mark.parametrize(
    ("record", "types"),
    [
        ("header", [records.Header]),
        (
            "failure",
            [
                records.Failure,
                records.Evidence,
                records.Frame,
                records.Holder,
                records.Advice,
            ],
        ),
        ("summary", [records.Summary]),
    ],
)
def test_every_field_of_a_record_is_documented(record: str, types: list[type]) -> None:
    row = re.search(rf"^\| `{record}` \|.*$", section("The capture file"), re.MULTILINE)
    names = [field.name for type_ in types for field in fields(type_)]

    assert row, f"the capture file's table has no row for {record}"
    assert [] == missing(names, row[0], "`{}`")


def test_every_key_and_cause_of_a_check_is_documented(made_host: MadeHost) -> None:
    found = check.examine(80, 100, str(made_host.root))
    names = {*found, *found["limits"][0], *(each["cause"] for each in found["limits"])}

    assert [] == missing(sorted(names), section("How near the limits are"), "`{}`")


def test_every_capability_has_its_reason_and_whether_it_is_kept() -> None:
    rows = re.findall(r"^\| (CAP_\w+) \| .+ \| (yes|no) \|$", section("Privileges"), re.MULTILINE)

    assert [
        (each.name, "yes" if each.is_kept else "no") for each in privileges.CAPABILITIES
    ] == rows


def test_the_format_version_is_documented() -> None:
    assert f"format version {records.VERSION}" in section("The capture file")


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md"])
def test_nothing_is_left_to_be_filled_in(name: str) -> None:
    assert [] == re.findall(r"\S*(?:PLACEHOLDER|TODO|FIXME|XXX)\S*", text_of(name))


def test_every_script_that_the_readme_names_is_there() -> None:
    named = sorted(set(re.findall(r"scripts/([a-z-]+)", text_of("README.md"))))

    assert [] == [name for name in named if not (CHECKOUT / "scripts" / name).is_file()]


def test_the_changelog_has_the_current_version() -> None:
    assert f"## [{__version__}]" in text_of("CHANGELOG.md")
