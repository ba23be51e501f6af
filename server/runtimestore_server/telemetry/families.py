"""Makes families of metrics, as Prometheus wants them, of plain numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prometheus_client.core import Metric

    from runtimestore_server.budget import Bound
    from runtimestore_server.telemetry.counts import Histogram


def gauge(name: str, told: str, value: float) -> GaugeMetricFamily:
    """A number as it is now."""
    return GaugeMetricFamily(name, told, value)


def bounded(name: str, told: str, value: float, bound: Bound | None) -> Iterator[Metric]:
    """A number as it is now, and the most that it may be, where that is bounded."""
    yield gauge(f"runtimestore_{name}", f"{told}.", value)
    if bound is not None:
        yield gauge(f"runtimestore_{name}_limit", f"The most of runtimestore_{name}.", bound.most)


def exported(*histograms: Histogram) -> tuple[Sequence[tuple[str, float]], float]:
    """Histograms with the same bounds as one: how many were up to each bound, and the sum of all."""
    found: list[tuple[str, float]] = []
    number = 0
    bounds = [*map(float, histograms[0].bounds), float("inf")]
    for bound, counts in zip(bounds, zip(*(tuple(one.counts) for one in histograms), strict=True), strict=True):
        number += sum(counts)
        found.append((f"{bound:g}" if bound != float("inf") else "+Inf", number))
    return found, sum(one.sum for one in histograms)
