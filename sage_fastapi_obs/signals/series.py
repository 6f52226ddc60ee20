"""The numbers of HTTP requests: kept together per method, route and status, and shown to Prometheus as metric families.

Every request changes five metrics at once. Kept in one record behind one lock they cost a fraction of what as many separate
instruments do, and no scrape sees a request that is counted but not timed.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from threading import RLock
from typing import TypeAlias, TypeVar

from prometheus_client.core import Exemplar
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

from sage_fastapi_obs.signals.catalog import KNOWN_METHODS, OTHER_METHOD, Metric
from sage_fastapi_obs.signals.stamped import StampedChild, StampedFamily

__all__ = ["RequestSeries", "Requests", "Seen", "SizeSeries"]

Seen: TypeAlias = tuple[str, str, float, float]
"""Of an exemplar: trace id, span id, the value, and the Unix time."""


class SizeSeries:
    """Body sizes of one method and route."""

    __slots__ = ("received", "received_bytes", "requests", "sent", "sent_bytes")

    def __init__(self, buckets: int) -> None:
        self.requests = 0
        self.received_bytes = self.sent_bytes = 0
        self.received = [0] * buckets
        self.sent = [0] * buckets

    def copy(self) -> "SizeSeries":
        """Return the numbers as they are now."""
        copied = SizeSeries(0)
        copied.requests, copied.received_bytes, copied.sent_bytes = self.requests, self.received_bytes, self.sent_bytes
        copied.received, copied.sent = self.received[:], self.sent[:]
        return copied


class RequestSeries:
    """Requests of one method, route and status."""

    __slots__ = ("buckets", "duration_us", "exemplars", "requests", "sizes", "timed")

    def __init__(self, sizes: SizeSeries, buckets: int) -> None:
        self.requests = 0
        self.timed = 0
        """Requests of which the duration is here; streams are timed elsewhere."""
        self.duration_us = 0
        self.buckets = [0] * buckets
        self.exemplars: list[Seen | None] = [None] * buckets
        self.sizes = sizes

    def copy(self) -> "RequestSeries":
        """Return the numbers as they are now."""
        copied = RequestSeries(self.sizes, 0)
        copied.requests, copied.timed, copied.duration_us = self.requests, self.timed, self.duration_us
        copied.buckets, copied.exemplars = self.buckets[:], self.exemplars[:]
        return copied


_Copied = TypeVar("_Copied", RequestSeries, SizeSeries)


class Requests(Collector):
    """All request series, and the requests in flight."""

    def __init__(self, total: Metric, duration: Metric, in_flight: Metric, received: Metric, sent: Metric) -> None:
        # Reentrant: the garbage collector, which may run while numbers are copied, ends requests that were abandoned.
        self.lock = RLock()
        """Held while any of the numbers change, and while they are read."""
        self.in_flight = dict.fromkeys((*sorted(KNOWN_METHODS), OTHER_METHOD), 0)
        self.duration_bounds = duration.buckets
        self.size_bounds = received.buckets
        self._total, self._duration, self._in_flight, self._received, self._sent = total, duration, in_flight, received, sent
        self._series: dict[tuple[str, str, str], RequestSeries] = {}
        self._sizes: dict[tuple[str, str], SizeSeries] = {}

    def of(self, method: str, route: str, status: str) -> RequestSeries:
        """Return the series of some labels, made when first asked for."""
        with self.lock:
            series = self._series.get((method, route, status))
            if series is None:
                sizes = self._sizes.setdefault((method, route), SizeSeries(len(self.size_bounds) + 1))
                series = RequestSeries(sizes, len(self.duration_bounds) + 1)
                self._series[method, route, status] = series
            return series

    def collect(self) -> Iterator[Family]:
        """Yield all families with all samples."""
        for family, children in self.stamped():
            family.samples = [sample for _, _, samples in children for sample in samples()]
            yield family

    def describe(self) -> Iterator[Family]:
        """Yield all families without samples."""
        return (family for family, _ in self.stamped())

    def stamped(self) -> Iterator[StampedFamily]:
        """Yield all families, each with what a scrape may remember of it."""
        with self.lock:
            series, sizes = [*self._series.items()], [*self._sizes.items()]
        # Copied one by one, so that no request waits for all of them.
        copied = [(key, self._copy(child)) for key, child in series]
        yield _family(self._total), (self._counted(*child) for child in copied)
        yield _family(self._duration), (self._timed(*child) for child in copied if child[1].timed)
        yield _family(self._in_flight), (self._flying(method) for method in self.in_flight)
        copied_sizes = [(key, self._copy(child)) for key, child in sizes]
        yield _family(self._received), (self._received_by(*child) for child in copied_sizes)
        yield _family(self._sent), (self._sent_by(*child) for child in copied_sizes)

    def _copy(self, child: _Copied) -> _Copied:
        with self.lock:
            return child.copy()

    def _counted(self, key: tuple[str, str, str], series: RequestSeries) -> StampedChild:
        count = series.requests
        return key, count, lambda: [Sample(self._total.name, _labels(self._total, key), float(count))]

    def _timed(self, key: tuple[str, str, str], series: RequestSeries) -> StampedChild:
        seconds = series.duration_us / 1_000_000
        exemplars = series.exemplars
        return key, series.timed, lambda: _histogram(self._duration, key, series.buckets, seconds, exemplars)

    def _flying(self, method: str) -> StampedChild:
        count = self.in_flight[method]
        return method, count, lambda: [Sample(self._in_flight.name, {"method": method}, float(count))]

    def _received_by(self, key: tuple[str, str], sizes: SizeSeries) -> StampedChild:
        return key, sizes.requests, lambda: _histogram(self._received, key, sizes.received, sizes.received_bytes)

    def _sent_by(self, key: tuple[str, str], sizes: SizeSeries) -> StampedChild:
        return key, sizes.requests, lambda: _histogram(self._sent, key, sizes.sent, sizes.sent_bytes)


def _family(metric: Metric) -> Family:
    # As prometheus_client's own counters do, the family goes without the suffix that its samples have.
    return Family(metric.name.removesuffix("_total"), metric.help, metric.type, metric.unit)


def _labels(metric: Metric, values: Sequence[str]) -> dict[str, str]:
    return dict(zip(metric.labels, values, strict=True))


def _exemplar(seen: Seen) -> Exemplar:
    trace_id, span_id, value, at = seen
    return Exemplar({"trace_id": trace_id, "span_id": span_id}, value, at)


def _histogram(
    metric: Metric, key: Sequence[str], buckets: Sequence[int], total: float, seen: Sequence[Seen | None] = ()
) -> list[Sample]:
    labels = _labels(metric, key)
    bounds = [*map(floatToGoString, metric.buckets), "+Inf"]
    counts = [*accumulate(buckets)]
    exemplars = [one and _exemplar(one) for one in seen or [None] * len(buckets)]
    return [
        *(
            Sample(f"{metric.name}_bucket", {**labels, "le": bound}, float(count), None, exemplar)
            for bound, count, exemplar in zip(bounds, counts, exemplars, strict=True)
        ),
        Sample(f"{metric.name}_count", labels, float(counts[-1])),
        Sample(f"{metric.name}_sum", labels, float(total)),
    ]
