"""What strangers send as trace context and baggage: read as OpenTelemetry reads it, without a line, and counted."""

import asyncio
import logging
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry import baggage, propagate, trace
from opentelemetry.sdk.trace import TracerProvider
from support import drive, http_scope, samples, times

from sage_fastapi_obs import Observability, Settings
from sage_fastapi_obs.request.exchange import Exchange
from sage_fastapi_obs.request.propagation_headers import DroppedHeaders, PropagatedHeaders

DROPPED = "observability_propagation_headers_dropped_total"
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = (b"traceparent", f"00-{TRACE}-{SPAN}-01".encode())
HOSTILE = {
    "many empty members": ("baggage", b"=," * 4_000),
    "many members without a value": ("baggage", b"a," * 4_000),
    "many members": ("baggage", b",".join(b"k%d=v" % number for number in range(1_000))),
    "a long member": ("baggage", b"k=" + b"v" * 8_000),
    "a long header": ("baggage", b"k=v," * 20_000),
    "no ASCII": ("baggage", "ключ=значение,".encode() * 200),
    "odd bytes": ("baggage", bytes(range(1, 256)) * 20),
    "properties": ("baggage", b"k=v" + b";" * 4_000),
    "spaces": ("baggage", b" \t" * 4_000 + b"="),
    "one that is wrong": ("tracestate", b"=,=,=," * 80),
    "state of many": ("tracestate", b",".join(b"k%d=v" % number for number in range(40))),
    "long state": ("tracestate", b"k=" + b"v" * 9_000),
    "long parent": ("traceparent", b"00-" + b"a" * 60_000),
    "no parent": ("traceparent", b"\xff\\N{"),
    "zeros": ("traceparent", b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01"),
}


class AppOfTheirs:
    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.seen.append(dict(baggage.get_all()))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_header_writes_nothing_and_is_counted_once(
    name: str, watch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither our lines nor anybody's handlers hear of it; the request's own line is the only one."""
    header, value = HOSTILE[name]
    watched = watch()
    app = FastAPI()
    app.mount("/", AppOfTheirs())
    watched.obs.install(app)
    headers = [(header.encode(), value), *([PARENT] if header == "tracestate" else [])]
    await drive(app, http_scope("/", headers=headers))
    assert [line["message"] for line in watched.lines] == ["observability started", "request completed"]
    assert [record for record in caplog.records if record.name.startswith("opentelemetry")] == []
    assert watched.value(DROPPED, header=header) == 1
    assert sum(watched.series(DROPPED).values()) == 1
    if header == "tracestate":
        assert watched.access[0]["trace_id"] == TRACE


async def test_what_is_well_formed_is_kept(watch: Any) -> None:
    """Also beside what is not, from several headers, with properties and with spaces."""
    watched = watch()
    theirs = AppOfTheirs()
    app = FastAPI()
    app.mount("/", theirs)
    watched.obs.install(app)
    await drive(app, http_scope("/", headers=[(b"baggage", b"a=1, b = two%20words ;p;q=3"), (b"baggage", b"=,c=3,\xff=4")]))
    (seen,) = theirs.seen
    assert {key: str(value).partition(";")[0].strip() for key, value in seen.items()} == {"a": "1", "b": "two words", "c": "3"}
    assert watched.value(DROPPED, header="baggage") == 1


async def test_whoever_reads_headers_outside_of_us_writes_nothing_either(watch: Any) -> None:
    """An instrumentation around us has OpenTelemetry warn of each member; its warnings are counted instead of written."""
    watched = watch()
    app = FastAPI()
    app.mount("/", AppOfTheirs())
    watched.obs.install(app)
    async with watched.obs:
        for header, value in (HOSTILE["many empty members"], HOSTILE["one that is wrong"]):
            propagate.extract({header: value.decode("latin-1"), "traceparent": PARENT[1].decode()})
        logging.getLogger("opentelemetry.sdk").warning("something else")
    assert [line["message"] for line in watched.lines] == ["observability started", "something else"]
    assert watched.value(DROPPED, header="baggage") > 100
    assert watched.value(DROPPED, header="tracestate") == 1


PARTS = st.sampled_from(
    [*"=,; \t%kv1", "a=1", "b=2;p", "=", ",,", "\xff", "%20", '"', "\\", "a@b=c", "a" * 300, f"00-{TRACE}-{SPAN}-01", "\x7f"]
)
TEXT = st.lists(PARTS, max_size=12).map("".join)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=times(100))
@given(headers=st.lists(st.tuples(st.sampled_from(["baggage", "tracestate", "traceparent"]), TEXT), max_size=4))
def test_headers_are_read_as_opentelemetry_reads_them(headers: list[tuple[str, str]], caplog: pytest.LogCaptureFixture) -> None:
    """With the same outcome for each member, and without a warning; what it would have warned of is counted."""
    request = Exchange(http_scope(headers=[(name.encode(), value.encode("latin-1")) for name, value in headers]), 0, 0)
    plain: dict[str, list[str]] = {}
    for name, value in headers:
        plain.setdefault(name, []).append(value)
    if "baggage" in plain:
        plain["baggage"] = [",".join(plain["baggage"])]
    caplog.clear()
    dropped = DroppedHeaders()
    ours = propagate.extract(request, getter=PropagatedHeaders(dropped))
    assert caplog.records == []
    theirs = propagate.extract(plain)
    told = {
        header for header in ("baggage", "tracestate") for record in caplog.records if header in record.getMessage().lower()
    }
    told |= {"tracestate" for record in caplog.records if record.name == "opentelemetry.trace.span"}
    assert {header for header, count in dropped.counts.items() if count} >= told
    context, expected = (trace.get_current_span(read).get_span_context() for read in (ours, theirs))
    assert (context.trace_id, context.span_id, context.trace_flags) == (
        *(expected.trace_id, expected.span_id, expected.trace_flags),
    )
    assert context.trace_state == expected.trace_state
    without_spaces = [
        {key: str(value).translate(str.maketrans("", "", " \t")) for key, value in baggage.get_all(read).items()}
        for read in (ours, theirs)
    ]
    assert without_spaces[0] == without_spaces[1]


def test_a_provider_of_others_is_watched_alike() -> None:
    """The headers are counted whoever's spans are used."""
    obs = Observability(Settings(logging={"enabled": False}), tracer_provider=TracerProvider(shutdown_on_exit=False))
    app = FastAPI()
    app.mount("/", AppOfTheirs())
    obs.install(app)
    asyncio.run(drive(app, http_scope("/", headers=[(b"baggage", b"=")])))
    asyncio.run(obs.close())
    assert samples(obs.registry, DROPPED)[("header", "baggage"),] == 1
