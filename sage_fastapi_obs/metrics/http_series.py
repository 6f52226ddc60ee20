"""The numbers of HTTP requests: kept together per label values, and shown to Prometheus as metric families.

Every request changes five metrics at once. A request only leaves its numbers here; they are added up many at a time, or at a
scrape, for a fraction of the cost of five separate instruments. No scrape sees a request that is counted but not timed.
"""

import sys
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import accumulate, product, starmap
from operator import attrgetter, itemgetter
from threading import RLock
from typing import TypeAlias

from prometheus_client.core import Exemplar
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

from sage_fastapi_obs.catalog import REQUEST_LABELS, Metric
from sage_fastapi_obs.metrics.exposition.incremental import VersionedChild, VersionedFamily
from sage_fastapi_obs.metrics.registry_reader import Child, Reading
from sage_fastapi_obs.request.exchange import Exchange

LabelValues: TypeAlias = tuple[str, ...]
ExemplarSource: TypeAlias = tuple[str, str, int]
"""Of a sampled request: trace id, span id, and the Unix time of its start in nanoseconds."""
Numbers: TypeAlias = tuple[int | None, int, int, ExemplarSource | None]
"""Of one request: duration in microseconds, bytes received, bytes sent; no duration for a stream, which is timed elsewhere."""
Exemplified: TypeAlias = tuple[ExemplarSource, float]
BATCH = 128
"""Requests that are added up together."""
_NOTHING = (sys.maxsize, -1)
"""Shortest and longest duration without any request."""
_RECEIVED, _SENT = attrgetter("received_bytes", "received"), attrgetter("sent_bytes", "sent")


class Totals:
    """The numbers of requests up to some moment.

    Never changed once others can see them, so that a page of one moment needs no copies: those of thousands of series would
    have the garbage collector walk through the whole heap during every scrape.
    """

    __slots__ = (
        "duration_us",
        "durations",
        "exemplars",
        "received",
        "received_bytes",
        "requests",
        "sent",
        "sent_bytes",
        "timed",
    )

    def __init__(self, duration_buckets: int, size_buckets: int) -> None:
        self.requests = 0
        self.timed = 0
        """Requests of which the duration is here; streams are timed elsewhere."""
        self.duration_us = 0
        self.durations = [0] * duration_buckets
        self.exemplars: list[Exemplified | None] = [None] * duration_buckets
        self.received_bytes = self.sent_bytes = 0
        self.received = [0] * size_buckets
        self.sent = [0] * size_buckets

    def copy(self) -> "Totals":
        """Return the same numbers, to be added to."""
        copied = Totals(0, 0)
        copied.requests, copied.timed, copied.duration_us = self.requests, self.timed, self.duration_us
        copied.durations, copied.exemplars = self.durations[:], self.exemplars[:]
        copied.received_bytes, copied.sent_bytes = self.received_bytes, self.sent_bytes
        copied.received, copied.sent = self.received[:], self.sent[:]
        return copied


class RequestSeries:
    """Requests of the same labels: method, route and status."""

    __slots__ = ("longest_us", "pending", "read", "shortest_us", "totals")

    def __init__(self, duration_buckets: int, size_buckets: int) -> None:
        self.pending: list[Numbers] = []
        """Requests that have not been added up; appended without the lock, removed under it."""
        self.totals = Totals(duration_buckets, size_buckets)
        """Of the requests that have been added up."""
        self.read = -1
        """Requests that there were at the last reading for the windows."""
        self.shortest_us, self.longest_us = _NOTHING
        """The extremes since they were last read by the windows."""


