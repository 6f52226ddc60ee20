"""Spans of requests that have an explanation say it, too."""

from collections.abc import Callable

from fastapi import FastAPI
from support import Watched, client
from test_time_split import Stopped, exact

from sage_fastapi_obs.tracing.span_encoding import encode_span


@exact
async def test_a_span_says_why_and_where_the_time_went(watch: Callable[..., Watched]) -> None:
    """In the words of the line, and also as OTLP; a quick request has none of it."""
    clock, app = Stopped(), FastAPI()
    watched = watch(clock=clock, tracing={"slow_seconds": 0.5})

    @app.get("/{milliseconds}")
    async def read(milliseconds: int) -> None:
        clock.take(milliseconds)

    watched.obs.install(app)
    async with watched.obs, client(app) as visitor:
        await visitor.get("/900")
        await visitor.get("/1")
    slow, quick = watched.server_spans
    assert slow.attributes is not None
    assert quick.attributes is not None
    line = watched.access[0]
    assert list(slow.attributes["sage.why"]) == line["why"]  # type: ignore[arg-type]
    assert slow.attributes["sage.cause"] == line["cause"]
    parts = {name: slow.attributes[f"sage.timings.{name}_ms"] for name in ("dependencies", "endpoint", "serialization")}
    assert parts == line["timings"] == {"dependencies": 0, "endpoint": 900, "serialization": 0}
    assert not [name for name in quick.attributes if name.startswith(("sage.why", "sage.cause", "sage.timings"))]
    assert line["why"][0].encode() in encode_span(slow)
