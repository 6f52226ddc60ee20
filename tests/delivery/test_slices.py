"""Encoding a batch lets other threads run in between."""

import time
from typing import Any

import orjson
import pytest
from prometheus_client import CollectorRegistry, Histogram

from sage_fastapi_obs.delivery.queued_sender import Entry
from sage_fastapi_obs.internal_errors import InternalErrors
from sage_fastapi_obs.logs.outputs import otlp
from sage_fastapi_obs.metrics import otlp_push
from sage_fastapi_obs.settings import LoggingSettings, ServiceSettings
from sage_fastapi_obs.threads import Slices


class CountingSlices(Slices):
    """Counts how often there was a rest."""

    rests = 0

    def rest_if_due(self) -> None:
        before = self._until
        super().rest_if_due()
        CountingSlices.rests += self._until != before


def lines() -> Any:
    settings = LoggingSettings(otlp_endpoint="http://localhost:1/v1/logs")
    line = {"timestamp": "2026-11-29T18:53:48.448Z", "level": "info", "message": "said", "data": dict.fromkeys("abcdefgh", "x")}
    return otlp.Otlp(settings, ServiceSettings()), [Entry(0, orjson.dumps(line))] * 3_000


def metrics() -> Any:
    registry = CollectorRegistry()
    times = Histogram("job_seconds", "Time.", ["number"], registry=registry)
    for number in range(2_000):
        times.labels(str(number)).observe(1)
    return otlp_push._Registry("http://localhost:1/v1/metrics", ServiceSettings(), registry, InternalErrors()), ()


@pytest.mark.parametrize("made", [lines, metrics])
def test_the_interpreter_is_given_up_all_the_time(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """At least once in four milliseconds of work; on a busy machine more often."""
    for module in (otlp, otlp_push):
        monkeypatch.setattr(module, "Slices", CountingSlices)
    monkeypatch.setattr(CountingSlices, "rests", 0)
    destination, batch = made()
    monkeypatch.setattr(destination._collector, "send", lambda *_: 0)
    destination.prepare()
    destination.open()
    began = time.thread_time()
    destination.deliver(batch, 60.0)
    assert CountingSlices.rests >= (time.thread_time() - began) * 1_000 / 4 > 1