class HttpRequestSeries(Collector):
    """All request series, and the requests in flight."""

    component = "Requests"

    def __init__(self, total: Metric, duration: Metric, in_flight: Metric, received: Metric, sent: Metric) -> None:
        if duration.labels != total.labels:
            raise ValueError(f"{duration.name} and {total.name} have to have the same labels")
        if not in_flight.starts_at_zero:
            raise ValueError(f"all values of the labels of {in_flight.name} have to be known")
        # Reentrant: the garbage collector, which may run while numbers are copied, ends requests that were abandoned.
        self.lock = RLock()
        """Held while numbers are added up, and while they are read."""
        self._adding = False
        self.in_flight: set[Exchange] = set()
        self._duration_bounds = duration.buckets
        self._size_bounds = received.buckets
        self._total, self._duration, self._in_flight, self._received, self._sent = total, duration, in_flight, received, sent
        self._size_labels = _chooser(total, received)
        self._in_flight_labels = [label for label in REQUEST_LABELS if label.name in in_flight.labels]
        self._series: dict[LabelValues, RequestSeries] = {}

    def with_values(self, *values: str) -> RequestSeries:
        """Return the series of some label values, made when first asked for."""
        with self.lock:
            series = self._series.get(values)
            if series is None:
                series = RequestSeries(len(self._duration_bounds) + 1, len(self._size_bounds) + 1)
                self._series[values] = series
            return series

    def collect(self) -> Iterator[Family]:
        """Yield all families with all samples."""
        for family, children in self.versioned():
            family.samples = [sample for _, _, samples in children for sample in samples()]
            yield family

    def describe(self) -> Iterator[Family]:
        """Yield all families without samples."""
        return map(_family, (self._total, self._duration, self._in_flight, self._received, self._sent))

    def versioned(self) -> Iterator[VersionedFamily]:
        """Yield all families, each with what a scrape may remember of it."""
        with self.lock:
            labels, kept = [*self._series], [*self._series.values()]
        totals: list[Totals] = []
        counted = self._each_counted(labels, kept, totals)
        yield _family(self._total), counted
        # Whoever did not look at those wants the others all the same.
        deque(counted, maxlen=0)
        sizes = self._by_sizes(zip(labels, totals, strict=True))
        timed = ((each, total) for each, total in zip(labels, totals, strict=True) if total.timed)
        yield _family(self._duration), starmap(self._timed, timed)
        yield _family(self._in_flight), self._flying()
        yield _family(self._received), starmap(self._received_sizes, sizes.items())
        yield _family(self._sent), starmap(self._sent_sizes, sizes.items())

    def readings(self) -> Iterator[Reading]:
        """Yield what has changed since the reading before; the extremes begin anew with each, so there is one reader."""
        with self.lock:
            kept = [*self._series.items()]
        changed = [(labels, series) for labels, series in kept if series.pending or series.totals.requests != series.read]
        extremes = [(labels, *longest) for labels, series in changed if (longest := self._read(series)) is not None]
        totals = [(labels, series.totals) for labels, series in changed]
        yield _reading(self._total, [(labels, (float(total.requests),)) for labels, total in totals])
        timed = [(labels, (total.duration_us / 1_000_000, *total.durations)) for labels, total in totals if total.timed]
        yield _reading(self._duration, timed, extremes)
        yield _reading(self._in_flight, [(labels, (float(count),)) for labels, count in self._in_flight_counts()])
        of_changed = {self._size_labels(labels) for labels, _ in changed}
        sizes = self._by_sizes((labels, series.totals) for labels, series in kept if self._size_labels(labels) in of_changed)
        yield _reading(self._received, [_sizes(labels, each, _RECEIVED) for labels, each in sizes.items()])
        yield _reading(self._sent, [_sizes(labels, each, _SENT) for labels, each in sizes.items()])

    def _read(self, series: RequestSeries) -> tuple[float, float] | None:
        """Add up what is pending; return the shortest and the longest duration since this was last done."""
        with self.lock:
            self.add_up(series)
            series.read = series.totals.requests
            shortest, longest = series.shortest_us, series.longest_us
            series.shortest_us, series.longest_us = _NOTHING
        return None if longest < shortest else (shortest / 1_000_000, longest / 1_000_000)

    def _added_up(self, series: RequestSeries) -> Totals:
        if series.pending:
            self.add_up(series)
        return series.totals

    def add_up(self, series: RequestSeries) -> None:
        """Add up what is pending."""
        with self.lock:
            if self._adding:
                # By this very thread: the garbage collector has ended a request meanwhile. It is added up the next time.
                return
            self._adding = True
            try:
                # As many as there are now; more may be appended meanwhile.
                batch = series.pending[:]
                del series.pending[: len(batch)]
                series.totals = self._with(series, batch)
            finally:
                self._adding = False

    def _with(self, series: RequestSeries, batch: Sequence[Numbers]) -> Totals:
        totals = series.totals.copy()
        totals.requests += len(batch)
        for duration_us, received, sent, source in batch:
            if duration_us is not None:
                self._add_duration(totals, duration_us, source)
            totals.received_bytes += received
            totals.received[bisect_left(self._size_bounds, received)] += 1
            totals.sent_bytes += sent
            totals.sent[bisect_left(self._size_bounds, sent)] += 1
        durations = [numbers[0] for numbers in batch if numbers[0] is not None]
        series.longest_us = max([series.longest_us, *durations])
        series.shortest_us = min([series.shortest_us, *durations])
        return totals

    def _add_duration(self, totals: Totals, duration_us: int, source: ExemplarSource | None) -> None:
        seconds = duration_us / 1_000_000
        bucket = bisect_left(self._duration_bounds, seconds)
        totals.timed += 1
        totals.duration_us += duration_us
        totals.durations[bucket] += 1
        if source is not None:
            totals.exemplars[bucket] = (source, seconds)

    def _each_counted(
        self, labels: Sequence[LabelValues], series: Sequence[RequestSeries], totals: list[Totals]
    ) -> Iterator[VersionedChild]:
        """Yield the counts of all series, and keep their totals: one by one, so that no request waits for all of them."""
        for own, each in zip(labels, series, strict=True):
            totals.append(self._added_up(each))
            yield self._counted(own, totals[-1])

    def _counted(self, labels: LabelValues, totals: Totals) -> VersionedChild:
        count = totals.requests
        return labels, count, lambda: [Sample(self._total.name, _named(self._total, labels), float(count))]

    def _timed(self, labels: LabelValues, totals: Totals) -> VersionedChild:
        def samples() -> list[Sample]:
            seconds = totals.duration_us / 1_000_000
            return _histogram(self._duration, labels, totals.durations, seconds, totals.exemplars)

        return labels, totals.timed, samples

    def _flying(self) -> Iterator[VersionedChild]:
        for labels, count in self._in_flight_counts():
            sample = Sample(self._in_flight.name, _named(self._in_flight, labels), float(count))
            yield labels, sample.value, partial(list, [sample])

    def _in_flight_counts(self) -> list[tuple[LabelValues, int]]:
        counts = Counter(
            tuple([label.value_of(exchange) for label in self._in_flight_labels]) for exchange in self.in_flight.copy()
        )
        return [(labels, counts[labels]) for labels in product(*(label.values for label in self._in_flight_labels))]

    def _by_sizes(self, totals: Iterable[tuple[LabelValues, Totals]]) -> dict[LabelValues, list[Totals]]:
        """Put together what differs only in labels that sizes do not have: all statuses of a route."""
        found: dict[LabelValues, list[Totals]] = {}
        for labels, each in totals:
            found.setdefault(self._size_labels(labels), []).append(each)
        return found

    def _received_sizes(self, labels: LabelValues, totals: list[Totals]) -> VersionedChild:
        def samples() -> list[Sample]:
            buckets = [sum(counts) for counts in zip(*(one.received for one in totals), strict=True)]
            return _histogram(self._received, labels, buckets, sum(one.received_bytes for one in totals))

        return labels, sum(one.requests for one in totals), samples

    def _sent_sizes(self, labels: LabelValues, totals: list[Totals]) -> VersionedChild:
        def samples() -> list[Sample]:
            buckets = [sum(counts) for counts in zip(*(one.sent for one in totals), strict=True)]
            return _histogram(self._sent, labels, buckets, sum(one.sent_bytes for one in totals))

        return labels, sum(one.requests for one in totals), samples


