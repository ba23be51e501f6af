"""The metrics: what is counted and held, as Prometheus wants it; made anew for each scrape, at no cost to a call.

No label has values that callers choose: methods are those that are registered, reasons those of `errors.py`, realms
those of the access file. docs/operations.md lists every metric, with `runtimestore_` before the names that stand here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import InfoMetricFamily

from runtimestore_server.access.failures import KINDS
from runtimestore_server.telemetry.families import bounded, counter, gauge, histogram

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from prometheus_client.core import Metric

    from runtimestore_server.access.authorization import Authorization
    from runtimestore_server.access.tls import Certificates
    from runtimestore_server.rpc.admission import Limiters
    from runtimestore_server.rpc.call import Calls
    from runtimestore_server.rpc.sending import Sending
    from runtimestore_server.rpc.server import Server
    from runtimestore_server.store import Store
    from runtimestore_server.telemetry.readiness import Readiness
    from runtimestore_server.telemetry.sampling import Sampling
    from runtimestore_server.telemetry.spans import Traces
    from runtimestore_server.workers import Workers


class Parts(Protocol):
    """What the metrics tell of: an `Application`, which is built from them."""

    certificates: Certificates | None
    authorization: Authorization | None
    traces: Traces | None
    workers: Workers
    store: Store
    sending: Sending
    limiters: Limiters
    calls: Calls
    server: Server
    readiness: Readiness
    sampling: Sampling


class ServerCollector:
    """Makes the metrics of one server of its parts; asked on whatever thread a scrape is answered."""

    def __init__(self, app: Parts, build: Mapping[str, str]) -> None:
        self._app = app
        self._build = dict(build)

    def collect(self) -> Iterator[Metric]:
        """Yield every metric as it is now."""
        yield InfoMetricFamily("runtimestore_build", "What serves: version, engine and schema.", self._build)
        yield from self._of_calls()
        yield from self._of_access()
        yield from self._of_commits()
        yield from self._of_bounds()
        yield from self._of_engine()
        yield from self._of_store()

    def describe(self) -> Iterable[Metric]:
        """Describe nothing: else the registry would collect once as it registers, before there is a server."""
        return ()

    def _of_calls(self) -> Iterator[Metric]:
        app, counts = self._app, self._app.calls.counts
        methods = tuple(counts.methods.values())
        ended = (((one.path, *end), number) for one in methods for end, number in tuple(one.ended.items()))
        yield counter("calls", "Calls that have ended, by method, code and reason.", ended, "method", "code", "reason")
        seconds = ((one.path, [one.seconds]) for one in methods)
        told = "Seconds from a call's arrival to its end, by method."
        yield histogram("call_seconds", told, seconds, labels=("method",))
        yield gauge("calls_in_flight", "Calls that have arrived and are not over.", app.calls.in_flight)
        left_out = tuple(counts.lines.left_out.items())
        yield counter("log_lines_left_out", "Lines that the log was spared, by reason.", left_out, "reason")
        spans = () if app.traces is None else app.traces.counts.by_outcome().items()
        yield counter("spans", "Spans of traces, by outcome.", spans, "outcome")
        ready = ((name, problem is None) for name, problem in app.readiness.checks().items())
        yield gauge("ready", "Whether a check of /readyz is passed.", ready, "check")
        warned = ((name, warning is not None) for name, warning in app.readiness.warnings().items())
        told = "Whether a check of /readyz warns of something while the server serves on."
        yield gauge("warning", told, warned, "check")

    def _of_access(self) -> Iterator[Metric]:
        realms = self._app.calls.counts.realms
        told = "Calls that have ended, by a realm or a prefix that the access file names, and code."
        yield counter("realm_calls", told, () if realms is None else tuple(realms.ended.items()), "realm", "code")
        authorization = self._app.authorization
        refused = () if authorization is None else [(kind, authorization.failures_by_kind[kind]) for kind in KINDS]
        told = "Calls and streams that were not let in, by what was wrong."
        yield counter("access_refusals", told, refused, "kind")
        streams = None if authorization is None else len(authorization.streams)
        yield gauge("access_streams", "Open streams of principals.", streams)
        certificates = self._app.certificates
        handshakes = None if certificates is None else certificates.handshakes
        yield counter("tls_handshakes", "TLS handshakes that were begun.", handshakes)
        validity = {} if certificates is None else certificates.validity
        told = "When what is in force ends: the server's certificate with those up to its CA, the last CA of clients."
        ends = ((file, one.ends.timestamp()) for file, one in validity.items())
        yield gauge("tls_not_after_timestamp_seconds", told, ends, "file")

    def _of_commits(self) -> Iterator[Metric]:
        store = self._app.store
        for name, told in (
            ("queue_seconds", "Seconds that a write waited for its batch to begin."),
            ("commit_seconds", "Seconds that a batch took, from the beginning of its transaction to its end."),
            ("batch_writes", "Writes in a batch."),
        ):
            yield histogram(name, told, [("", [getattr(one, name) for one in store.batch_counts])])
        counters = store.counters
        yield counter("transactions", "Transactions that committed something.", counters.transactions)
        yield counter("writes", "Writes that landed.", counters.writes)
        yield counter("write_refusals", "Writes that the store refused.", counters.refusals)
        yield counter("replays", "Writes that were answered as before, for they had landed.", counters.replays)
        told = "Versions of sessions that were made bases, since the edits outweighed the last one."
        yield counter("session_folds", told, store.folding.count)
        told = "Versions of sessions that were deleted, being older than what is kept."
        yield counter("session_versions_pruned", told, store.pruning.count)

    def _of_bounds(self) -> Iterator[Metric]:
        app = self._app
        yield gauge("connections_limit", "The most connections of callers.", app.server.most_connections)
        held_bytes = app.store.recent_sessions.bytes
        yield gauge("session_cache_bytes", "Bytes of sessions that are held in memory.", held_bytes)
        writes, work, sending = app.store.budget, app.workers.budget, app.sending.budget
        for name, told, value, bound in (
            (
                "pending_writes",
                "Writes that wait for their transaction, or are in one",
                writes.items,
                writes.items_bound,
            ),
            ("pending_write_bytes", "Bytes of documents of those", writes.bytes, writes.size_bound),
            ("pending_reads", "Loads and checks that wait for a worker, or run", work.items, work.items_bound),
            ("pending_check_bytes", "Bytes of requests that wait to be checked", work.bytes, work.size_bound),
            ("sending_bytes", "Bytes of answers on their way", sending.bytes, sending.size_bound),
        ):
            yield from bounded(name, told, value, bound)
        yield gauge("sending_answers", "Answers on their way.", sending.items)
        watches = [("known", app.limiters.watches.known), ("strangers", app.limiters.watches.strangers)]
        open_watches = ((of, budget.items) for of, budget in watches)
        yield gauge("health_watches", "Open streams that watch health.", open_watches, "of")
        limits = ((of, bound.most if (bound := budget.items_bound) else 0) for of, budget in watches)
        yield gauge("health_watches_limit", "The most of runtimestore_health_watches.", limits, "of")
        kinds = ("writes", "others", "exchanges", "strangers")
        uploads = [(kind, getattr(app.limiters, kind).slots) for kind in kinds]
        received = ((kind, slots.received) for kind, slots in uploads)
        yield gauge("uploads", "Messages that are being received.", received, "kind")
        limits = ((kind, slots.at_once) for kind, slots in uploads)
        yield gauge("uploads_limit", "The most of runtimestore_uploads.", limits, "kind")
        waiting = ((kind, slots.waiting) for kind, slots in uploads)
        yield gauge("uploads_waiting", "Calls whose messages wait to be received.", waiting, "kind")

    def _of_engine(self) -> Iterator[Metric]:
        database = self._app.store.database
        pools = {"writers": database.writers.pool, "readers": database.readers.pool}
        # Of a pool that keeps a fixed number: what others keep nobody bounds.
        in_use = ((name, pool.checkedout()) for name, pool in pools.items() if hasattr(pool, "checkedout"))
        yield gauge("pool_in_use", "Connections in use, by pool.", in_use, "pool")
        most = (
            (name, pool.size() + getattr(pool, "_max_overflow", 0))
            for name, pool in pools.items()
            if hasattr(pool, "size")
        )
        yield gauge("pool_in_use_limit", "The most of them.", most, "pool")
        told = "Bytes of the engine's log, where it lies beside the store's file."
        yield gauge("wal_bytes", told, database.log_bytes)
        tried = dict(database.checkpoint_counts).items()
        yield counter("checkpoints", "Checkpoints that this server tried, by outcome.", tried, "outcome")

    def _of_store(self) -> Iterator[Metric]:
        kept_seconds = self._app.store.request_retention_seconds
        yield gauge("request_retention_seconds", "How long a request is to be remembered.", kept_seconds)
        sample = self._app.sampling.latest
        oldest_ms = sample and sample.oldest_request_ms
        oldest = None if oldest_ms is None else oldest_ms / 1000
        told = "When the oldest remembered request was recorded."
        yield gauge("oldest_request_timestamp_seconds", told, oldest)
        yield gauge("store_bytes", "Bytes that the store takes.", sample and sample.sizes.bytes)
        told = "Bytes that are free where the store's file lies, if it is one."
        yield gauge("store_free_bytes", told, sample and sample.sizes.free_bytes)
        tables = sample.sizes.tables.items() if sample else ()
        yield gauge("table_rows", "Rows, as the engine estimates.", ((name, of.rows) for name, of in tables), "table")
        yield gauge("table_bytes", "Bytes, indexes included.", ((name, of.bytes) for name, of in tables), "table")
        yield gauge("sampled_timestamp_seconds", "When the five above were looked at.", sample and sample.at)


def registry(app: Parts, build: Mapping[str, str]) -> CollectorRegistry:
    """Make the registry of a server's metrics, and those of its process and its Python."""
    found = CollectorRegistry(auto_describe=False)
    found.register(ServerCollector(app, build))
    ProcessCollector(registry=found)
    PlatformCollector(registry=found)
    GCCollector(registry=found)
    return found
