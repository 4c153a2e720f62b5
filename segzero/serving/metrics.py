"""Figures for Prometheus, of this server alone."""

from collections.abc import Sized

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from segzero.serving.model_pool import Models

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60, 120)
ITEMS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """What the door and the models report; `text` is what Prometheus reads."""

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
        """For the batcher."""
        self.batch.observe(items)
        self.batch_seconds.observe(seconds)

    def watch(self, models: Models, dialogues: Sized) -> None:
        """Figures that are read when they are asked for."""
        queue = Gauge("segzero_queue_length", "Requests that wait for the models.", registry=self.registry)
        queue.set_function(models.waiting)
        open_ones = Gauge("segzero_dialogues", "Dialogues that are kept.", registry=self.registry)
        open_ones.set_function(lambda: len(dialogues))
        held = Gauge("segzero_embedding_cache_bytes", "Encoded images that are kept.", registry=self.registry)
        held.set_function(lambda: sum(segmenter.cache.held for segmenter in models.remembering))
        self.registry.register(_Images(models))

    def text(self) -> bytes:
        """In Prometheus' own format."""
        return generate_latest(self.registry)


class _Images(Collector):
    def __init__(self, models: Models) -> None:
        self.segmenters = models.remembering

    def collect(self) -> list[Metric]:
        images = CounterMetricFamily("segzero_images", "Images encoded, or remembered.", labels=["how"])
        images.add_metric(["encoded"], sum(segmenter.encoded for segmenter in self.segmenters))
        images.add_metric(["remembered"], sum(segmenter.cache_hits for segmenter in self.segmenters))
        return [images]
