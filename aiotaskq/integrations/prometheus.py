"""Metrics for Prometheus: counts events, measures runs, and samples the store while workers run."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from aiotaskq.app.taskq import TaskQ
from aiotaskq.core.errors import check_int, missing
from aiotaskq.errors import ValidationError
from aiotaskq.integrations.measures import BUCKETS, TABLE, Measures, Metric, Values
from aiotaskq.log import log

if TYPE_CHECKING:
    import aiotaskq.sync

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
    from prometheus_client import start_http_server as _start_http_server
    from prometheus_client.core import GaugeMetricFamily
except ImportError:
    raise missing("prometheus-client", "metrics") from None


class Metrics(Measures):
    """The metrics of one TaskQ: ``Metrics(tq)``, made before its workers start. It listens to events.

    Without it nothing is measured. Labels are bounded: a type is that of a registered handler (or one
    named by ``tq.elsewhere``), a queue is that of a handler or one of ``queues``; all others, and all pairs of
    type and queue beyond ``limit``, are ``other``. Never ids, params or error texts; but the key of a limit, as
    ``tenant:42``, has the value of a parameter: ``limits=0`` shows none.
    """

    def __init__(
        self,
        tq: TaskQ | aiotaskq.sync.TaskQ,
        registry: CollectorRegistry | None = None,
        *,
        port: int | None = None,
        host: str = "127.0.0.1",
        ports: int = 1,
        namespace: str = "aiotaskq",
        queues: Collection[str] = (),
        sample_interval: float | timedelta = 15.0,
        buckets: Iterable[float] = BUCKETS,
        limit: int = 200,
        limits: int = 10,
        tags: Sequence[str] = (),
    ) -> None:
        """Attach to a TaskQ.

        Args:
            tq: the awaited or the blocking one.
            registry: prometheus_client's, default its global one. The application may expose it.
            port: serve the registry over HTTP here while workers run, else the application does. With ``ports`` 4, the
                first free one of 4, for the processes of ``aiotaskq run --processes 4``. 0 is any free one.
            host: the address of that port; default loopback, since there is no password.
            namespace: the prefix of the metrics' names.
            queues: names of queues beside those of the registered handlers, and "default".
            sample_interval: seconds between two counts of the store's rows, while workers run.
            buckets: upper bounds of the histograms, in seconds.
            limit: number of pairs of type and queue with series of their own.
            limits: number of limits, rates and fair shares with series of their own: those at which most tasks wait.
            tags: names of tags with few values, which are labels, ``tag_tenant`` for ``tenant``. ``limit`` combinations
                of type, queue and values have series of their own.

        Raises:
            ValidationError: for a wrong value, a second Metrics of the same TaskQ, or names that the registry has.
        """
        super().__init__(tq, queues, sample_interval, limit, limits, tags, buckets)
        self.registry = REGISTRY if registry is None else registry
        self._port = None if port is None else check_int("port", port, 0, 65_535)
        self._host = host
        self._ports = check_int("ports", ports, 1, 1_000)
        self._known: dict[tuple[str, tuple[str, ...]], Any] = {}
        self.serving: int | None = None
        """The port, while it is served."""
        tq.resource(self._while_workers_run)
        try:
            self._metrics = {
                each.name: _metric(each, namespace, self.registry, self.buckets)
                for each in self.table
                if each.kind != "reading"
            }
            self.registry.register(_Readings(namespace, self._readings))
        except ValueError as error:
            raise ValidationError(f"registry, namespace: {error}; give each TaskQ a namespace of its own") from None
        self._listen(tq.on)
        tq.middleware(self.run)

    def _series(self, name: str, labels: tuple[str, ...]) -> Any:
        """Return the series of a metric with these labels; few exist, and prometheus_client's own look-up is slow."""
        series = self._known.get((name, labels))
        if series is None:
            metric = self._metrics[name]
            series = self._known[name, labels] = metric.labels(*labels) if labels else metric
        return series

    def _add(self, name: str, labels: tuple[str, ...], amount: float = 1) -> None:
        self._series(name, labels).inc(amount)

    def _observe(self, name: str, labels: tuple[str, ...], seconds: float, error: str | None = None) -> None:
        self._series(name, labels).observe(seconds)

    def _set(self, name: str, values: Values) -> None:
        for labels, value in values.items():
            self._series(name, labels).set(value)

    # ---- serving ----

    @contextlib.asynccontextmanager
    async def sampling(self) -> AsyncIterator[None]:
        """Sample the store, and serve the port if there is one, in a process that runs no workers.

        The counters of the registered handlers exist from here on, with 0.
        """
        stop = self._serve(self._port) if self._port is not None else None
        try:
            async with super().sampling():
                yield
        finally:
            if stop is not None:
                self.serving = None
                stop()

    async def _while_workers_run(self) -> AsyncIterator[Metrics]:
        async with self.sampling():
            yield self

    def _serve(self, first: int) -> Callable[[], None]:
        for port in range(first, first + (self._ports if first else 1)):
            try:
                stop, self.serving = start_http_server(port, self._host, self.registry)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            log.info("metrics are served at http://{}:{}/metrics", self._host, self.serving)
            return stop
        # A missing port of metrics must not stop the work.
        log.error("metrics are not served: port {} of {}, the first of {}, is taken", first, self._host, self._ports)
        return lambda: None


