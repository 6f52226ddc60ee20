"""Shows the numbers of HTTP requests to Prometheus as metric families, and to the windows as readings."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import accumulate, starmap
from operator import attrgetter, itemgetter
from typing import TypeAlias

from prometheus_client.core import Exemplar
from prometheus_client.core import Metric as Family
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

from sage_fastapi_obs.catalog import Metric
from sage_fastapi_obs.metrics.exposition.incremental import VersionedChild, VersionedFamily
from sage_fastapi_obs.metrics.http_totals import Exemplified, LabelValues, Totals
from sage_fastapi_obs.metrics.registry_reader import Child, Reading

Series: TypeAlias = tuple[LabelValues, Totals]
"""The totals of some label values: method, route and status."""
Extremes: TypeAlias = Iterable[tuple[LabelValues, float, float]]
_RECEIVED, _SENT = attrgetter("received_bytes", "received"), attrgetter("sent_bytes", "sent")


class HttpFamilies:
    """The metrics of requests as they are shown."""

    def __init__(self, total: Metric, duration: Metric, in_flight: Metric | None, received: Metric, sent: Metric) -> None:
        """`in_flight`: None where that metric is shown elsewhere."""
        if duration.labels != total.labels:
            raise ValueError(f"{duration.name} and {total.name} have to have the same labels")
        self.total, self.duration, self.in_flight, self.received, self.sent = total, duration, in_flight, received, sent
        self._size_labels = _chooser(total, received)

    def describe(self) -> Iterator[Family]:
        """Yield all families without samples."""
        return map(_family, filter(None, (self.total, self.duration, self.in_flight, self.received, self.sent)))

    def versioned(
        self, series: Iterable[Series], in_flight: Callable[[], Iterable[tuple[LabelValues, int]]] = tuple
    ) -> Iterator[VersionedFamily]:
        """Yield all families, each with what a scrape may remember of it; all are of the moment when the first was read."""
        seen: list[Series] = []
        counted = self._each_counted(series, seen)
        yield _family(self.total), counted
        # Whoever did not look at those wants the others all the same.
        deque(counted, maxlen=0)
        sizes = self._by_sizes(seen)
        yield _family(self.duration), starmap(self._timed, ((labels, totals) for labels, totals in seen if totals.timed))
        if self.in_flight is not None:
            yield _family(self.in_flight), starmap(partial(_flying, self.in_flight), in_flight())
        yield _family(self.received), starmap(partial(self._sizes, self.received, _RECEIVED), sizes.items())
        yield _family(self.sent), starmap(partial(self._sizes, self.sent, _SENT), sizes.items())

    def readings(
        self,
        changed: Sequence[Series],
        every: Iterable[Series],
        in_flight: Iterable[tuple[LabelValues, int]] = (),
        extremes: Extremes = (),
    ) -> Iterator[Reading]:
        """Yield the readings of series that have changed; `every` series is needed for the sizes, which lack the status."""
        yield _reading(self.total, [(labels, (float(totals.requests),)) for labels, totals in changed])
        timed = [(labels, (totals.duration_us / 1_000_000, *totals.durations)) for labels, totals in changed if totals.timed]
        yield _reading(self.duration, timed, extremes)
        if self.in_flight is not None:
            yield _reading(self.in_flight, [(labels, (float(count),)) for labels, count in in_flight])
        of_changed = {self._size_labels(labels) for labels, _ in changed}
        sizes = self._by_sizes(one for one in every if self._size_labels(one[0]) in of_changed)
        yield _reading(self.received, [_size_numbers(labels, each, _RECEIVED) for labels, each in sizes.items()])
        yield _reading(self.sent, [_size_numbers(labels, each, _SENT) for labels, each in sizes.items()])

    def _each_counted(self, series: Iterable[Series], seen: list[Series]) -> Iterator[VersionedChild]:
        """Yield the counts of all series, and keep their totals: one by one, so that no request waits for all of them."""
        for labels, totals in series:
            seen.append((labels, totals))
            yield self._counted(labels, totals.requests)

    def _counted(self, labels: LabelValues, count: int) -> VersionedChild:
        return labels, count, lambda: [Sample(self.total.name, _named(self.total, labels), float(count))]

    def _timed(self, labels: LabelValues, totals: Totals) -> VersionedChild:
        def samples() -> list[Sample]:
            seconds = totals.duration_us / 1_000_000
            return _histogram(self.duration, labels, totals.durations, seconds, totals.exemplars)

        return labels, totals.timed, samples

    def _by_sizes(self, series: Iterable[Series]) -> dict[LabelValues, list[Totals]]:
        """Put together what differs only in labels that sizes do not have: all statuses of a route."""
        found: dict[LabelValues, list[Totals]] = {}
        for labels, each in series:
            found.setdefault(self._size_labels(labels), []).append(each)
        return found

    def _sizes(
        self, metric: Metric, of: Callable[[Totals], tuple[int, list[int]]], labels: LabelValues, totals: list[Totals]
    ) -> VersionedChild:
        def samples() -> list[Sample]:
            _, (total, *buckets) = _size_numbers(labels, totals, of)
            return _histogram(metric, labels, buckets, total)

        return labels, sum(one.requests for one in totals), samples


def _flying(in_flight: Metric, labels: LabelValues, count: int) -> VersionedChild:
    sample = Sample(in_flight.name, _named(in_flight, labels), float(count))
    return labels, sample.value, partial(list, [sample])


def _chooser(every: Metric, some: Metric) -> Callable[[LabelValues], LabelValues]:
    """Return a function that chooses the labels of a metric among those of another."""
    names = [*every.labels]
    places = [names.index(label) for label in some.labels]
    return itemgetter(*places) if len(places) > 1 else lambda labels: tuple([labels[place] for place in places])


def _reading(metric: Metric, children: Iterable[Child], extremes: Extremes = ()) -> Reading:
    return Reading(metric.name, metric.type, tuple(metric.labels), metric.buckets, children, extremes)


def _size_numbers(labels: LabelValues, totals: list[Totals], of: Callable[[Totals], tuple[int, list[int]]]) -> Child:
    sums, counts = zip(*map(of, totals), strict=True)
    return labels, (sum(sums), *map(sum, zip(*counts, strict=True)))


def _family(metric: Metric) -> Family:
    # As prometheus_client's own counters do, the family goes without the suffix that its samples have.
    return Family(metric.name.removesuffix("_total"), metric.help, metric.type, metric.unit)


def _named(metric: Metric, values: Sequence[str]) -> dict[str, str]:
    return dict(zip(metric.labels, values, strict=True))


def exemplar_of(exemplified: Exemplified) -> Exemplar:
    """Return an exemplar as the client library has it: its time is the end of the request."""
    (trace_id, span_id, wall_ns), seconds = exemplified
    return Exemplar({"trace_id": trace_id, "span_id": span_id}, seconds, wall_ns / 1_000_000_000 + seconds)


def exemplified_of(exemplar: Exemplar) -> Exemplified:
    """Undo `exemplar_of`."""
    started = float(exemplar.timestamp or 0.0) - exemplar.value
    return (exemplar.labels["trace_id"], exemplar.labels["span_id"], round(started * 1_000_000_000)), exemplar.value


def _histogram(
    metric: Metric, key: Sequence[str], buckets: Sequence[float], total: float, exemplified: Sequence[Exemplified | None] = ()
) -> list[Sample]:
    labels = _named(metric, key)
    bounds = [*map(floatToGoString, metric.buckets), "+Inf"]
    counts = [*accumulate(buckets)]
    exemplars = [one and exemplar_of(one) for one in exemplified or [None] * len(buckets)]
    return [
        *(
            Sample(f"{metric.name}_bucket", {**labels, "le": bound}, float(count), None, exemplar)
            for bound, count, exemplar in zip(bounds, counts, exemplars, strict=True)
        ),
        Sample(f"{metric.name}_count", labels, float(counts[-1])),
        Sample(f"{metric.name}_sum", labels, float(total)),
    ]
