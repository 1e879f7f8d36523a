"""What the server counts, as Prometheus reads it from `/metrics`."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)


class Metrics:
    """The series of one server, in a registry of their own.

    `programs` are the graded ones by outcome, `runs` those without a verdict by end, and `repeated` the requests that
    were answered from the one before them.
    """

    def __init__(self, num_workers: int, num_pending: Callable[[], int]) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter("rltf_serve_requests", "Requests answered.", ("endpoint", "status"), registry=registry)
        self._seconds = Histogram(
            "rltf_serve_request_seconds",
            "Seconds from a request to its answer.",
            ("endpoint",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.programs = Counter("rltf_serve_programs", "Programs graded.", ("outcome",), registry=registry)
        self.runs = Counter("rltf_serve_runs", "Programs run without a verdict.", ("end",), registry=registry)
        self.repeated = Counter(
            "rltf_serve_repeated_requests", "Requests that had come before, by request_id.", registry=registry
        )
        Gauge("rltf_serve_pending", "Programs that wait or run.", registry=registry).set_function(num_pending)
        Gauge("rltf_serve_workers", "Sandboxes.", registry=registry).set(num_workers)

    def count_request(self, endpoint: str, status: int, seconds: float) -> None:
        """Count a request that has been answered."""
        self._requests.labels(endpoint, status).inc()
        self._seconds.labels(endpoint).observe(seconds)

    def text(self) -> bytes:
        """All series in Prometheus's text format."""
        return generate_latest(self._registry)