def _metric(metric: Metric, namespace: str, registry: CollectorRegistry, buckets: tuple[float, ...]) -> Any:
    common: dict[str, Any] = {"labelnames": metric.labels, "namespace": namespace, "registry": registry}
    if metric.kind == "counter":
        return Counter(metric.plain, metric.text, **common)
    if metric.kind == "histogram":
        return Histogram(metric.plain, metric.text, buckets=buckets, **common)
    # In several processes: whether each of them reaches the store, else what the last one has counted.
    mode: Any = "livemin" if metric.name == "store.up" else "livemostrecent"
    return Gauge(metric.plain, metric.text, multiprocess_mode=mode, **common)


def start_http_server(
    port: int, host: str = "127.0.0.1", registry: CollectorRegistry | None = None
) -> tuple[Callable[[], None], int]:
    """Serve a registry over HTTP from a daemon thread; return what stops it, and the port (0 asked for a free one).

    Loopback by default, since every client can read the metrics. Raises OSError when the port is taken.
    """
    server, thread = _start_http_server(port, host, REGISTRY if registry is None else registry)
    server.daemon_threads = True  # type: ignore[attr-defined]  # a scraper that hangs must not keep the process from ending

    def close() -> None:
        server.shutdown()
        thread.join()
        server.server_close()

    def stop() -> None:
        # The port is free at once, for what runs next in this process; to close it would take until the next poll, too.
        with contextlib.suppress(OSError):  # where the system shuts only connections down
            server.socket.shutdown(socket.SHUT_RDWR)
        # In a thread, because it waits for the server thread's next poll.
        threading.Thread(target=close, name="aiotaskq-metrics", daemon=True).start()

    return stop, server.server_port


class _Readings:
    """Collects what is read at that time. Series of a gauge would stay when other limits are the fullest."""

    def __init__(self, namespace: str, read: Callable[[], dict[str, Values]]) -> None:
        self._namespace, self._read = namespace, read

    def _families(self) -> dict[str, GaugeMetricFamily]:
        return {
            each.name: GaugeMetricFamily(f"{self._namespace}_{each.plain}", each.text, labels=each.labels)
            for each in TABLE
            if each.kind == "reading"
        }

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Return the families without samples: by their names the registry finds another one with the same."""
        return self._families().values()

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Return the families with their samples."""
        families, readings = self._families(), self._read()
        for name, family in families.items():
            for labels, value in readings[name].items():
                family.add_metric(labels, value)
        return families.values()
