"""Exemplars of histograms: the span in which a number was seen, once it is known that the span is kept."""

import time
from typing import Any

from opentelemetry.trace import Span

from sage_fastapi_obs.metrics.exposition.prometheus_internals import set_exemplar
from sage_fastapi_obs.request.exchange import Exchange, current_exchange
from sage_fastapi_obs.request.innermost_span import span_ids
from sage_fastapi_obs.request.recorder import Recorder
from sage_fastapi_obs.retention_reasons import UNDECIDED


def observe_with_exemplar(series: Any, number: float, span: Span | None) -> None:
    """Add a number to a histogram with a span as its exemplar; in a request that is undecided, when it is kept."""
    ids, is_sampled = span_ids(span)
    series.observe(number, ids if is_sampled else None)
    exchange = current_exchange.get()
    if ids is None or is_sampled or exchange is None or exchange.kept != UNDECIDED or exchange.has_returned:
        return
    exchange.own_story.add_exemplar((series, number, ids, time.time()))


class KeptExemplars(Recorder):
    """Sets the exemplars of a request that turned out to be kept."""

    component = "Metrics"

    def request_finished(self, exchange: Exchange) -> None:
        """Set them, if its spans are there to be looked at."""
        story = exchange.story
        if story is None or not exchange.sampled:
            return
        for series, number, ids, at in story.exemplars:
            set_exemplar(series, number, ids, at)
        story.exemplars.clear()
