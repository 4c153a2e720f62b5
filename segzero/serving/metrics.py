"""Metrics of one server, for Prometheus."""

from collections.abc import Sized

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from segzero.segmenter.cache import CachedSegmenter
from segzero.serving.model_pool import ModelPool

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60, 120)
ITEMS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters that the middleware and the batcher update, and gauges that are read when Prometheus asks."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "segzero_requests", "Requests answered or refused.", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "segzero_request_seconds",
            "From a request's first byte to its answer.",
            ["path"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.inside = Gauge("segzero_requests_inside", "Requests that are being answered.", registry=self.registry)
        self.batch = Histogram(
            "segzero_batch_items", "Requests that shared a batch.", buckets=ITEMS, registry=self.registry
        )
        self.batch_seconds = Histogram(
            "segzero_batch_seconds", "What a batch took.", buckets=SECONDS, registry=self.registry
        )

    def batch_done(self, items: int, seconds: float) -> None:
        """Count a batch of the batcher."""
        self.batch.observe(items)
        self.batch_seconds.observe(seconds)

    def watch(self, pool: ModelPool, sessions: Sized) -> None:
        """Add the gauges of the models and the dialogues."""
        queue = Gauge("segzero_queue_length", "Requests that wait for the models.", registry=self.registry)
        queue.set_function(pool.waiting)
        dialogues = Gauge("segzero_dialogues", "Dialogues that are kept.", registry=self.registry)
        dialogues.set_function(lambda: len(sessions))
        cache = Gauge("segzero_embedding_cache_bytes", "Encoded images that are kept.", registry=self.registry)
        cache.set_function(lambda: sum(segmenter.cache.held for segmenter in pool.cached_segmenters))
        self.registry.register(_ImageCounter(pool.cached_segmenters))

    def text(self) -> bytes:
        """Write all metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class _ImageCounter(Collector):
    """Images that the segmenters encoded, or had in their caches."""

    def __init__(self, segmenters: list[CachedSegmenter]) -> None:
        self.segmenters = segmenters

    def collect(self) -> list[Metric]:
        images = CounterMetricFamily("segzero_images", "Images encoded, or remembered.", labels=["how"])
        images.add_metric(["encoded"], sum(segmenter.encoded for segmenter in self.segmenters))
        images.add_metric(["remembered"], sum(segmenter.cache_hits for segmenter in self.segmenters))
        return [images]
