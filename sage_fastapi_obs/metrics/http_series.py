"""Counts HTTP requests: their numbers are kept together per label values.

Every request changes five metrics at once. A request only leaves its numbers here; they are added up many at a time, or at a
scrape, for a fraction of the cost of five separate instruments. No scrape sees a request that is counted but not timed.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
from threading import RLock
from typing import TypeAlias

from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from sage_fastapi_obs.catalog import REQUEST_LABELS, Metric
from sage_fastapi_obs.metrics.exposition.incremental import VersionedFamily
from sage_fastapi_obs.metrics.http_families import HttpFamilies
from sage_fastapi_obs.metrics.http_totals import NO_EXTREMES, ExemplarSource, LabelValues, Totals
from sage_fastapi_obs.metrics.registry_reader import Reading
from sage_fastapi_obs.processes import hold_at_fork
from sage_fastapi_obs.request.exchange import Exchange, Place

Numbers: TypeAlias = tuple[int | None, int, int, ExemplarSource | None, tuple[Place, int] | None]
"""Of one request: duration in microseconds, bytes received, bytes sent; no duration for a stream, which is timed elsewhere.

Where it stands in the slot of a worker: its place there, and its number.
"""
BATCH = 128
"""Requests that are added up together."""


class RequestSeries:
    """Requests of the same labels: method, route and status."""

    __slots__ = ("folded", "labels", "longest_us", "pending", "place", "read", "shortest_us", "totals")

    def __init__(self, labels: LabelValues, duration_buckets: int, size_buckets: int) -> None:
        self.labels = labels
        self.pending: list[Numbers] = []
        """Requests that have not been added up; appended without the lock, removed under it."""
        self.totals = Totals(duration_buckets, size_buckets)
        """Of the requests that have been added up."""
        self.folded = 0
        """Where requests are numbered: the number of the newest one that has been added up."""
        self.place = 0
        """Of the block in which the totals are saved; 0: they are not."""
        self.read = -1
        """Requests that there were at the last reading for the windows."""
        self.shortest_us, self.longest_us = NO_EXTREMES
        """The extremes since they were last taken, by the windows or by what saves the totals."""

    def take_extremes(self) -> tuple[float, float] | None:
        """Return the shortest and the longest duration since the last call, in seconds; None without any. Under the lock."""
        shortest, longest = self.shortest_us, self.longest_us
        self.shortest_us, self.longest_us = NO_EXTREMES
        return None if longest < shortest else (shortest / 1_000_000, longest / 1_000_000)


class HttpRequestSeries(Collector):
    """All request series, and the requests in flight."""

    component = "Requests"

    def __init__(self, total: Metric, duration: Metric, in_flight: Metric, received: Metric, sent: Metric) -> None:
        self.families = HttpFamilies(total, duration, in_flight, received, sent)
        """Shows the numbers."""
        self.in_flight_metric = in_flight
        if not in_flight.starts_at_zero:
            raise ValueError(f"all values of the labels of {in_flight.name} have to be known")
        # Reentrant: the garbage collector, which may run while numbers are copied, ends requests that were abandoned.
        self.lock = RLock()
        """Held while numbers are added up, and while they are read."""
        hold_at_fork(self.lock)
        self._adding = False
        self.in_flight: Callable[[], Iterable[Exchange]] = tuple
        """Lists the requests in flight."""
        self.save: Callable[[RequestSeries], None] | None = None
        """Called under the lock with each series that is new or has new totals."""
        self.free: Callable[[Iterable[Place]], None] = lambda _: None
        """Called with the places in the slot of requests that have been saved."""
        self._duration_bounds = duration.buckets
        self._size_bounds = received.buckets
        self._in_flight_labels = [label for label in REQUEST_LABELS if label.name in in_flight.labels]
        self._series: dict[LabelValues, RequestSeries] = {}

    def with_values(self, *values: str) -> RequestSeries:
        """Return the series of some label values, made when first asked for."""
        with self.lock:
            series = self._series.get(values)
            if series is None:
                series = RequestSeries(values, len(self._duration_bounds) + 1, len(self._size_bounds) + 1)
                self._series[values] = series
                if self.save is not None:
                    self.save(series)
            return series

    def series(self) -> list[RequestSeries]:
        """List all series that there are."""
        with self.lock:
            return [*self._series.values()]

    def collect(self) -> Iterator[Family]:
        """Yield all families with all samples."""
        for family, children in self.versioned():
            family.samples = [sample for _, _, samples in children for sample in samples()]
            yield family

    def describe(self) -> Iterator[Family]:
        """Yield all families without samples."""
        return self.families.describe()

    def versioned(self) -> Iterator[VersionedFamily]:
        """Yield all families, each with what a scrape may remember of it."""
        series = self.series()
        return self.families.versioned(((one.labels, self._added_up(one)) for one in series), self.in_flight_counts)

    def readings(self) -> Iterator[Reading]:
        """Yield what has changed since the reading before; the extremes begin anew with each, so there is one reader."""
        every = self.series()
        changed = [series for series in every if series.pending or series.totals.requests != series.read]
        extremes = [(series.labels, *found) for series in changed if (found := self._read(series)) is not None]
        totals = [(series.labels, series.totals) for series in changed]
        others = ((series.labels, series.totals) for series in every)
        return self.families.readings(totals, others, self.in_flight_counts(), extremes)

    def in_flight_counts(self) -> list[tuple[LabelValues, int]]:
        """Count the requests in flight, for all values of the labels."""
        counts = Counter(tuple([label.value_of(exchange) for label in self._in_flight_labels]) for exchange in self.in_flight())
        return [(labels, counts[labels]) for labels in product(*(label.values for label in self._in_flight_labels))]

    def _read(self, series: RequestSeries) -> tuple[float, float] | None:
        """Add up what is pending; return the shortest and the longest duration since this was last done."""
        with self.lock:
            self.add_up(series)
            series.read = series.totals.requests
            return series.take_extremes()

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
                if self.save is not None:
                    self._save(series, batch)
            finally:
                self._adding = False

    def add_up_all(self) -> None:
        """Add up whatever is pending."""
        for series in self.series():
            if series.pending:
                self.add_up(series)

    def _save(self, series: RequestSeries, batch: Sequence[Numbers]) -> None:
        """Save the totals, and only then free the requests that are in them."""
        done = [record for *_, record in batch if record is not None]
        series.folded = max([series.folded, *(number for _, number in done)])
        if self.save is not None:
            self.save(series)
        self.free([place for place, _ in done])

    def with_request(self, totals: Totals, request: Numbers) -> Totals:
        """Return totals with one more request."""
        return self._with(RequestSeries((), 0, 0), (request,), totals)

    def _with(self, series: RequestSeries, batch: Sequence[Numbers], totals: Totals | None = None) -> Totals:
        totals = (series.totals if totals is None else totals).copy()
        totals.requests += len(batch)
        for duration_us, received, sent, source, _ in batch:
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
