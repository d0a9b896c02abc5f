"""Metrics as Prometheus reads them: its text format, or OpenMetrics for who asks for that.

Owns prometheus_client, which escapes what a name may hold, and imports it only once there is something
to write: it takes 0.2 s and 8 MB.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, cast

from fork_trace.errors import ForkTraceError
from fork_trace.escape import cut, safe

_MOST_NAME = 200  # characters


class Buckets(NamedTuple):
    """A histogram's numbers: how many were no more than each bound, the last of which is "+Inf", and their sum."""

    up_to: Sequence[tuple[str, float]]
    total: float


class Family(NamedTuple):
    """One metric: the values of its labels, with a number each."""

    kind: str  # "counter" or "gauge"; "histogram" has Buckets
    name: str
    what: str
    labels: tuple[str, ...]
    samples: Sequence[tuple[tuple[str, ...], float | Buckets]]


def gauge(name: str, what: str, number: float) -> Family:
    """Return a metric without labels."""
    return Family("gauge", name, what, (), [((), number)])


def label(text: str, most: int = _MOST_NAME) -> str:
    """Make a name that others chose harmless, and no longer than any honest one."""
    return cut(safe(text), most)


def demand(option: str, instead: str = "") -> None:
    """Refuse an option where prometheus_client is not installed; ForkTraceError. Imports nothing."""
    try:
        is_there = importlib.util.find_spec("prometheus_client") is not None
    except ValueError:  # somebody keeps it from being imported
        is_there = False
    if not is_there:
        raise ForkTraceError(
            f"{option} needs prometheus_client, which is not installed.",
            f"Install python3-prometheus-client{instead}.",
        )


def write(families: Iterable[Family], accept: str = "") -> tuple[bytes, str]:
    """Write metrics in the format that an Accept header asks for; return them with their Content-Type."""
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )
    from prometheus_client.exposition import choose_encoder

    kinds = {
        "counter": CounterMetricFamily,
        "gauge": GaugeMetricFamily,
        "histogram": HistogramMetricFamily,
    }

    class _Found:
        def collect(self) -> Iterator[Any]:
            for kind, name, what, labels, samples in families:
                family = kinds[kind](name, what, labels=labels)
                for values, number in samples:
                    told = number if isinstance(number, Buckets) else (number,)
                    family.add_metric(values, *told)
                yield family

    registry = CollectorRegistry(auto_describe=False)
    # Any: not each version has a class for those who only have to collect.
    registry.register(cast(Any, _Found()))
    encode, content_type = choose_encoder(accept)
    text: bytes = encode(registry)
    return text, content_type
