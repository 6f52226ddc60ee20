"""Histograms lead to the trace of what they have observed, whoever has observed it."""

import asyncio

from fastapi import BackgroundTasks, FastAPI
from fastapi.responses import StreamingResponse
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from support import Watched, client

from sage_fastapi_obs import declare_histogram, operation
from sage_fastapi_obs.catalog import PACKS
from sage_fastapi_obs.monitoring import MetricType, collect_metric
from sage_fastapi_obs.operations.count import observe
from sage_fastapi_obs.packs import sage

OF_PACKS = [
    metric
    for pack, metrics in PACKS.items()
    if pack not in ("http", "runtime")
    for metric in metrics
    if metric.type == "histogram"
]
BASKETS = declare_histogram("shop_baskets_value", "Value of baskets.", buckets=(1, 10))
ALL_PACKS = [pack for pack in PACKS if pack != "sage-core"]


def use_everything() -> None:
    """Observe in each histogram of each pack, and in histograms of one's own, in each of the ways that there are."""
    for metric in OF_PACKS:
        observe(metric.name, 0.5, *[(values or ("x",))[0] for values in metric.labels.values()])
    collect_metric("kitchen_wait_seconds", 0.5, MetricType.HISTOGRAM)
    BASKETS.observe(3)
    with sage.observe_handshake("server") as handshake, handshake.stage("init"), operation("cook"):
        pass
    with sage.observe_session_operation("decrypt", 5), sage.observe_message("text", 300):
        pass


def with_exemplars(watched: Watched) -> dict[str, set[str]]:
    """List the names of histograms that lead to traces, with the ids of these."""
    found: dict[str, set[str]] = {}
    for family in watched.obs.registry.collect():
        for sample in family.samples:
            if sample.exemplar is not None:
                found.setdefault(family.name, set()).add(sample.exemplar.labels["trace_id"])
    return found


async def one_request(watched: Watched) -> None:
    """Send one that does everything."""
    app = FastAPI()
    watched.obs.install(app)

    @app.get("/")
    async def work() -> None:
        use_everything()

    async with watched.obs, client(app) as c:
        assert (await c.get("/")).status_code == 200
    assert watched.obs.internal_errors.counts == {}


async def test_each_histogram_leads_to_the_trace_of_its_request(watch):
    """Those of every pack, of operations, of names and of declarations: they all name the one trace."""
    watched = watch(metrics={"packs": ALL_PACKS})
    await one_request(watched)
    found = with_exemplars(watched)
    (trace_id,) = {f"{span.context.trace_id:032x}" for span in watched.spans}
    own = {"operation_duration_seconds", "kitchen_wait_seconds", "shop_baskets_value", "http_request_duration_seconds"}
    assert found == {name: {trace_id} for name in {metric.name for metric in OF_PACKS} | own}


async def test_none_leads_to_a_trace_that_is_not_kept(watch):
    """A request that is not sampled leaves no exemplar, nor does one where they are switched off, nor work outside of any."""
    unsampled = watch(metrics={"packs": ALL_PACKS}, sampler=ALWAYS_OFF)
    await one_request(unsampled)
    switched_off = watch(metrics={"packs": ALL_PACKS, "exemplars": False})
    await one_request(switched_off)
    alone = watch(metrics={"packs": ALL_PACKS}, tracing={"enabled": False})
    async with alone.obs:
        for metric in OF_PACKS:
            observe(metric.name, 0.5, *[(values or ("x",))[0] for values in metric.labels.values()])
    assert [with_exemplars(one) for one in (unsampled, switched_off, alone)] == [{}, {}, {}]


async def test_an_exemplar_names_the_innermost_span(watch):
    """What is observed in a step leads to the span of this step, in tasks too, and a run with a span leads to its own."""
    watched = watch(metrics={"packs": ["sage"]})

    async def encrypt() -> None:
        with sage.trace_encryption("s1"), sage.observe_session_operation("encrypt", 5):
            pass

    async with watched.obs:
        with operation("outer"):
            await asyncio.create_task(encrypt())
    spans = {span.name: f"{span.context.span_id:016x}" for span in watched.spans}
    seen = {
        (sample.name.removesuffix("_bucket"), sample.exemplar.labels["span_id"])
        for family in watched.obs.registry.collect()
        for sample in family.samples
        if sample.exemplar is not None
    }
    assert seen == {
        ("sage_session_duration_seconds", spans["sage.session.encrypt"]),
        ("sage_session_message_size_bytes", spans["sage.session.encrypt"]),
        ("operation_duration_seconds", spans["outer"]),
    }


async def test_work_behind_a_response_leads_to_its_trace(watch):
    """Streams and background work are timed on their own, with the trace of their request."""
    watched, app = watch(), FastAPI()
    watched.obs.install(app)

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def parts():
            yield b"a"
            yield b"b"

        return StreamingResponse(parts())

    @app.get("/later")
    async def work(later: BackgroundTasks) -> None:
        later.add_task(asyncio.sleep, 0.01)

    async with watched.obs, client(app) as c:
        await c.get("/stream")
        await c.get("/later")
    assert {"http_stream_duration_seconds", "http_stream_first_byte_seconds", "http_background_duration_seconds"} <= {
        *with_exemplars(watched)
    }
