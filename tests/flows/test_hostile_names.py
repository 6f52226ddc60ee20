"""Names and label values that nobody can print, or that never end: each signal tells them in short, and nothing is lost."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from hypothesis import given
from hypothesis import strategies as st
from loguru import logger
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from prometheus_client import Counter
from prometheus_client.core import CounterMetricFamily, Exemplar
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.registry import Collector
from support import client

from sage_fastapi_obs import add_span_event, declare_counter, declare_gauge, declare_histogram, operation
from sage_fastapi_obs.clients.track import track_dependency
from sage_fastapi_obs.monitoring import (
    MetricType,
    collect_flux_result_metric,
    collect_metric,
    collect_result_metric,
    log_result_operation,
)
from sage_fastapi_obs.packs import sage
from sage_fastapi_obs.packs.business import api as business
from sage_fastapi_obs.packs.result import Failure, FluxResult
from sage_fastapi_obs.packs.textbook import api as textbook
from sage_fastapi_obs.privacy.printable import LONGEST, printable

HOSTILE = {
    "surrogate": "\ud800",
    "surrogates": "a\udcff" * 50_000,
    "control": "\0\r\n\x1b[31m\x7f",
    "direction": "\u202eevil\u2028",
    "huge": "x" * 100_000,
    "huge, wide": "é" * 100_000,
    "escapes": '\\"\n' * 100,
}
PACKS = ["http", "sage", "textbook", "business", "result", "dependencies"]
ORDERS = declare_counter("shop_orders_total", "Orders.", ["coupon"])
BASKETS = declare_gauge("shop_baskets", "Baskets.", ["coupon"])
VALUES = declare_histogram("shop_values", "Values.", ["coupon"])
FAMILIES = {
    *("operation_duration_seconds", "operations", "shop_orders", "shop_baskets", "shop_values", "collected", "x_seconds"),
    *("result_failure", "result_error_by_type", "flux_result_items", "orders_by_category", "textbooks_created"),
    *("active_learning_sessions", "ai_tokens_used", "dependency_calls", "redis_latency_seconds", "foreign"),
    *(
        "kafka_messages_produced",
        "request_errors",
        "http_requests",
        "http_request_duration_seconds",
        "http_stream_duration_seconds",
    ),
}


def tell(bad: str) -> None:
    """Put a text wherever a name or the value of a label goes."""
    with operation(bad, **{bad: bad}) as run:
        logger.bind(**{bad: bad}).info("working")
        run.set(**{bad: bad}).event(bad, **{bad: bad}).fail(bad)
    add_span_event(bad, **{bad: bad})
    log_result_operation(bad, span=True)(lambda: Failure(bad))()
    for system in (bad, "redis", "kafka"):
        with track_dependency(system, bad):
            pass
    with sage.trace_request(bad), sage.observe_crypto(bad, bad), sage.observe_session_operation(bad):
        pass
    ORDERS.inc(coupon=bad)
    BASKETS.set(1, coupon=bad)
    VALUES.observe(1, coupon=bad)
    collect_metric("collected_total", 1, MetricType.COUNTER, {"label": bad, bad: "x"})
    collect_metric(bad, 1, MetricType.GAUGE)
    collect_metric(f"{bad}.duration_ms", 1, MetricType.HISTOGRAM)
    collect_metric("x_ms", 1, MetricType.HISTOGRAM, {"operation": bad})
    collect_result_metric(bad, Failure(ValueError(bad)), 1, {"service": bad})
    collect_flux_result_metric(bad, FluxResult((Failure(bad),)), 1)
    business.order_processed(1, bad)
    textbook.textbook_created(bad, bad)
    textbook.ai_tokens_used(bad, bad, 1)
    textbook.learning_session(bad).start()


def build(watched: Any, bad: str) -> FastAPI:
    """Build an app that tells a text, in a request and in a stream that fails by it."""
    app = FastAPI()
    watched.obs.install(app)
    foreign = Counter("foreign_total", "Of the application's own.", ["coupon"], registry=watched.obs.registry)

    @app.get("/tell")
    def read(text: str = "plain") -> None:
        tell(bad if text == "bad" else text)
        foreign.labels(text[:10]).inc()

    @app.get("/stream")
    def stream() -> StreamingResponse:
        def chunks() -> Iterator[bytes]:
            yield b"one"
            raise type(bad[:1000].replace("\0", ""), (Exception,), {})

        return StreamingResponse(chunks())

    return app


@pytest.mark.parametrize("bad", HOSTILE.values(), ids=HOSTILE)
async def test_every_family_and_span_survives(watch, bad):
    """Beside a plain value, each family has the hostile one in short; each span can be sent; the lines are JSON, and agree."""
    watched = watch(metrics={"packs": PACKS})
    async with watched.obs, client(build(watched, bad)) as http:
        for query in ("", "?text=bad"):
            assert (await http.get(f"/tell{query}")).status_code == 200
        await http.get("/stream")
        text = (await http.get("/metrics")).text
        openmetrics = (await http.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})).text
    families = {family.name: family for family in parse_text(text)}
    assert families.keys() >= FAMILIES
    assert {family.name for family in parse_openmetrics(openmetrics)} >= FAMILIES
    told = {value for family in families.values() for sample in family.samples for value in sample.labels.values()}
    assert all(len(value) <= LONGEST and value.isprintable() for value in told)
    assert {"plain", printable(bad)} <= told
    assert all(family.documentation.isprintable() for family in families.values())
    assert len(text) < 200_000
    assert watched.obs.internal_errors.counts.keys() <= {"collect_metric"}
    encode_spans(watched.spans)
    names = {span.name for span in watched.spans} | {event.name for span in watched.spans for event in span.events}
    assert all(len(name) <= LONGEST and name.isprintable() for name in names)
    assert {"plain", printable(bad)} <= names
    assert {line["operation"] for line in watched.lines if line["message"] == "working"} == {"plain", printable(bad)}


async def test_a_hostile_session_can_end(watch):
    """What has risen by a value that is told in short falls by the same value."""
    watched = watch(metrics={"packs": ["textbook"]})
    async with watched.obs:
        for bad in HOSTILE.values():
            with textbook.learning_session(bad):
                assert watched.value("active_learning_sessions", textbook_id=printable(bad)) == 1
        assert watched.series("active_learning_sessions") == {}


async def test_different_hostile_values_do_not_grow_without_end(watch):
    """Those that are alike in short are one series, and the limit of values holds for the others."""
    watched = watch(metrics={"max_label_values": 10})
    async with watched.obs:
        for number in range(100):
            ORDERS.inc(coupon="x" * 1_000 + str(number))
            BASKETS.set(1, coupon=f"{number}\ud800" + "x" * 1_000)
    assert watched.series("shop_orders_total") == {(("coupon", "x" * (LONGEST - 1) + "…"),): 100}
    assert len(watched.series("shop_baskets")) == 11


class Timed(Collector):
    """A collector of which the library writes the samples itself, as they have a time."""

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily("timed", "Timed.", labels=["coupon"])
        family.add_metric(["a\ud800"], 1, timestamp=1, exemplar=Exemplar({"id": "\ud800"}, 1))
        yield family


async def test_an_instrument_of_the_applications_own_keeps_its_family(watch):
    """A surrogate in a label of the client library's own instrument costs the page nothing but that character."""
    watched, app = watch(), FastAPI()
    watched.obs.install(app)
    for suffix in ("", "\ud800"):
        own = Counter(f"own{len(suffix)}_total", f"Own{suffix}.", ["coupon"], registry=watched.obs.registry)
        own.labels("plain").inc(exemplar={"id": "1\ud800"})
        own.labels("a\ud800").inc()
    watched.obs.registry.register(Timed())
    async with client(app) as http:
        for accept in ("", "application/openmetrics-text; version=1.0.0"):
            page = (await http.get("/metrics", headers={"accept": accept})).text
            for name in ("own0", "own1"):
                assert f'{name}_total{{coupon="plain"}} 1.0' in page
                assert f'{name}_total{{coupon="a?"}} 1.0' in page
            assert 'timed_total{coupon="a?"} 1.0 ' in page
    assert watched.obs.internal_errors.counts == {}


@given(st.text(st.characters(exclude_categories=[])))
def test_a_name_is_short_and_printable_and_itself_if_it_was(text):
    """Whatever it is, it can be written as UTF-8 on one row, and saying it again changes nothing."""
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown) <= LONGEST
    assert printable(shown) == shown
    assert shown.encode().decode() == shown
    assert (shown == text) == (text.isprintable() and len(text) <= LONGEST)


def test_a_cut_is_marked():
    """Of what is too long, the beginning is there and a mark; white space is a space."""
    assert printable("x" * LONGEST) == "x" * LONGEST
    assert printable("x" * (LONGEST + 1)) == "x" * (LONGEST - 1) + "…"
    assert printable("a\tb\nc\0d") == "a b c�d"
    assert printable(7) == "7"
