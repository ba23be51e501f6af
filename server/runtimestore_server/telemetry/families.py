"""Makes families of metrics, as Prometheus wants them, of plain numbers."""

from __future__ import annotations

from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from prometheus_client.core import Metric

    from runtimestore_server.budget import Bound
    from runtimestore_server.telemetry.counts import Histogram

    Found = float | None | Iterable[tuple[str | Sequence[str], float]]
    """A number, or nothing; where there are labels, a number for each value of the one, or values of the several."""


def _family(kind: type[Any], name: str, told: str, found: Found, *labels: str) -> Metric:
    """Make a family of what was found; `name` goes on behind `runtimestore_`."""
    family: Any = kind(f"runtimestore_{name}", told, labels=labels)
    by_label: Any = found if labels else () if found is None else [((), found)]
    for values, number in by_label:
        family.add_metric((values,) if isinstance(values, str) else values, number)
    made: Metric = family
    return made


counter = partial(_family, CounterMetricFamily)
gauge = partial(_family, GaugeMetricFamily)


def bounded(name: str, told: str, value: float, bound: Bound | None) -> Iterator[Metric]:
    """Make a gauge of a number as it is now, and one of the most that it may be, where that is bounded."""
    yield gauge(name, f"{told}.", value)
    if bound is not None:
        yield gauge(f"{name}_limit", f"The most of runtimestore_{name}.", bound.most)


def histogram(
    name: str, told: str, found: Iterable[tuple[str, Sequence[Histogram]]], *, labels: Sequence[str] = ()
) -> Metric:
    """Make a family of histograms with the same bounds, which are added up for each value of the label, if any."""
    family = HistogramMetricFamily(f"runtimestore_{name}", told, labels=labels)
    for value, histograms in found:
        bounds = [*(f"{bound:g}" for bound in map(float, histograms[0].bounds)), "+Inf"]
        counts = accumulate(map(sum, zip(*(tuple(one.counts) for one in histograms), strict=True)))
        total = sum(one.sum for one in histograms)
        family.add_metric((value,) if labels else (), list(zip(bounds, counts, strict=True)), total)
    return family
