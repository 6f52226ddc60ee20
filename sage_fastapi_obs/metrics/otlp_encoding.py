"""Families of a registry as metrics of OTLP: cumulative, and by their Prometheus names."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from prometheus_client.core import Metric
from prometheus_client.samples import Exemplar, Sample

from sage_fastapi_obs.delivery.otlp_messages import OtlpMessages, missing_extra
from sage_fastapi_obs.metrics.exposition.library_exposition import without_created

_UNITS = {"seconds": "s", "bytes": "By"}
"""As OTLP writes what a name ends in."""


class MetricEncoder:
    """Makes messages of families."""

    def __init__(self, started_ns: int) -> None:
        """`started_ns`: since when everything is counted. Raises `SettingsError` where the extra is missing."""
        try:
            from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as service  # noqa: PLC0415 - an extra
            from opentelemetry.proto.metrics.v1 import metrics_pb2  # noqa: PLC0415
        except ImportError:
            raise missing_extra("metrics.otlp_endpoint") from None
        self.messages = OtlpMessages("metrics.otlp_endpoint")
        self.scope = self.messages.scope(name="sage_fastapi_obs")
        self.request, self.response = service.ExportMetricsServiceRequest, service.ExportMetricsServiceResponse
        self._types = metrics_pb2
        self._cumulative = metrics_pb2.AGGREGATION_TEMPORALITY_CUMULATIVE
        self._started_ns = started_ns
        self._kinds: dict[str, tuple[str, Callable[[str, Iterable[Sample], int], Iterator[Any]], dict[str, Any]]] = {
            "counter": ("sum", self._counts, {"is_monotonic": True, "aggregation_temporality": self._cumulative}),
            "gauge": ("gauge", self._values, {}),
            "unknown": ("gauge", self._values, {}),
            # What is always 1 is no measurement that could be averaged.
            "info": ("sum", self._counts, {"aggregation_temporality": self._cumulative}),
            "stateset": ("sum", self._counts, {"aggregation_temporality": self._cumulative}),
            "histogram": ("histogram", self._histograms, {"aggregation_temporality": self._cumulative}),
            "summary": ("summary", self._summaries, {}),
        }

    def points(self, family: Metric, children: Iterable[Iterable[Sample]], now_ns: int) -> Iterator[Any]:
        """Yield the points of a family; none for a type that OTLP lacks. `children`: samples, those of one child together."""
        kind = self._kinds.get(family.type)
        if kind is not None:
            for samples in children:
                yield from kind[1](family.name, without_created(family, samples), now_ns)

    def metric(self, family: Metric, points: Iterable[Any]) -> Any:
        """Return a metric with some points of a family."""
        field, _, options = self._kinds[family.type]
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        name = family.name.removesuffix(suffix) + suffix
        unit = next((unit for word, unit in _UNITS.items() if family.name.endswith(f"_{word}")), "")
        metric = self._types.Metric(name=name, description=_text(family.documentation), unit=unit)
        data = getattr(metric, field)
        data.SetInParent()
        for option, value in options.items():
            setattr(data, option, value)
        data.data_points.extend(points)
        return metric

    def _values(self, _: str, samples: Iterable[Sample], now_ns: int, started_ns: int = 0) -> Iterator[Any]:
        for sample in samples:
            yield self._types.NumberDataPoint(
                attributes=self._attributes(sample.labels),
                start_time_unix_nano=started_ns,
                time_unix_nano=_nanoseconds(sample.timestamp, now_ns),
                as_double=sample.value,
                exemplars=self._exemplars((sample.exemplar,), now_ns),
            )

    def _counts(self, name: str, samples: Iterable[Sample], now_ns: int) -> Iterator[Any]:
        return self._values(name, samples, now_ns, self._started_ns)

    def _histograms(self, name: str, samples: Iterable[Sample], now_ns: int) -> Iterator[Any]:
        for labels, child in _children(name, samples, "le").items():
            buckets = sorted((float(sample.labels["le"]), int(sample.value)) for sample in child.get("_bucket", ()))
            bounds = [bound for bound, _ in buckets if bound < math.inf]
            count = int(child["_count"][0].value) if "_count" in child else buckets[-1][1]
            cumulative = [0, *(below for _, below in buckets[: len(bounds)]), count]
            point = self._types.HistogramDataPoint(
                attributes=self._attributes(dict(labels)),
                start_time_unix_nano=self._started_ns,
                time_unix_nano=now_ns,
                count=count,
                bucket_counts=[above - below for below, above in pairwise(cumulative)],
                explicit_bounds=bounds,
                exemplars=self._exemplars((sample.exemplar for sample in child.get("_bucket", ())), now_ns),
            )
            if "_sum" in child:
                point.sum = child["_sum"][0].value
            yield point

    def _summaries(self, name: str, samples: Iterable[Sample], now_ns: int) -> Iterator[Any]:
        quantile = self._types.SummaryDataPoint.ValueAtQuantile
        for labels, child in _children(name, samples, "quantile").items():
            yield self._types.SummaryDataPoint(
                attributes=self._attributes(dict(labels)),
                start_time_unix_nano=self._started_ns,
                time_unix_nano=now_ns,
                count=int(sum(sample.value for sample in child.get("_count", ()))),
                sum=sum(sample.value for sample in child.get("_sum", ())),
                quantile_values=[
                    quantile(quantile=float(sample.labels["quantile"]), value=sample.value) for sample in child.get("", ())
                ],
            )

    def _attributes(self, labels: Mapping[str, str]) -> list[Any]:
        return self.messages.attributes({_text(name): _text(value) for name, value in labels.items()})

    def _exemplars(self, exemplars: Iterable[Exemplar | None], now_ns: int) -> Iterator[Any]:
        for exemplar in exemplars:
            if exemplar is None:
                continue
            labels = dict(exemplar.labels)
            trace_id, span_id = (_id(labels.pop(name, ""), size) for name, size in (("trace_id", 16), ("span_id", 8)))
            yield self._types.Exemplar(
                time_unix_nano=_nanoseconds(exemplar.timestamp, now_ns),
                as_double=exemplar.value,
                trace_id=trace_id,
                span_id=span_id,
                filtered_attributes=self._attributes(labels),
            )


def _children(family: str, samples: Iterable[Sample], leaving: str) -> dict[tuple[Any, ...], dict[str, list[Sample]]]:
    """Bring together the samples of each child, by the suffix of their names."""
    found: dict[tuple[Any, ...], dict[str, list[Sample]]] = {}
    for sample in samples:
        labels = tuple((name, value) for name, value in sample.labels.items() if name != leaving)
        found.setdefault(labels, {}).setdefault(sample.name.removeprefix(family), []).append(sample)
    return found


def _nanoseconds(timestamp: Any, now_ns: int) -> int:
    return now_ns if timestamp is None else int(float(timestamp) * 1_000_000_000)


def _id(text: str, size: int) -> bytes:
    try:
        found = bytes.fromhex(text)
    except ValueError:
        return b""
    return found if len(found) == size else b""


def _text(text: str) -> str:
    """Put `?` in place of what UTF-8 does not have: one such label would cost its whole family."""
    return text.encode("utf-8", "replace").decode()
