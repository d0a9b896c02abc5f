"""When `live` and `capture` count before they load what explains."""

from __future__ import annotations

import io
from typing import Any

import pytest

from fork_trace.commands import early

PLAIN: dict[str, Any] = {
    **{name: None for name in ("comm", "pid", "uid", "cgroup", "attach", "backend")},
    **{"without": (), "refused": False, "large_forks": False},
}


@pytest.mark.parametrize(
    ("given", "counts"),
    [
        ({}, True),
        ({"attach": "fexit", "backend": "libbpf"}, True),
        ({"attach": "tracepoint"}, True),
        ({"attach": "kprobe"}, False),
        ({"backend": "bcc"}, False),
        ({"without": ("kallsyms",)}, False),
        ({"uid": 0}, False),
        ({"pid": 1}, False),
        ({"comm": "redis-server"}, False),
        ({"cgroup": "/"}, False),
        ({"refused": True}, False),
        ({"large_forks": True}, False),
    ],
)
def test_only_what_needs_no_look_at_the_host_is_counted_early(
    given: dict[str, Any], counts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = object()
    monkeypatch.setattr(early, "begin", lambda attach: begun)

    assert (begun if counts else None) is early.counting({**PLAIN, **given})


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.parametrize("begun", [object(), None])
def test_it_is_said_on_a_terminal(
    begun: object | None, is_terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = io.StringIO()
    said.isatty = lambda: is_terminal  # type: ignore[method-assign]
    monkeypatch.setattr(early, "begin", lambda attach: begun)
    monkeypatch.setattr("sys.stderr", said)
    early.counting(PLAIN)

    expected = "Counting fork failures; loading what explains them.\n" if begun else ""
    assert expected * is_terminal == said.getvalue()
