"""The metrics: what is counted and held, as Prometheus wants it; made anew for each scrape, at no cost to a call.

No label has values that callers choose: methods are those that are registered, reasons those of `errors.py`, realms
those of the access file. docs/operations.md lists every metric.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily

from runtimestore_server.access.failures import KINDS
from runtimestore_server.telemetry.families import bounded, exported, gauge

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from prometheus_client.core import Metric

    from runtimestore_server.access.authorization import Authorization
    from runtimestore_server.access.tls import Certificates
    from runtimestore_server.rpc.admission import Limiters
    from runtimestore_server.rpc.call import Calls
    from runtimestore_server.rpc.sending import Sending
    from runtimestore_server.store import Store
    from runtimestore_server.telemetry.readiness import Readiness
    from runtimestore_server.telemetry.sampling import Sampling
    from runtimestore_server.telemetry.span_export import SpanCounts
    from runtimestore_server.workers import Workers


class Parts(NamedTuple):
    """What the metrics tell of."""

    calls: Calls
    limiters: Limiters
    workers: Workers
    store: Store
    sending: Sending
    readiness: Readiness
    sampling: Sampling
    authorization: Authorization | None
    certificates: Certificates | None
    most_connections: int
    spans: SpanCounts | None = None


class ServerCollector:
    """Makes the metrics of one server; asked on whatever thread a scrape is answered."""

    def __init__(self, parts: Parts, build: Mapping[str, str]) -> None:
        self._parts = parts
        self._build = dict(build)

    def collect(self) -> Iterator[Metric]:
        """Every metric as it is now."""
        yield InfoMetricFamily("runtimestore_build", "What serves: version, engine and schema.", self._build)
        yield from self._of_calls()
        yield from self._of_access()
        yield from self._of_commits()
        yield from self._of_bounds()
        yield from self._of_engine()
        yield from self._of_store()

    def describe(self) -> Iterable[Metric]:
        """Nothing: else the registry would collect once as it registers, before there is a server."""
        return ()

    def _of_calls(self) -> Iterator[Metric]:
        counts = self._parts.calls.counts
        calls = CounterMetricFamily(
            "runtimestore_calls",
            "Calls that have ended, by method, code and reason.",
            labels=("method", "code", "reason"),
        )
        seconds = HistogramMetricFamily(
            "runtimestore_call_seconds", "Seconds from a call's arrival to its end, by method.", labels=("method",)
        )
        for method in tuple(counts.methods):
            for (code, reason), number in tuple(method.ended.items()):
                calls.add_metric((method.path, code, reason), number)
            seconds.add_metric((method.path,), *exported(method.seconds))
        yield calls
        yield seconds
        yield gauge(
            "runtimestore_calls_in_flight", "Calls that have arrived and are not over.", self._parts.calls.in_flight
        )
        left_out = CounterMetricFamily(
            "runtimestore_log_lines_left_out", "Lines that the log was spared, by reason.", labels=("reason",)
        )
        for reason, number in tuple(counts.lines.left_out.items()):
            left_out.add_metric((reason,), number)
        yield left_out
        spans = CounterMetricFamily("runtimestore_spans", "Spans of traces, by outcome.", labels=("outcome",))
        if self._parts.spans is not None:
            for outcome, number in self._parts.spans.by_outcome().items():
                spans.add_metric((outcome,), number)
        yield spans
        ready = GaugeMetricFamily("runtimestore_ready", "Whether a check of /readyz is passed.", labels=("check",))
        for name, problem in self._parts.readiness.checks().items():
            ready.add_metric((name,), problem is None)
        yield ready
        warned = GaugeMetricFamily(
            "runtimestore_warning",
            "Whether a check of /readyz warns of something while the server serves on.",
            labels=("check",),
        )
        for name, warning in self._parts.readiness.warnings().items():
            warned.add_metric((name,), warning is not None)
        yield warned

    def _of_access(self) -> Iterator[Metric]:
        parts = self._parts
        realms = CounterMetricFamily(
            "runtimestore_realm_calls",
            "Calls that have ended, by a realm or a prefix that the access file names, and code.",
            labels=("realm", "code"),
        )
        if (counted := parts.calls.counts.realms) is not None:
            for (realm, code), number in tuple(counted.ended.items()):
                realms.add_metric((realm, code), number)
        yield realms
        refusals = CounterMetricFamily(
            "runtimestore_access_refusals",
            "Calls and streams that were not let in, by what was wrong.",
            labels=("kind",),
        )
        streams = GaugeMetricFamily("runtimestore_access_streams", "Open streams of principals.")
        if (authorization := parts.authorization) is not None:
            for kind in KINDS:
                refusals.add_metric((kind,), authorization.failures_by_kind[kind])
            streams.add_metric((), len(authorization.streams))
        yield refusals
        yield streams
        handshakes = CounterMetricFamily("runtimestore_tls_handshakes", "TLS handshakes that were begun.")
        ends = GaugeMetricFamily(
            "runtimestore_tls_not_after_timestamp_seconds",
            "When what is in force ends: the server's certificate with those up to its CA, the last CA of clients.",
            labels=("file",),
        )
        if parts.certificates is not None:
            handshakes.add_metric((), parts.certificates.handshakes)
            for file, validity in parts.certificates.validity.items():
                ends.add_metric((file,), validity.ends.timestamp())
        yield handshakes
        yield ends

    def _of_commits(self) -> Iterator[Metric]:
        batches = self._parts.store.batch_counts
        for name, told, histograms in (
            (
                "runtimestore_queue_seconds",
                "Seconds that a write waited for its batch to begin.",
                [one.queue_seconds for one in batches],
            ),
            (
                "runtimestore_commit_seconds",
                "Seconds that a batch took, from the beginning of its transaction to its end.",
                [one.commit_seconds for one in batches],
            ),
            ("runtimestore_batch_writes", "Writes in a batch.", [one.batch_writes for one in batches]),
        ):
            family = HistogramMetricFamily(name, told)
            family.add_metric((), *exported(*histograms))
            yield family
        counters = self._parts.store.counters
        for name, told, value in (
            ("runtimestore_transactions", "Transactions that committed something.", counters.transactions),
            ("runtimestore_writes", "Writes that landed.", counters.writes),
            ("runtimestore_write_refusals", "Writes that the store refused.", counters.refusals),
            ("runtimestore_replays", "Writes that were answered as before, for they had landed.", counters.replays),
            (
                "runtimestore_session_folds",
                "Versions of sessions that were made bases, since the edits outweighed the last one.",
                self._parts.store.folding.count,
            ),
            (
                "runtimestore_session_versions_pruned",
                "Versions of sessions that were deleted, being older than what is kept.",
                self._parts.store.pruning.count,
            ),
        ):
            yield CounterMetricFamily(name, told, value)

    def _of_bounds(self) -> Iterator[Metric]:
        parts = self._parts
        yield gauge("runtimestore_connections_limit", "The most connections of callers.", parts.most_connections)
        yield gauge(
            "runtimestore_session_cache_bytes",
            "Bytes of sessions that are held in memory.",
            parts.store.recent_sessions.bytes,
        )
        sending, limiters = parts.sending.budget, parts.limiters
        for budget, items, size in (
            (
                parts.store.budget,
                ("pending_writes", "Writes that wait for their transaction, or are in one"),
                ("pending_write_bytes", "Bytes of documents of those"),
            ),
            (
                parts.workers.budget,
                ("pending_reads", "Loads and checks that wait for a worker, or run"),
                ("pending_check_bytes", "Bytes of requests that wait to be checked"),
            ),
        ):
            yield from bounded(*items, budget.items, budget.items_bound)
            yield from bounded(*size, budget.bytes, budget.size_bound)
        yield from bounded("sending_bytes", "Bytes of answers on their way", sending.bytes, sending.size_bound)
        yield gauge("runtimestore_sending_answers", "Answers on their way.", sending.items)
        watches = [("known", limiters.watches.known), ("strangers", limiters.watches.strangers)]
        for name, told, held in (
            ("health_watches", "Open streams that watch health", [budget.items for _, budget in watches]),
            (
                "health_watches_limit",
                "The most of runtimestore_health_watches",
                [bound.most if (bound := budget.items_bound) else 0 for _, budget in watches],
            ),
        ):
            family = GaugeMetricFamily(f"runtimestore_{name}", f"{told}.", labels=("of",))
            for (of, _), value in zip(watches, held, strict=True):
                family.add_metric((of,), value)
            yield family
        uploads = [(kind, getattr(limiters, kind)) for kind in ("writes", "others", "exchanges", "strangers")]
        for name, told, values in (
            ("uploads", "Messages that are being received", [limiter.slots.received for _, limiter in uploads]),
            ("uploads_limit", "The most of runtimestore_uploads", [limiter.slots.at_once for _, limiter in uploads]),
            ("uploads_waiting", "Calls whose messages wait to be received", [one.slots.waiting for _, one in uploads]),
        ):
            family = GaugeMetricFamily(f"runtimestore_{name}", f"{told}.", labels=("kind",))
            for (kind, _), value in zip(uploads, values, strict=True):
                family.add_metric((kind,), value)
            yield family

    def _of_engine(self) -> Iterator[Metric]:
        database = self._parts.store.database
        pools = {"writers": database.writers.pool, "readers": database.readers.pool}
        in_use = GaugeMetricFamily("runtimestore_pool_in_use", "Connections in use, by pool.", labels=("pool",))
        limit = GaugeMetricFamily("runtimestore_pool_in_use_limit", "The most of them.", labels=("pool",))
        for name, pool in pools.items():
            # Of a pool that keeps a fixed number: what others keep nobody bounds.
            if (checked_out := getattr(pool, "checkedout", None)) is not None:
                in_use.add_metric((name,), checked_out())
            if (size := getattr(pool, "size", None)) is not None:
                limit.add_metric((name,), size() + getattr(pool, "_max_overflow", 0))
        yield in_use
        yield limit
        log = GaugeMetricFamily(
            "runtimestore_wal_bytes", "Bytes of the engine's log, where it lies beside the store's file."
        )
        if (log_bytes := database.log_bytes) is not None:
            log.add_metric((), log_bytes)
        yield log
        checkpoints = CounterMetricFamily(
            "runtimestore_checkpoints", "Checkpoints that this server tried, by outcome.", labels=("outcome",)
        )
        for outcome, number in dict(database.checkpoint_counts).items():
            checkpoints.add_metric((outcome,), number)
        yield checkpoints

    def _of_store(self) -> Iterator[Metric]:
        sample = self._parts.sampling.latest
        oldest = GaugeMetricFamily(
            "runtimestore_oldest_request_timestamp_seconds", "When the oldest remembered request was recorded."
        )
        yield gauge(
            "runtimestore_request_retention_seconds",
            "How long a request is to be remembered.",
            self._parts.store.request_retention_seconds,
        )
        size = GaugeMetricFamily("runtimestore_store_bytes", "Bytes that the store takes.")
        free = GaugeMetricFamily(
            "runtimestore_store_free_bytes", "Bytes that are free where the store's file lies, if it is one."
        )
        rows = GaugeMetricFamily("runtimestore_table_rows", "Rows, as the engine estimates.", labels=("table",))
        table_bytes = GaugeMetricFamily("runtimestore_table_bytes", "Bytes, indexes included.", labels=("table",))
        at = GaugeMetricFamily("runtimestore_sampled_timestamp_seconds", "When the five above were looked at.")
        if sample is not None:
            at.add_metric((), sample.at)
            if sample.oldest_request_ms is not None:
                oldest.add_metric((), sample.oldest_request_ms / 1000)
            if sample.sizes.bytes is not None:
                size.add_metric((), sample.sizes.bytes)
            if sample.sizes.free_bytes is not None:
                free.add_metric((), sample.sizes.free_bytes)
            for name, of_table in sample.sizes.tables.items():
                rows.add_metric((name,), of_table.rows)
                table_bytes.add_metric((name,), of_table.bytes)
        yield from (oldest, size, free, rows, table_bytes, at)


def registry(parts: Parts, build: Mapping[str, str]) -> CollectorRegistry:
    """The metrics of a server, and those of its process and its Python."""
    found = CollectorRegistry(auto_describe=False)
    found.register(ServerCollector(parts, build))
    ProcessCollector(registry=found)
    PlatformCollector(registry=found)
    GCCollector(registry=found)
    return found
