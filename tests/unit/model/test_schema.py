"""The published schema against the code that writes records, and against records."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any

import fastjsonschema
import jsonschema
import pytest
import schema
from click.testing import CliRunner
from conftest import (
    MadeHost,
    capture_text,
    make_death,
    make_evidence,
    make_failure,
    make_header,
    make_holder,
    make_summary,
)

from fork_trace import documents
from fork_trace.commands import cli
from fork_trace.diagnosis.causes import CAUSES
from fork_trace.headroom import check
from fork_trace.model import events, records, steps
from fork_trace.model.records import Frame
from fork_trace.output import aggregate, columns, summary
from fork_trace.output.formats.json import whole as whole_report
from fork_trace.output.report_options import PLAIN, ReportOptions
from fork_trace.probes.request import ATTACH_MODES, BACKENDS

RECORDED = sorted((Path(__file__).resolve().parents[2] / "recorded").glob("*.jsonl"))
PUBLISHED = schema.published()
TYPES = {
    "header": records.Header,
    "failure": records.Failure,
    "summary": records.Summary,
    "evidence": records.Evidence,
    "advice": records.Advice,
    "frame": records.Frame,
    "holder": records.Holder,
    "mark": records.Mark,
    "death": records.Death,
    "slow": records.Slow,
    "forks": records.Forks,
}
WHOLE = make_failure(
    evidence=(make_evidence(), make_evidence(value=None, limit=None, read="proc")),
    stack=(Frame(4096, "_Fork", "/lib/libc.so.6", 4096, "ab12"), Frame(1, None, None)),
    container=dict.fromkeys(("runtime", "id", "name", "pod", "pod_name", "unit")),
    holders=(make_holder(), make_holder(comm=None, pid=None, tasks=0, processes=0, zombies=3)),
    holders_total=512,
    alternatives=("kernel-memory", "overcommit-never"),
    possible_steps=("dup_task_struct", "copy_signal"),
    stack_by="unwinding",
    script="job.py",
)
NOTHING_KNOWN = make_failure(
    **dict.fromkeys(
        ("comm", "exe", "pid", "tid", "uid", "ppid", "parent_comm", "cgroup", "syscall"),
    ),
    **dict.fromkeys(("creates", "errno", "function", "caller", "holders", "container")),
    step="unknown:17",
    cause="unknown",
)


def as_json(record: records.Record) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(records.to_json(record))
    return found


def takes_null(part: dict[str, Any]) -> bool:
    return bool(jsonschema.Draft7Validator({**PUBLISHED, "anyOf": [part]}).is_valid(None))


def test_it_is_a_schema_of_draft_7() -> None:
    jsonschema.Draft7Validator.check_schema(PUBLISHED)

    assert "http://json-schema.org/draft-07/schema#" == PUBLISHED["$schema"]
    assert PUBLISHED["$id"].endswith(f":{records.VERSION}")


def test_the_command_prints_it() -> None:
    done = CliRunner().invoke(cli.cli, ["docs", "schema"])

    assert 0 == done.exit_code
    assert PUBLISHED == json.loads(done.output)


@pytest.mark.parametrize("name", TYPES)
def test_each_record_has_the_fields_of_its_type_and_null_where_it_may_be(name: str) -> None:
    part = PUBLISHED["definitions"][name]
    written = {
        each.name.rstrip("_"): str(each.type).endswith("| None") for each in fields(TYPES[name])
    }
    described = {
        key: takes_null(value) for key, value in part["properties"].items() if key != "type"
    }

    assert written == described
    assert set(part["required"]) <= set(part["properties"])


def test_every_key_is_described() -> None:
    def silent(part: Any, path: str) -> list[str]:
        if not isinstance(part, dict):
            return []
        inner = part.get("properties", {})
        found = [
            f"{path}.{key}"
            for key, value in inner.items()
            if not {"description", "$ref", "const"} & set(value)
        ]
        return found + [
            hit for key, value in part.items() for hit in silent(value, f"{path}.{key}")
        ]

    assert [] == silent(PUBLISHED["definitions"], "")


def test_what_can_be_named_is_what_the_code_names() -> None:
    parts = PUBLISHED["definitions"]

    assert [cause.slug for cause in CAUSES] == parts["cause"]["enum"]
    assert [step.name for step in steps.STEPS] == parts["step"]["anyOf"][0]["enum"]
    assert list(ATTACH_MODES) == parts["header"]["properties"]["attach"]["enum"]
    assert list(BACKENDS) == parts["header"]["properties"]["backend"]["enum"]
    assert set(columns.COLUMNS) <= set(parts["row"]["properties"])
    for name in events.SYSCALLS:
        jsonschema.validate(name, parts["syscall"])


@pytest.mark.parametrize(
    "record",
    [
        *(make_header(), make_failure(), make_summary(), WHOLE, NOTHING_KNOWN),
        make_summary(ended="rotation"),
        records.Checkpoint(**vars(make_summary(ended="running"))),
        make_summary(deaths={"copy-on-write": 2, "unknown": 1}),
        make_death(),
        make_death(**dict.fromkeys(("comm", "pid", "uid", "cgroup", "allocator", "fork", "thp"))),
        *(records.Mark("t", "web-1", kind) for kind in ("started", "stopped")),
        *(records.Mark("t", "web-1", kind, "a", "b") for kind in ("gap", "resumed", "clock")),
    ],
)
def test_what_is_written_fits(record: records.Record) -> None:
    schema.validate(as_json(record))
    jsonschema.validate(as_json(record), PUBLISHED)


def test_a_merged_summary_and_its_rows_fit() -> None:
    counted = aggregate.Table(columns.COLUMNS)
    counted.add(WHOLE, "alpha")
    counted.add(NOTHING_KNOWN, None)
    merged = summary.merged_summary(counted, [make_summary()], ReportOptions(True, True))

    assert 2 == len(schema.validate(merged)["rows"])


@pytest.mark.parametrize("more", [PLAIN, ReportOptions(True, True)])
def test_a_whole_report_fits(more: ReportOptions) -> None:
    counted = aggregate.Table(columns.COLUMNS)
    counted.add(WHOLE, "alpha")
    counted.add(NOTHING_KNOWN, None)
    whole = whole_report(counted, [make_summary()] * 2, [make_header()] * 2, more)

    assert 2 == len(schema.validate(whole)["causes"])
    jsonschema.validate(whole, PUBLISHED)
    assert set(whole) == set(PUBLISHED["definitions"]["report"]["properties"])
    assert set(whole["captures"][0]) == set(PUBLISHED["definitions"]["capture"]["properties"])
    assert set(whole["causes"][0]) == set(PUBLISHED["definitions"]["told"]["properties"])


def test_a_report_of_nothing_fits() -> None:
    assert [] == schema.validate(whole_report(aggregate.Table(), [], []))["causes"]


@pytest.mark.parametrize(
    "changes",
    [
        {"verdict": None},
        {"captures": 1},
        {"captures": [{"host": "alpha"}]},
        {"causes": {"pids-cgroup": 1}},
        {"causes": [{"cause": "moon-phase", "host": None, "count": 1, "means": "", "latest": {}}]},
        {"lost": "none"},
        {"colour": "red"},
    ],
)
def test_what_is_never_reported_does_not_fit(changes: dict[str, Any]) -> None:
    counted = aggregate.Table()
    counted.add(WHOLE)
    whole = whole_report(counted, [make_summary()], [make_header()])

    with pytest.raises(fastjsonschema.JsonSchemaException):
        schema.validate({**whole, **changes})


def test_a_check_fits(made_host: MadeHost) -> None:
    made_host.cgroup("full", 70, "70")
    found = check.examine(80, 100, str(made_host.root))

    assert "full" == schema.validate(found)["level"]
    assert schema.validate(check.examine(0.001, 100, str(made_host.root)))["limits"]


@pytest.mark.parametrize(
    ("record", "changes"),
    [
        (WHOLE, {"cause": "moon-phase"}),
        (WHOLE, {"step": "copy_moon"}),
        (WHOLE, {"errno": ""}),
        (WHOLE, {"errno": 11}),
        (WHOLE, {"count": 0}),
        (WHOLE, {"count": None}),
        (WHOLE, {"pid": "42"}),
        (WHOLE, {"certainty": "guessed"}),
        (WHOLE, {"flags": ["VM"]}),
        (WHOLE, {"evidence": [{}]}),
        (WHOLE, {"holders": [{"comm": "java"}]}),
        (WHOLE, {"container": {}}),
        (WHOLE, {"colour": "red"}),
        (make_header(), {"attach": "magic"}),
        (make_header(), {"limits": {"kernel.pid_max": "many"}}),
        (make_summary(), {"lost": None}),
        (make_summary(), {"causes": {"moon-phase": 1}}),
        (make_summary(), {"ended": "boredom"}),
        (make_summary(), {"rows": [{"count": 1}]}),
        (records.Checkpoint(**vars(make_summary(ended="running"))), {"ended": "duration"}),
        (records.Mark("t", "web-1", "gap"), {"kind": "coffee"}),
    ],
)
def test_what_is_never_written_does_not_fit(
    record: records.Record, changes: dict[str, Any]
) -> None:
    with pytest.raises(fastjsonschema.JsonSchemaException):
        schema.validate({**as_json(record), **changes})


def test_a_missing_key_does_not_fit() -> None:
    whole = as_json(WHOLE)
    for name in PUBLISHED["definitions"]["failure"]["required"]:
        if name == "type":
            continue
        with pytest.raises(fastjsonschema.JsonSchemaException):
            schema.validate({key: value for key, value in whole.items() if key != name})


@pytest.mark.parametrize("file", RECORDED, ids=lambda file: file.stem)
def test_what_was_recorded_on_a_real_kernel_fits_and_is_reported(file: Path) -> None:
    header, *failures, summary = schema.read(file.read_text())
    counts: Counter[str] = Counter()
    for each in failures:
        counts[each["cause"]] += each["count"]
    done = CliRunner().invoke(cli.cli, ["report", "--json", str(file)])
    *_, merged = schema.read(done.output)
    done = CliRunner().invoke(cli.cli, ["report", "--format", "json", str(file)])
    (whole,) = schema.read(done.output)

    assert file.stem == f"{header['kernel'][:4].rstrip('.')}-{header['attach']}"
    assert counts == summary["causes"] == merged["causes"]
    assert {"pids-cgroup": 7, "pid-namespace-dead": 1} == counts
    assert counts == {each["cause"]: each["count"] for each in whole["causes"]}


def test_something_was_recorded() -> None:
    assert RECORDED


def test_users_may_meet_keys_of_a_later_version() -> None:
    jsonschema.validate({**as_json(WHOLE), "colour": "red"}, PUBLISHED)


def test_a_whole_file_is_read_and_held_to_it() -> None:
    assert ["header", "failure", "summary"] == [
        record["type"] for record in schema.read(capture_text())
    ]
    with pytest.raises(fastjsonschema.JsonSchemaException):
        schema.read('{"type": "header"}\n')


def test_every_reference_of_the_schema_leads_somewhere() -> None:
    schema = json.loads(documents.text(documents.SCHEMA))
    references = set(re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(schema)))

    assert references
    for reference in references:
        found = schema
        for part in reference.split("/"):
            found = found[part]
