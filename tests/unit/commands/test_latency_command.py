"""`fork-trace latency` before it watches: times as people write them, and one sentence for what is none."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from fork_trace.commands import cli, latency


@pytest.mark.parametrize(
    ("text", "ms"), [("10ms", 10.0), ("500us", 0.5), ("1s", 1000.0), ("2", 2.0), ("1.5ms", 1.5)]
)
def test_a_time_is_taken_as_it_is_written(text: str, ms: float) -> None:
    option = latency.command.params[0]
    context = latency.command.make_context("latency", ["--over", text])

    assert ("over", ms) == (option.name, context.params["over"])


@pytest.mark.parametrize("text", ["", "0ms", "-1ms", "ten", "10 ms", "10m", "1e3", "2000s", "nan"])
def test_what_is_no_time_is_refused_in_a_sentence(text: str) -> None:
    done = CliRunner().invoke(cli.cli, ["latency", "--over", text, "--", "true"])

    assert 2 == done.exit_code
    assert "give a time such as 10ms, 500us or 1s" in done.output


def test_a_command_that_does_not_exist_is_refused_before_anything_is_attached() -> None:
    done = CliRunner().invoke(cli.cli, ["latency", "--", "no-such-command-23"])

    assert done.exit_code
    assert "command not found" in str(done.exception)