def _chooser(every: Metric, some: Metric) -> Callable[[LabelValues], LabelValues]:
    """Return a function that chooses the labels of a metric among those of another."""
    names = [*every.labels]
    places = [names.index(label) for label in some.labels]
    return itemgetter(*places) if len(places) > 1 else lambda labels: tuple([labels[place] for place in places])


def _reading(
    metric: Metric, children: Iterable[Child], extremes: Iterable[tuple[tuple[str, ...], float, float]] = ()
) -> Reading:
    return Reading(metric.name, metric.type, tuple(metric.labels), metric.buckets, children, extremes)


def _sizes(labels: tuple[str, ...], totals: list[Totals], sizes_of: Callable[[Totals], tuple[int, list[int]]]) -> Child:
    sums, counts = zip(*map(sizes_of, totals), strict=True)
    return labels, (sum(sums), *map(sum, zip(*counts, strict=True)))


def _family(metric: Metric) -> Family:
    # As prometheus_client's own counters do, the family goes without the suffix that its samples have.
    return Family(metric.name.removesuffix("_total"), metric.help, metric.type, metric.unit)


def _named(metric: Metric, values: Sequence[str]) -> dict[str, str]:
    return dict(zip(metric.labels, values, strict=True))


def _exemplar(exemplified: Exemplified) -> Exemplar:
    (trace_id, span_id, wall_ns), seconds = exemplified
    return Exemplar({"trace_id": trace_id, "span_id": span_id}, seconds, wall_ns / 1_000_000_000 + seconds)


def _histogram(
    metric: Metric, key: Sequence[str], buckets: Sequence[int], total: float, exemplified: Sequence[Exemplified | None] = ()
) -> list[Sample]:
    labels = _named(metric, key)
    bounds = [*map(floatToGoString, metric.buckets), "+Inf"]
    counts = [*accumulate(buckets)]
    exemplars = [one and _exemplar(one) for one in exemplified or [None] * len(buckets)]
    return [
        *(
            Sample(f"{metric.name}_bucket", {**labels, "le": bound}, float(count), None, exemplar)
            for bound, count, exemplar in zip(bounds, counts, exemplars, strict=True)
        ),
        Sample(f"{metric.name}_count", labels, float(counts[-1])),
        Sample(f"{metric.name}_sum", labels, float(total)),
    ]
